"""Times of phones by a network for CTC: the best way there is, at any batch, in exact samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from transformers import Wav2Vec2ForCTC

from headrace import store
from headrace.featurize.features import network_batches
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.forced_alignment import ctc_network
from headrace.featurize.forced_alignment.ctc_aligner import CtcAlign, CtcConfidence
from headrace.featurize.forced_alignment.ctc_network import CtcNetwork, FrameGrid, NetworkInput
from headrace.featurize.forced_alignment.ctc_path import best_path, token_sequence
from headrace.featurize.forced_alignment.ctc_vocabulary import Vocabulary
from headrace.featurize.forced_alignment.hmm_aligner import UNALIGNED_CONFIDENCE
from headrace.featurize.text import g2p, ipa
from headrace.featurize.text.symbols import ids
from headrace.store import alignment
from headrace.store.errors import UsageError
from headrace.store.integrity.verify import verify
from headrace.store.schema import FeatureSpec
from tests.helpers import networks
from tests.helpers.commands import add, build
from tests.helpers.corpora import make_tree

ARPABET = sorted({phone.rstrip("012") for phone in ipa.ARPABET})
LETTERS = ("|", *"'abcdefghijklmnopqrstuvwxyz")
HOP = 640


@pytest.fixture(scope="module")
def phonetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("phones")
    networks.ctc(made, ARPABET)
    return made


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("letters")
    networks.ctc(made, LETTERS)
    return made


def wave(frames: int, seed: int = 0) -> np.ndarray:
    """(frames, HOP) int16 of noise."""
    return np.random.default_rng(seed).normal(0, 2000, (frames, HOP)).astype(np.int16)


def part_of(
    waves: Sequence[np.ndarray],
    phones: Sequence[Any],
    rate: int = 32_000,
    texts: Sequence[str] = (),
    language: str = "en",
    **more: Any,
) -> Part:
    """Phones as symbols or, where there are texts, as these are read."""
    readings = [g2p.phonemise(one, language) for one in texts]
    numbers = [ids(one, "headrace-ipa") for one in ([reading.phones for reading in readings] if texts else phones)]
    words = [reading.phone_word for reading in readings] or [np.zeros(len(one), np.int16) for one in numbers]
    arrays = {
        "wave": list(waves),
        "phones": numbers,
        "phone_word": words,
        "phone_end": [np.full(len(one), -1, np.int32) for one in numbers],
        **more,
    }
    strings = {"frames": [len(one) for one in waves], "text": list(texts), "language": [language] * len(waves)}
    specs = {name: FeatureSpec(name=name, axis="phones", dtype="int32", channels=None) for name in arrays}
    specs["wave"] = FeatureSpec(
        name="wave", axis="frames", dtype="int16", channels=HOP, recipe={"sample_rate": rate, "hop": HOP}
    )
    return Part(specs, arrays.__getitem__, strings=strings.__getitem__)


def made(feature: Derived, part: Part) -> list[np.ndarray]:
    there = {**part.specs}
    there.setdefault("align", FeatureSpec(name="align", axis="phones", dtype="int32", channels=2))
    full = replace(part, specs={**there, feature.name: feature.spec(there)})
    return list(feature.rows(full))


def reference(log_probs: np.ndarray, tokens: Sequence[int]) -> float:
    """The score of the best way, by the recursion of Graves et al. over tokens with blanks between them."""
    chain = [0, *(state for token in tokens for state in (token, 0))]
    best = np.full(len(chain), -np.inf)
    best[:2] = log_probs[0, chain[:2]]
    for row in log_probs[1:]:
        skipped = [
            best[n - 2] if n > 1 and chain[n] and chain[n] != chain[n - 2] else -np.inf for n in range(len(chain))
        ]
        best = np.maximum.reduce([best, np.append(-np.inf, best[:-1]), skipped]) + row[chain]
    return float(max(best[-1], best[-2]))


def said(path: np.ndarray) -> list[int]:
    return [token for token, _ in groupby(path.tolist()) if token]


def test_the_way_is_the_best_there_is() -> None:
    random = np.random.default_rng(1)
    for frames in (6, 9, 40):
        for _ in range(10):
            log_probs = torch.from_numpy(random.normal(size=(frames, 7)) * 3).log_softmax(-1).numpy()
            tokens = random.integers(1, 7, 4).tolist()
            columns = np.unique([0, *tokens])
            emission = np.concatenate([log_probs[:, columns], log_probs.max(1, keepdims=True)], 1)
            way = best_path(emission.astype(np.float32), tokens, 0)
            wanted = reference(log_probs, tokens)
            if way is None:
                assert wanted == -np.inf
                continue
            assert said(way.tokens) == tokens
            assert log_probs[np.arange(frames), way.tokens].sum() == pytest.approx(wanted, abs=1e-4)
            assert way.gap == pytest.approx((wanted - log_probs.max(1).sum()) / frames, abs=1e-5) and way.gap <= 0


@pytest.mark.parametrize(
    "kind",
    [{}, {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True, "adapter_attn_dim": 8}],
    ids=["base", "large with adapters, as MMS"],
)
def test_a_network_in_a_batch_is_transformers_own_forward_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    networks.ctc(tmp_path, ARPABET, **kind)
    network = Wav2Vec2ForCTC.from_pretrained(tmp_path).eval()
    random = np.random.default_rng(2)
    waves = [wave(frames, frames) for frames in (20, 33, 34, 60)]
    phones = [random.choice(sorted(ipa.ARPABET), 5).tolist() for _ in waves]
    numbers = json.loads((tmp_path / "vocab.json").read_text())
    part = part_of(waves, phones)
    for budget in (1, 70, 10_000):
        monkeypatch.setattr(ctc_network, "BATCH", budget)
        times, gaps = made(CtcAlign(ctc=tmp_path), part), made(CtcConfidence(ctc=tmp_path), part)
        if budget == 1:
            alone = times
        for one, samples, own, single, gap in zip(phones, waves, times, alone, gaps, strict=True):
            assert np.array_equal(own, single)
            heard = soxr.resample(samples.reshape(-1) / np.float32(32768), 32_000, 16_000, quality="HQ")
            heard = (heard - heard.mean()) / np.sqrt(heard.var() + 1e-7)
            with torch.inference_mode():
                log_probs = network(torch.from_numpy(heard)[None]).logits[0].double().log_softmax(-1).numpy()
            wanted = reference(log_probs, [numbers[name.rstrip("012")] for name in one]) - log_probs.max(1).sum()
            assert float(gap[0]) == pytest.approx(wanted / len(log_probs), abs=1e-4)
    assert not part.counts


def test_a_device_sees_few_shapes(phonetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.sort(np.random.default_rng(0).integers(20, 130, 40))
    part = part_of([wave(frames, frames) for frames in lengths], [["a", "t"]] * len(lengths))
    monkeypatch.setattr(ctc_network, "BATCH", 512)
    exact = made(CtcAlign(ctc=phonetic), part), made(CtcConfidence(ctc=phonetic), part)
    monkeypatch.setattr(network_batches, "shapes_for", lambda device: network_batches.FEW)
    with networks.batches_seen() as seen:
        padded = made(CtcAlign(ctc=phonetic), part), made(CtcConfidence(ctc=phonetic), part)
    assert len(seen.hidden) == len(seen.samples) <= 8
    for one, other in zip(padded[0], exact[0], strict=True):
        assert np.array_equal(one, other)
    assert np.allclose(padded[1], exact[1], atol=1e-5)


def test_a_network_hears_what_it_was_trained_to_hear(tmp_path: Path) -> None:
    """Every utterance at mean 0 and variance 1, unless its folder says otherwise; enough for a frame at least."""
    networks.ctc(tmp_path, ARPABET)
    assert ctc_network.normalises(tmp_path)
    samples = ctc_network.prepare(wave(50) + np.int16(900), 32_000, 400, True)
    assert abs(samples.mean()) < 1e-4 and samples.var() == pytest.approx(1, abs=1e-3) and len(samples) == 16_000
    plain = ctc_network.prepare(wave(1)[:, :100], 32_000, 400, False)
    assert len(plain) == 400 and 0 < abs(plain).max() < 1 and not plain[50:].any()
    other = tmp_path / "other"
    networks.ctc(other, ARPABET)
    (other / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    assert not ctc_network.normalises(other)


def heard_as(monkeypatch: pytest.MonkeyPatch, frames: int, peaks: Sequence[tuple[int, int]], size: int = 60) -> None:
    """A network of which only the peaks are known: pairs of a frame and the token in it; blanks elsewhere."""
    log_probs = np.full((frames, size), -20.0, np.float32)
    log_probs[:, 0] = -0.1
    for frame, token in peaks:
        log_probs[frame, [0, token]] = -20, -0.1

    def by(self: Any, part: Part, weights: str, precision: str, heard: Sequence[NetworkInput]) -> list[np.ndarray]:
        return [np.append(log_probs[:, one.columns], log_probs.max(1, keepdims=True), 1) for one in heard]

    monkeypatch.setattr(CtcNetwork, "_log_probs_in", by)


def number_of(folder: Path, token: str) -> int:
    return int(json.loads((folder / "vocab.json").read_text())[token])


@pytest.mark.parametrize("rate", [32_000, 16_000, 22_050])
def test_peaks_come_back_as_exact_samples(phonetic: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    """Frame t sees samples 320 t to 320 t + 399 at 16 kHz, and has the 320 in their middle."""
    phones = ["HH", "AY1", ",", "M", "IY1"]
    peaks = [(n, number_of(phonetic, name)) for n, name in ((10, "HH"), (14, "AY"), (40, "M"), (41, "M"), (45, "IY"))]
    heard_as(monkeypatch, 80, peaks)
    samples = wave(60)
    (times,) = made(CtcAlign(ctc=phonetic), part_of([samples], [phones], rate))
    frames = [(7, 12.5), (12.5, 18), (18, 37), (37, 43.5), (43.5, 49)]  # MAX_EXTENSION is 3 frames where a pause may be
    wanted = [[round((320 * bound + 40) * rate / 16_000) for bound in pair] for pair in frames]
    assert abs(times - wanted).max() <= (0 if rate != 22_050 else 1)
    found = alignment.segments_of_times(times, frames=60, hop=HOP)
    assert found.frames.sum() == 60 and found.phones.tolist() == [-1, 0, 1, 2, 3, 4, -1]


def test_pauses_are_between_words_where_these_are_known(phonetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = number_of(phonetic, "AA"), number_of(phonetic, "T")
    heard_as(monkeypatch, 50, [(5, one), (30, other)])
    for words, silent in (([0, 0], 0), ([0, 1], 1)):
        part = part_of([wave(50)], [["AA1", "T"]], phone_word=[np.array(words)])
        (times,) = made(CtcAlign(ctc=phonetic), part)
        assert (times[1, 0] > times[0, 1]) == silent
        assert times[0, 0] == 640 * 2 + 80 and times[1, 1] == 640 * 34 + 80


def test_the_ends_of_a_recording_are_the_first_and_the_last_frames(
    phonetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard_as(monkeypatch, 49, [(2, number_of(phonetic, "AA")), (47, number_of(phonetic, "T"))])
    (times,) = made(CtcAlign(ctc=phonetic), part_of([wave(50)], [["AA1", "T"]]))
    assert times[0, 0] == 0 and times[-1, -1] == 50 * HOP


def test_the_frames_of_a_network_are_where_its_convolutions_look() -> None:
    grid = FrameGrid.from_config({})
    assert grid == (320, 400)
    frames = np.arange(6)
    centres = grid.samples(2 * frames + 1, 6, 16_000, 10_000)
    assert centres[:-1].tolist() == [200, 520, 840, 1160, 1480]


def test_words_are_found_by_their_letters(lettered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the text in words, with a token between them. A word's phones share its letters out: two's first has one and a
    half of three."""
    heard_as(monkeypatch, 60, [(10 + 2 * n, number_of(lettered, letter)) for n, letter in enumerate("two|cats")])
    part = part_of([wave(60)], [], texts=["Two Cats!"])
    seen, lines = [], CtcAlign.token_spans
    monkeypatch.setattr(CtcAlign, "token_spans", lambda self, part: seen.extend(found := lines(self, part)) or found)
    (times,) = made(CtcAlign(ctc=lettered), part)
    bounds = [(7, 12.5), (12.5, 16.5), (16.5, 19.5), (19.5, 21.5), (21.5, 23.5), (23.5, 28)]
    assert times[:-1].tolist() == [[640 * start + 80, 640 * stop + 80] for start, stop in bounds]
    assert times[-1].tolist() == [640 * 28 + 80, 60 * HOP], "the mark has the pause"
    assert "".join(LETTERS[token - 4] for token in token_sequence(seen[0])) == "two|cats"


def test_letters_are_known_in_any_case_and_without_their_accents() -> None:
    letters = Vocabulary({"A": 1, "é": 2, "S": 3}, 0, None)
    assert letters.tokens_of_word("aÁés ß?") == [1, 1, 2, 3, 3, 3] and not letters.is_phonemic


def test_phones_are_known_in_ipa_arpabet_and_their_tables_symbols() -> None:
    assert Vocabulary({"ɑː": 1, "tʃ": 2, "b": 3}, 0, None).tokens_of_phone("AA1") == [1]
    assert Vocabulary({"aa": 1, "b": 2}, 0, None).tokens_of_phone("AA1") == [1]
    assert Vocabulary({"ang1": 1, "ang": 2}, 0, None).tokens_of_phone("ang1") == [1]
    assert Vocabulary({"ang": 2}, 0, None).tokens_of_phone("ang1") == [2]
    assert Vocabulary({"e": 4, "t": 5}, 0, None).tokens_of_phone("/ˈeː/") == [4]
    assert Vocabulary({"ʃ": 1}, 0, None).tokens_of_phone("AA1") == []
    assert all(Vocabulary({token: 1}, 0, None).is_phonemic for token in ("ʃ", "AA", "ang1", "tʃ"))


def test_phones_without_a_token_share_the_time_of_their_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks.ctc(tmp_path, ["AA", "T", "SH"])
    heard_as(monkeypatch, 60, [(10, 4), (20, 5), (40, 4)])
    part = part_of([wave(60)] * 2, [["ZH", "AA1", "ZH", "T", ",", "AA1", "ZH"], ["ZH", "K", "AA1"]])
    times, none = made(CtcAlign(ctc=tmp_path), part)
    first = np.linspace(7, 15.5, 4)
    bounds = [*pairwise(first), (15.5, 24), (24, 37), (37, 40.5), (40.5, 44)]
    assert abs(times - [[640 * start + 80, 640 * stop + 80] for start, stop in bounds]).max() < 1
    assert (none == -1).all() and part.failed == {1: "phones that do not fit into the recording"}
    assert part.counts["ZH: no token in the vocabulary"] == 4 and part.counts["K: no token in the vocabulary"] == 1


def test_words_without_a_token_have_what_is_between_their_neighbours(
    lettered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [(5 + 2 * n, number_of(lettered, letter)) for n, letter in enumerate("we|saw")]
    heard_as(monkeypatch, 60, [*letters, *((frame + 30, token) for frame, token in letters[:2])])
    part = part_of([wave(60)], [], texts=["we saw, 7 we."], language="de")
    (times,) = made(CtcAlign(ctc=lettered), part)
    names = g2p.phonemise("we saw, 7 we.", "de").phones
    comma, end = names.index(","), len(names) - 3
    assert times[comma, 0] == times[comma, 1] == times[comma - 1, 1], "what sounds is rather heard than a mark"
    seven = times[comma + 1 : end]
    assert len(seven) > 3 and seven[0, 0] == times[comma, 1] and seven[-1, 1] == times[end, 0]
    assert len(set(np.diff(seven).ravel())) <= 2 and part.counts["a word in figures: no token in the vocabulary"] == 1


def test_what_is_too_short_or_without_a_token_has_no_times(phonetic: Path, lettered: Path) -> None:
    short, nothing = [["AA1", "T", "T", "S", "IY1"]], [[]]
    part = part_of([wave(4), wave(4)], short + nothing)
    times = made(CtcAlign(ctc=phonetic), part)
    assert (times[0] == -1).all() and times[1].shape == (0, 2)
    assert [float(one[0]) for one in made(CtcConfidence(ctc=phonetic), part)] == [
        UNALIGNED_CONFIDENCE,
        UNALIGNED_CONFIDENCE,
    ]
    part = part_of([wave(60)], [["AA1", "B"]], phone_end=[np.array([600, 60 * HOP])])
    assert made(CtcAlign(ctc=phonetic), part)[0].tolist() == [[0, 600], [600, 60 * HOP]], "times that were given"


def test_a_text_that_is_read_otherwise_now_has_no_times(lettered: Path) -> None:
    part = part_of([wave(60)] * 2, [], texts=["some words", "some words"])
    part.utterances("phones")[1][0] += 1
    times = made(CtcAlign(ctc=lettered), part)
    assert (times[0] >= 0).all() and (times[1] == -1).all()
    assert part.counts["texts that are read otherwise now than when the store was built"] == 1
    given = part_of([wave(60)], [], texts=["some words"], phone_end=[np.arange(1, 8)])
    assert made(CtcConfidence(ctc=lettered), given)[0] > UNALIGNED_CONFIDENCE


def test_what_is_longer_than_attention_reaches_is_heard_in_pieces(
    phonetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of frames that see their own field alone, these are the same; and none is missing or double."""

    def by(self: Any, part: Part, weights: str, precision: str, heard: Sequence[NetworkInput]) -> list[np.ndarray]:
        return [np.lib.stride_tricks.sliding_window_view(one.samples, 400)[::320].mean(1)[:, None] for one in heard]

    monkeypatch.setattr(CtcNetwork, "_log_probs_in", by)
    heard = NetworkInput(np.random.default_rng(0).normal(size=100_123).astype(np.float32), np.array([0]))
    network, part = CtcNetwork(phonetic, "fp32"), part_of([], [["AA1"]][:0])
    (whole,) = network.emissions(part, iter([heard]), "")
    for name, frames in (("WHOLE", 100), ("PIECE", 50), ("MARGIN", 20)):
        monkeypatch.setattr(ctc_network, name, frames)
    (pieces,) = network.emissions(part, iter([heard]), "")
    assert len(whole) == (100_123 - 400) // 320 + 1 and np.array_equal(whole, pieces)


def written(file: str, content: Any) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content)) and None
    )


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: written("config.json", {**networks.config_of(folder), **changes})(folder)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda folder: (folder / "config.json").unlink(), "no folder as transformers writes them"),
        (lambda folder: (folder / "vocab.json").unlink(), "has no vocabulary: vocab.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (written("vocab.json", "{"), "is not JSON"),
        (written("vocab.json", ["a"]), "does not number tokens of 0"),
        (written("vocab.json", {"a": 99}), "does not number tokens of 0 to 42"),
        (configured(vocab_size="many"), 'vocab_size="many", and a whole number'),
        (configured(pad_token_id=[0]), "no token"),
        (configured(conv_stride="5"), 'conv_stride="5", and a list'),
        (written("vocab.json", {"a": 1}), "no token 0, which the config calls pad_token_id"),
        (written("vocab.json", {"eng": {"a": 1}, "deu": {"a": 1}}), "each of eng, deu"),
        (configured(architectures=["Wav2Vec2ForPreTraining"]), "holds Wav2Vec2ForPreTraining"),
        (configured(model_type="hubert"), "holds a network of type hubert"),
        (configured(add_adapter=True), "has add_adapter"),
        (written("preprocessor_config.json", {"sampling_rate": 8000}), "reads audio at 8000 Hz, and 16000 Hz"),
        (written("preprocessor_config.json", "[]"), "not what transformers writes"),
    ],
)
def test_a_folder_that_is_none_is_said_to_be(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    networks.ctc(tmp_path, ARPABET)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        CtcAlign(ctc=tmp_path).spec(part_of([], []).specs)


def test_a_network_without_a_head_is_refused(tmp_path: Path) -> None:
    network = networks.ctc(tmp_path, ARPABET)
    network.wav2vec2.save_pretrained(tmp_path)
    configured(architectures=None)(tmp_path)
    with pytest.raises(UsageError, match="lack"):
        made(CtcAlign(ctc=tmp_path), part_of([wave(60)], [["AA1"]]))


def test_a_worker_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    networks.ctc(tmp_path, ARPABET)
    part = part_of([wave(60)], [["AA1"]])
    feature = CtcAlign(ctc=tmp_path)
    full = Part({**part.specs, "align": feature.spec(part.specs)}, part.utterances, strings=part.strings)
    written("vocab.json", {"<pad>": 0, "AA": 5})(tmp_path)
    with pytest.raises(UsageError, match="not here what it was"):
        list(feature.rows(full))


def test_a_store_is_aligned_by_one_command(tmp_path: Path, phonetic: Path, lettered: Path) -> None:
    root = tmp_path / "STORE"
    words = ("--features", "wave,phones", "--part-hours", 0.001)
    assert build(make_tree(tmp_path / "corpus", 6), root, *words).exit_code == 0
    assert "no network" not in add(root, "align", "--ctc", phonetic, "--align-hours", 1).stderr
    assert add(root, "align,confidence", "--ctc", phonetic).exit_code == 0 and not list(verify(root))
    opened = store.open(root)
    assert opened.features["align"].recipe["method"] == opened.features["confidence"].recipe["method"] == "ctc"
    for number in range(len(opened)):
        found = alignment.read_segments(opened, number)
        assert found is None or found.frames.sum() == opened.frames[number]
    refused = add(root, "align", "--ctc", lettered)
    assert refused.exit_code == 1 and "The store has align made with" in refused.stderr
    alone = add(root, "confidence")
    assert alone.exit_code == 2 and "name it by --ctc" in alone.stderr
