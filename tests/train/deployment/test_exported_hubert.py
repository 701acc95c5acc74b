"""HuBERT in an exported folder: the codes of a recording are those that torch makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.store.errors import RunError, UsageError
from headrace.train.deployment import onnx_export, onnx_files
from headrace.train.deployment.onnx_voice import OnnxRuntimeVoice
from headrace.train.inference.network_features import load_hubert, recording_codes
from headrace.train.models.sovits import SynthesizerTrn
from tests.helpers import networks
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import SOVITS

pytestmark = pytest.mark.slow


def generator() -> SynthesizerTrn:
    torch.manual_seed(4)
    model = SynthesizerTrn(replace(SOVITS, ssl_channels=768, codebook_size=64)).eval()
    model.quantizer.codebook.embed.normal_()
    return model


@pytest.fixture(scope="module")
def hubert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    networks.hubert(tmp_path_factory.mktemp("hubert"))
    return tmp_path_factory.getbasetemp() / "hubert0"


@pytest.fixture(scope="module")
def voice(hubert: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeVoice:
    folder = tmp_path_factory.mktemp("exported") / "voice"
    whole = onnx_voices.networks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "graph_groups", lambda *_: iter(()))  # the other graphs are exported elsewhere
        model = replace(whole, generator=generator(), decoder=None)
        content = onnx_export.export_onnx(model, folder, hubert=load_hubert(hubert, generator()))
    assert content["graphs"].keys() == {onnx_files.RECORDING}
    (folder / onnx_files.SOVITS).write_bytes((onnx_voices.exported() / onnx_files.SOVITS).read_bytes())
    return OnnxRuntimeVoice(folder, decoder=False, threads=1)


@pytest.mark.parametrize("samples", [96_000, 96_400, 128_000, 200_123])
def test_codes_are_those_of_torch(voice: OnnxRuntimeVoice, hubert: Path, samples: int) -> None:
    random = np.random.default_rng(samples)
    wave_S = (9000 * random.standard_normal(samples) * np.hanning(samples)).clip(-32768, 32767).astype(np.int16)
    assert voice.recording_codes is not None
    found, expected = voice.recording_codes(wave_S), recording_codes(wave_S, hubert, generator())
    assert found.dtype == np.int64 and len(np.unique(found)) > 5
    np.testing.assert_array_equal(found, expected)


def test_a_long_recording_is_refused(voice: OnnxRuntimeVoice) -> None:
    assert voice.recording_codes is not None
    with pytest.raises(UsageError, match="recordings of up to 60 s"):
        voice.recording_codes(np.zeros(60 * 32_000, np.int16))


def test_codes_that_the_voice_cannot_read_are_refused(voice: OnnxRuntimeVoice, monkeypatch: pytest.MonkeyPatch) -> None:
    assert voice.recording_codes is not None
    heard = np.zeros(96_000, np.int16)
    run = onnx_files.OnnxNetwork.run
    changes: list[Callable[[np.ndarray, np.ndarray], list[np.ndarray]]] = [
        lambda content, codes: [content, codes - 64],
        lambda content, codes: [content, codes + 64],
        lambda content, codes: [content[:-3], codes],
        lambda content, codes: [content, codes[:-1]],
    ]
    for change in changes:
        monkeypatch.setattr(onnx_files.OnnxNetwork, "run", lambda *given, change=change: change(*run(*given)))
        with pytest.raises(RunError, match="makes codes that this voice cannot read"):
            voice.recording_codes(heard)


def test_the_names_of_the_graph_are_documented(voice: OnnxRuntimeVoice) -> None:
    page = (Path(__file__).parents[3] / "docs/onnx.md").read_text(encoding="utf-8")
    graph = onnx.load(voice._folder / onnx_files.RECORDING).graph
    said = page.split("| `hubert.onnx` | `wave`")[1].split("\n\n")[0]
    assert [one.name for one in graph.input] == ["wave"]
    assert re.findall(r"returns `(\w+)`", said) == [one.name for one in graph.output]


@pytest.mark.parametrize("to", ["gpt-sovits", "onnx-int8"])
def test_it_is_for_graphs_in_float32(to: str, hubert: Path, tmp_path: Path) -> None:
    words = ["export", str(tmp_path), "--to", to, "--hubert", str(hubert), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "--hubert is for --to onnx" in result.stderr


def test_a_generator_of_other_codes_is_refused(hubert: Path) -> None:
    other = onnx_voices.networks().generator
    assert other is not None
    with pytest.raises(UsageError, match="are not made from HuBERT's content"):
        load_hubert(hubert, other)
