"""Voices as ONNX: the graphs compute what torch computes, whatever the lengths, or do not appear."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from headrace.store.errors import RunError, UsageError
from headrace.train.deployment import onnx_export, onnx_files, onnx_graphs, onnx_networks, shared_weights
from headrace.train.deployment.onnx_files import OnnxNetwork
from headrace.train.deployment.onnx_networks import _Upsampling
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.vocoder import HifiGanDecoder
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import GPT, SOVITS

RANDOM = np.random.default_rng(0)


def network(file: str) -> OnnxNetwork:
    ports = {
        onnx_files.SOVITS: onnx_files.sovits_ports(SOVITS),
        onnx_files.PROMPT: onnx_files.prompt_ports(GPT),
        onnx_files.STEP: onnx_files.step_ports(GPT),
    }
    return OnnxNetwork(onnx_voices.exported() / file, ports[file], threads=1)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "codes, phones, frames, speed",
    [(1, 1, 4, 1.0), (9, 5, 50, 1.0), (30, 44, 7, 1.0), (20, 9, 30, 1.25), (8, 9, 30, 0.6)],
)
@torch.no_grad()
def test_speech_is_that_of_torch(codes: int, phones: int, frames: int, speed: float) -> None:
    generator = onnx_voices.networks().generator
    assert generator is not None
    ids_Q, ids_P = RANDOM.integers(0, SOVITS.codebook_size, codes), RANDOM.integers(0, SOVITS.symbols, phones)
    spec_FT, speaker_V = abs(normal(SOVITS.spec_bins, frames)), normal(SOVITS.speaker_channels)
    size = 2 * codes if speed == 1 else int(2 * codes / speed) + 1
    noise_ZM = normal(SOVITS.inter_channels, size)
    (wave_S,) = network(onnx_files.SOVITS).run(
        {"codes": ids_Q, "phones": ids_P, "reference": spec_FT, "noise": noise_ZM, "speaker": speaker_V}
    )
    torch.manual_seed(0)
    tensors = [torch.from_numpy(array)[None] for array in (ids_Q, ids_P, spec_FT, noise_ZM, speaker_V)]
    expected = generator.decode(
        tensors[0],
        tensors[1],
        torch.tensor([phones]),
        tensors[2],
        torch.tensor([frames]),
        speed=speed,
        noise_BCT=tensors[3],
        speaker_BV=tensors[4],
    )
    assert float(expected.abs().max()) > 1e-4, "silence would compare with anything"
    close(wave_S, expected[0, 0])
    assert len(wave_S) == size * SOVITS.hop


@pytest.mark.parametrize("phones, codes", [(1, 0), (1, 1), (7, 0), (3, 12), (40, 3)])
@torch.no_grad()
def test_predictions_are_those_of_torch_from_the_prompt_on(phones: int, codes: int) -> None:
    decoder = onnx_voices.networks().decoder
    assert decoder is not None
    ids_P, ids = RANDOM.integers(0, GPT.symbols, phones), RANDOM.integers(0, GPT.codes, codes + 4)
    bert_PE = normal(phones, GPT.bert_channels)

    def predicted(count: int) -> torch.Tensor:
        arguments = torch.from_numpy(ids_P)[None], torch.tensor([phones]), torch.from_numpy(ids[:count])[None]
        return decoder(*arguments, torch.tensor([count]), torch.from_numpy(bert_PE)[None])[0, -1]

    logits_V, prompt = network(onnx_files.PROMPT).run({"phones": ids_P, "bert": bert_PE, "codes": ids[:codes]})
    close(logits_V, predicted(codes))
    cache = np.full((*prompt.shape[:2], 64, prompt.shape[3]), 7, np.float32)  # what lies after `position` counts not
    cache[:, :, : phones + codes] = prompt
    step = network(onnx_files.STEP)
    for done in range(codes, codes + 4):
        inputs = {"code": ids[done : done + 1], "code_position": np.array(done), "position": np.array(phones + done)}
        names = [port.name for port in onnx_files.step_ports(GPT).inputs[3:]]
        logits_V, rows = step.run(inputs | dict(zip(names, cache, strict=True)))
        cache[:, :, phones + done] = rows
        close(logits_V, predicted(done + 1))


def test_the_folder_says_what_it_holds() -> None:
    folder = onnx_voices.exported()
    content = json.loads((folder / onnx_files.FILE).read_text())
    files = content["graphs"] | content["weights"]
    assert {path.name for path in folder.iterdir()} == {*files, onnx_files.FILE, onnx_files.REFERENCE_FILE}
    assert sum(file["bytes"] for file in files.values()) == content["bytes"]
    for file, described in files.items():
        data = (folder / file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (described["bytes"], described["sha256"])
    for graph in content["graphs"].values():
        assert 0 < graph["difference"] <= onnx_graphs.TOLERANCE
    assert content["gpt"]["source"] == "TEXT, step 4 (best)"
    voice = onnx_files.read_voice(folder)
    assert (voice.sovits, voice.gpt, voice.sample_rate) == (SOVITS, GPT, 32_000)
    assert (voice.codebooks, voice.gpt_codebook) == ({"abc"}, "abc")
    held = load_file(folder / onnx_files.REFERENCE_FILE)
    assert held.keys() == {"spec", "phones", "codes", "bert", "speaker"}
    np.testing.assert_array_equal(held["spec"], onnx_voices.reference().spec)


def test_the_graphs_of_gpt_share_their_weights() -> None:
    folder = onnx_voices.exported()
    decoder = onnx_voices.networks().decoder
    assert decoder is not None
    weights = 4 * sum(value.numel() for value in decoder.parameters())
    shared = (folder / shared_weights.FILE).stat().st_size
    graphs = [(folder / file).stat().st_size for file in (onnx_files.PROMPT, onnx_files.STEP)]
    assert shared < weights + 8000, "no weight is there twice"
    assert shared > weights / 2 and len((folder / onnx_files.SOVITS).read_bytes()) > weights
    assert all(
        sum(len(one.raw_data) for one in onnx.load(folder / file, load_external_data=False).graph.initializer)
        < weights / 2
        for file in (onnx_files.PROMPT, onnx_files.STEP)
    ), graphs


def test_other_programs_find_the_weights_by_the_path_of_a_graph() -> None:
    graph, ports = onnx_voices.exported() / onnx_files.STEP, onnx_files.step_ports(GPT)
    inputs = {"code": np.array([3]), "code_position": np.array(4), "position": np.array(9)}
    inputs |= {port.name: normal(GPT.heads, 12, GPT.channels // GPT.heads) for port in ports.inputs[3:]}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for found, expected in zip(session.run(None, inputs), network(onnx_files.STEP).run(inputs), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_no_path_of_python_is_exported() -> None:
    for file in onnx_voices.exported().glob("*.onnx"):
        assert b"headrace" not in file.read_bytes()


class _Repeated:
    """The export of graphs that were exported before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = onnx_voices.exported()
        monkeypatch.setattr(onnx_graphs, "_export", lambda graph: onnx.load(self.folder / graph.file))


@pytest.mark.parametrize("error, refused", [(0.5e-4, False), (2e-4, True), (np.nan, True)])
def test_a_graph_that_differs_from_torch_does_not_appear(
    error: float, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Repeated(monkeypatch)
    run = OnnxNetwork.run

    def wrong(self: OnnxNetwork, inputs: Any) -> list[np.ndarray]:
        return [output + np.float32(error) * (output == output.max()) for output in run(self, inputs)]

    monkeypatch.setattr(OnnxNetwork, "run", wrong)
    if refused:
        with pytest.raises(RunError, match="differs from torch by"):
            onnx_export.export_onnx(onnx_voices.networks(), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        onnx_export.export_onnx(onnx_voices.networks(), tmp_path / "out")
        assert not (tmp_path / "out" / onnx_files.REFERENCE_FILE).exists()


def test_what_is_there_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _Repeated(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(UsageError, match="out"):
        onnx_export.export_onnx(onnx_voices.networks(), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


def test_plain_convolutions_leave_the_generator_as_it_is() -> None:
    generator = onnx_voices.networks().generator
    assert generator is not None
    names = set(generator.state_dict())
    plain = onnx_networks.plain_convolutions(generator)
    assert set(generator.state_dict()) == names
    assert not any(name.endswith("weight_g") for name in plain.state_dict())


@pytest.mark.parametrize(("kernel", "stride"), [(16, 10), (20, 10), (16, 8), (8, 2), (2, 2), (3, 1)])
def test_upsampling_by_a_convolution_is_a_transposed_one(kernel: int, stride: int) -> None:
    transposed = torch.nn.ConvTranspose1d(3, 4, kernel, stride, (kernel - stride) // 2)
    x = torch.randn(1, 3, 7)
    upsampling = _Upsampling(transposed, to_signal=False)
    found = upsampling(x[:, :, None])
    assert found.shape == (1, 4, 1, 7 * stride)
    torch.testing.assert_close(found[:, :, 0], transposed(x))
    torch.testing.assert_close(_Upsampling(transposed, to_signal=True)(x[:, :, None]), transposed(x))
    assert sum(conv.weight.numel() for conv in upsampling.convs) == transposed.weight.numel()


def decoder(channels: int, stages: int = 2) -> tuple[HifiGanDecoder, HifiGanDecoder]:
    """Return a decoder, and the one that is exported in its place."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"widths": [channels] * (stages + 1), "kernels": (3, 5)}
    sizes |= {"rates": (2,) * stages, "rate_kernels": (4,) * stages}
    whole: Any = torch.nn.ModuleDict({"dec": HifiGanDecoder(4, 4, dilations=[[1, 3]] * 2, **sizes)})
    return whole.dec, onnx_networks.plain_convolutions(whole).dec


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
@pytest.mark.parametrize("channels", [8, 16])
def test_a_decoder_of_images_computes_the_same(stages: int, channels: int) -> None:
    whole, images = decoder(channels, stages)
    inputs = torch.randn(1, 4, 9), torch.randn(1, 4, 1)
    with torch.no_grad():
        expected = whole(*inputs)
        torch.testing.assert_close(images(*inputs), expected, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(whole(*inputs), expected, atol=0, rtol=0)  # it was copied
    assert expected.std() > 1e-3


@pytest.mark.slow
def test_activations_of_blocks_of_channels_are_part_of_convolutions(tmp_path: Path) -> None:
    _, images = decoder(16)
    inputs = torch.randn(1, 4, 40), torch.randn(1, 4, 1)
    file, fast = tmp_path / "decoder.onnx", tmp_path / "fast.onnx"
    torch.onnx.export(images.eval(), inputs, file, dynamo=True, verbose=False, external_data=False)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(fast), 4
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(fast).graph.node)
    if not kinds["ReorderInput"]:
        pytest.skip("ONNX Runtime computes without blocks of channels on this processor")
    assert kinds["LeakyRelu"] == 1, kinds  # before the first upsampling
    assert not kinds["Div"] and not kinds["Transpose"], kinds


def test_channels_that_are_no_blocks_are_left_alone() -> None:
    _, images = decoder(24)
    assert isinstance(images.ups[1], _Upsampling) and isinstance(images.resblocks[3].activation, torch.nn.LeakyReLU)
    assert isinstance(images.activations[2], torch.nn.LeakyReLU)


def test_the_documented_table_is_that_of_the_graphs() -> None:
    page = (Path(__file__).parents[3] / "docs/onnx.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## Inputs and outputs")[1].split("\n## ")[0].splitlines() if "`" in line]
    said: dict[str, list[tuple[str, str]]] = {}
    file = ""
    for line in (line for line in rows if line.startswith("|")):
        first, name, described, _ = (cell.strip() for cell in line.strip("|").split("|"))
        file = first.strip("`") or file
        name = re.findall(r"`(\w+)`", name)[0] if "..." in name else name.replace("`", "")
        said.setdefault(file, []).append((name, described))
    sovits, gpt = sovits_config.v2Pro(), gpt_config.v2()
    for file, ports in (
        (onnx_files.SOVITS, onnx_files.sovits_ports(sovits)),
        (onnx_files.PROMPT, onnx_files.prompt_ports(gpt)),
        (onnx_files.STEP, onnx_files.step_ports(gpt)),
        (onnx_files.RECORDING, onnx_files.recording_ports(sovits)),
    ):
        inputs = [port for port in ports.inputs if port.name == "keys_0" or not re.search(r"_\d", port.name)]
        expected = [(port.name, port) for port in inputs] + [(f"returns {port.name}", port) for port in ports.outputs]
        assert said[file] == [(name, f"{port.dtype} ({', '.join(map(str, port.shape))})") for name, port in expected], (
            file
        )
        if file == onnx_files.RECORDING:
            continue
        graph = onnx.load(onnx_voices.exported() / file, load_external_data=False).graph
        names = [one.name for one in graph.input if one.name == "keys_0" or not re.search(r"_\d", one.name)]
        assert names + [f"returns {one.name}" for one in graph.output] == [name for name, _ in expected]
