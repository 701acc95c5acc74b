"""Voices are measured alike, whatever computes them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from headrace.store.errors import RunError, UsageError
from headrace.train.comparison import fresh_process
from headrace.train.comparison.measured_voices import Arrays, MeasuredVoice, check_codes, next_codes, open_voice
from headrace.train.deployment import onnx_export
from headrace.train.stages import gpt_losses
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import GPT, SOVITS


def utterances(count: int = 2) -> list[Arrays]:
    """Return utterances with all that a voice can read."""
    random = np.random.default_rng(2)
    return [
        {
            "spec": random.random((SOVITS.spec_bins, 20), np.float32),
            "phones": random.integers(0, 700, 5 + number),
            "codes": random.integers(0, 64, 9 + 4 * number),
            "bert": random.standard_normal((5 + number, GPT.bert_channels), np.float32),
            "speaker": random.standard_normal(SOVITS.speaker_channels, np.float32),
        }
        for number in range(count)
    ]


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[MeasuredVoice]:
    """The same weights in torch, from a file, and in ONNX."""
    monkeypatch.setattr(onnx_export, "load_networks", lambda path, at, log: onnx_voices.networks())
    (tmp_path / "weights.pth").write_bytes(bytes(1234))
    return [open_voice(path, "", 1) for path in (tmp_path / "weights.pth", onnx_voices.exported())]


def test_both_say_and_predict_the_same(voices: list[MeasuredVoice]) -> None:
    in_torch, in_onnx = voices
    assert (in_torch.runtime, in_onnx.runtime) == ("torch fp32", "onnx fp32")
    for utterance in utterances():
        noise = np.random.default_rng(0).standard_normal(
            (SOVITS.inter_channels, 2 * len(utterance["codes"])), np.float32
        )
        waves = [voice.decode(utterance, noise) for voice in voices]
        assert waves[0].shape == (len(utterance["codes"]) * 2 * SOVITS.hop,) and waves[0].std() > 1e-4
        np.testing.assert_allclose(*waves, atol=1e-5)
        predictions = [voice.predict(utterance) for voice in voices]
        assert predictions[0].shape == (len(utterance["codes"]) + 1, GPT.vocabulary)
        np.testing.assert_allclose(*predictions, atol=1e-4)
        voices[0].generate(utterance)


def test_sizes_are_those_of_what_speaks(voices: list[MeasuredVoice]) -> None:
    in_torch, in_onnx = voices
    files = [*onnx_voices.exported().glob("*.onnx"), onnx_voices.exported() / "gpt.safetensors"]
    assert (in_torch.size, in_onnx.size) == (1234, sum(file.stat().st_size for file in files))
    generator, decoder = onnx_voices.networks().generator, onnx_voices.networks().decoder
    assert generator is not None and decoder is not None
    assert in_torch.parameters == sum(p.numel() for one in (generator, decoder) for p in one.parameters())
    assert 0.5 * in_torch.parameters < in_onnx.parameters < 1.1 * in_torch.parameters
    assert in_torch.codebooks == in_onnx.codebooks == {"abc"}


def test_losses_are_those_of_training() -> None:
    random = torch.Generator().manual_seed(0)
    logits, codes = torch.randn(8, 11, generator=random), torch.randint(10, (7,), generator=random)
    targets, counted = gpt_losses.targets(codes[None], torch.tensor([7]), 10)
    expected = -gpt_losses.log_likelihood(logits[None], targets, counted)
    hits, count = gpt_losses.top_k_hits(logits[None], targets, 10)
    loss, found = next_codes(logits.numpy(), codes.numpy(), 10, fresh_process.LIKELIEST)
    assert loss == pytest.approx(float(expected), rel=1e-6) and found == int(hits) and 0 < found < int(count) == 7
    assert fresh_process.LIKELIEST == gpt_losses.TOP_K


def test_unknown_codes_phones_and_vectors_are_refused(voices: list[MeasuredVoice]) -> None:
    voice, path = voices[1], Path("V")
    check_codes(voice, path, "abc", utterances())
    check_codes(voice, path, "", utterances())
    with pytest.raises(UsageError, match=r"of another codebook \(def\) than those of V \(abc\)"):
        check_codes(voice, path, "def", utterances())
    for name, largest in (("codes", 64), ("phones", 732)):
        (one,) = utterances(1)
        with pytest.raises(UsageError, match=f"V knows {largest} {name}, and the store has {largest}"):
            check_codes(voice, path, "", [one, {**one, name: np.array([1, largest])}])
    (one,) = utterances(1)
    with pytest.raises(UsageError, match="reads speaker vectors of 6 numbers, and those of the store have 0"):
        check_codes(voice, path, "", [{name: one[name] for name in one if name != "speaker"}])


def test_the_loss_of_voices_is_that_of_every_code_and_every_end() -> None:
    loss, accuracy = fresh_process._predictions(
        lambda one: np.zeros((len(one["codes"]) + 1, GPT.vocabulary)), GPT, utterances()
    )
    assert loss == pytest.approx(math.log(GPT.vocabulary)) and accuracy == 1


def test_the_fewest_seconds_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, clock = iter([0.0, 3.0, 10.0, 12.0]), iter([0.0, 5.0, 10.0, 16.0])
    monkeypatch.setattr(fresh_process, "time", SimpleNamespace(process_time=cpu.__next__, perf_counter=clock.__next__))
    best: dict[str, np.ndarray] = {}
    for _ in range(2):
        fresh_process._keep_best(best, "gpt", 1, [9, 13], lambda: None)
    assert best["gpt"].tolist() == [[np.inf, 2.0], [np.inf, 5.0]]


@pytest.mark.slow
def test_costs_are_those_of_a_process_without_torch() -> None:
    found = fresh_process.measure_alone(onnx_voices.exported(), "", utterances(), "abc", threads=1, rounds=1)
    cost = found.cost
    assert [wave.shape for wave in found.waves] == [(len(one["codes"]) * 2 * SOVITS.hop,) for one in utterances()]
    assert cost.sovits_cpu_s and cost.gpt_cpu_s and cost.seconds > 0
    assert cost.speech_per_cpu_s == pytest.approx(1 / (cost.sovits_cpu_s + cost.gpt_cpu_s))
    assert cost.first_sound_s and 0 < cost.first_sound_s < 600
    assert 30e6 < cost.peak_bytes < 190e6  # torch alone takes more
    assert found.loss and found.loss > 1 and found.accuracy is not None and 0 <= found.accuracy <= 1
    with pytest.raises(RunError, match="is not of train export"):
        fresh_process.measure_alone(damaged(), "", utterances(), "", threads=1)


def damaged() -> Path:
    folder = onnx_voices.exported().parent / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "onnx.json").write_text("{}")
    return folder
