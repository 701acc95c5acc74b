"""Voices in INT8: smaller, near to what they are in float32, or not written."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.store.errors import RunError, UsageError
from headrace.train.deployment import int8, onnx_export, onnx_files, onnx_graphs
from headrace.train.deployment.int8 import quantise_voice
from headrace.train.deployment.onnx_files import OnnxNetwork
from headrace.train.models import sovits_config
from headrace.train.models.fake_quantisation import FakeQuantisation, channelwise_modules, float32_modules
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import GPT, SOVITS


def utterances(count: int = 6, loudness: float = 1.0) -> list[dict[str, np.ndarray]]:
    """Return utterances of different voices, phones, codes and lengths."""
    random = np.random.default_rng(1)
    found = []
    for number in range(count):
        phones = 4 + number
        colour = random.random((SOVITS.spec_bins, 1)) ** 4
        found.append(
            {
                "spec": (loudness * colour * random.random((SOVITS.spec_bins, 20 + number))).astype(np.float32),
                "phones": random.integers(0, SOVITS.symbols, phones),
                "codes": random.integers(0, min(SOVITS.codebook_size, GPT.codes), 12 + number),
                "bert": random.standard_normal((phones, GPT.bert_channels)).astype(np.float32),
                "speaker": random.standard_normal(SOVITS.speaker_channels).astype(np.float32),
            }
        )
    return found


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "MAX_MEL_SHARE", 1.0)  # its utterances are noise: they hardly differ from one another
        content = quantise_voice(onnx_voices.exported(), folder, utterances(), lambda _: None)
    voice = json.loads((onnx_voices.exported() / onnx_files.FILE).read_text()) | content
    (folder / onnx_files.FILE).write_text(json.dumps(voice))
    return folder, voice


def test_graphs_in_int8_are_near_to_those_in_float32(quantised: tuple[Path, dict[str, object]]) -> None:
    folder, _ = quantised
    voice = onnx_files.read_voice(folder)
    ports = {
        onnx_files.SOVITS: onnx_files.sovits_ports(SOVITS),
        onnx_files.PROMPT: onnx_files.prompt_ports(GPT),
    }
    other = utterances(8)[7]
    inputs = {
        onnx_files.SOVITS: int8.speech_inputs(voice, other, 3),
        onnx_files.PROMPT: int8.prompt_inputs(voice, other, 9),
    }
    for file, given in inputs.items():
        whole, small = (
            OnnxNetwork(path / file, ports[file], 1).run(given)[0] for path in (onnx_voices.exported(), folder)
        )
        assert 0 < np.square(small - whole).mean() < 0.01 * np.square(whole - whole.mean()).mean()


def test_every_layer_reads_whole_numbers_but_those_of_the_last_stages(
    quantised: tuple[Path, dict[str, object]],
) -> None:
    folder, _ = quantised
    kept = float32_modules(SOVITS)
    assert kept == (
        "ref_enc.spectral.0",
        *(f"dec.ups.{stage}" for stage in (2, 3, 4)),
        *(f"dec.activations.{stage}" for stage in (2, 3, 4, 5)),
        "dec.resblocks.3",
        "dec.resblocks.4",
        "dec.conv_post",
    )
    for file in (onnx_files.SOVITS, onnx_files.PROMPT, onnx_files.STEP):
        graph = onnx.load(folder / file).graph
        real = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1}
        layers = [node for node in graph.node if node.op_type in int8.OPERATORS["sovits"]]
        read = [(node, name) for node in layers for name in node.input if name in real]
        assert len(layers) > 4
        products = [node for node, _ in read if node.op_type == "MatMul"]
        assert all(any(f".{one}." in name for one in kept) for node, name in read if node not in products), read
        sums = [list(node.input) for node in graph.node if {one.output[0] for one in products} & set(node.input)]
        if file != onnx_files.SOVITS:
            assert not read
        else:
            assert len(read) > 1 and [name for one in sums for name in one if name.endswith("spectral.0.fc.bias")]
            assert len(products) == 1


def test_activations_are_rounded_once(quantised: tuple[Path, dict[str, object]]) -> None:
    """Of the leaky ReLUs before five upsamplings, of each stage's sum and of what it adds, and of the end."""
    graph = onnx.load(quantised[0] / onnx_files.SOVITS).graph
    writers = {name: node for node in graph.node for name in node.output}

    def writer(name: str) -> str:
        node = writers[name]
        return writer(node.input[0]) if node.op_type == "Reshape" else str(node.op_type)

    activations = [writer(node.input[0]) for node in graph.node if node.op_type == "LeakyRelu"]
    in_float32 = [kind != "DequantizeLinear" for kind in activations]
    assert in_float32 == [True, True, False] * 3 + [True] * 7  # what convolutions of whole numbers add, but no sum


def test_the_runtime_is_told_the_sizes_of_images(quantised: tuple[Path, dict[str, object]]) -> None:
    """Without them it adds what two convolutions return by itself, though both are of one size."""
    for folder in (onnx_voices.exported(), quantised[0]):
        graph = onnx.load(folder / onnx_files.SOVITS, load_external_data=False).graph
        shapes = {one.name: one.type.tensor_type.shape.dim for one in graph.value_info}
        images = {
            name: axes[3].dim_param for name, axes in shapes.items() if axes[1].dim_value and axes[2].dim_value == 1
        }
        added = [list(node.input) for node in graph.node if node.op_type == "Add" and set(node.input) <= images.keys()]
        assert len(added) == 2 and all(images[one] == images[other] != "" for one, other in added), folder
        assert not onnx.load(folder / onnx_files.STEP, load_external_data=False).graph.value_info


def test_what_stays_in_float32_of_a_graph() -> None:
    made = onnx.helper.make_node
    arrays = {"product": np.ones((2, 2)), "voice.bias": np.ones(2), "other": np.ones((2, 2)), "other.bias": np.ones(2)}
    arrays |= {f"dec.ups.{stage}.weight": np.ones((1, 1, 1, 1)) for stage in (2, 20)}
    weights = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [
        made("MatMul", ["spectrogram", "product"], ["heard"], name="of the voice"),
        made("Add", ["heard", "voice.bias"], ["voiced"]),
        made("MatMul", ["voiced", "other"], ["hidden voice"], name="of something else"),
        made("Add", ["hidden voice", "other.bias"], ["biased"]),
        made("MatMul", ["biased", "voiced"], ["attended"], name="of no weight"),
        made("Conv", ["x", "dec.ups.2.weight"], ["up"], name="of the upsampling"),
        made("Conv", ["up", "dec.ups.20.weight"], ["y"], name="of another upsampling"),
    ]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "graph", [], [], weights))
    kept = int8._float32_nodes(model, ["dec.ups.2", "voice"])
    assert [name for name in kept if name] == ["of the voice", "of no weight", "of the upsampling"]


def test_the_folder_says_how_it_was_made(quantised: tuple[Path, dict[str, object]]) -> None:
    folder, content = quantised
    files = [*folder.glob("*.onnx"), folder / "gpt.safetensors"]
    assert content["bytes"] == sum(file.stat().st_size for file in files)
    made = content["quantisation"]
    assert isinstance(made, dict)
    assert content["precision"] == "int8" and made["utterances"] == {"calibration": 4, "comparison": 2}
    assert 0 < made["divergence"] < 0.01 and 0 < made["mel_distance"] < made["mel_distance_of_two_utterances"]
    assert 0.5 < made["same_most_likely_code"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("distances", "stages"), [([0.21], 2), ([0.22, 0.2], 3), ([0.3, 0.22], None)])
def test_a_stage_more_stays_in_float32_where_speech_differs_too_much(
    distances: list[float], stages: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, whole = iter(distances), onnx_voices.exported()
    found = {"mel_distance_of_two_utterances": 2.1}
    monkeypatch.setattr(int8, "_compare_speech", lambda *_: found | {"mel_distance": next(left)})
    monkeypatch.setattr(int8, "_quantise_decoder", lambda *_: {})
    monkeypatch.setattr(int8, "_compare_predictions", lambda *_: {})
    monkeypatch.setattr(onnx_files, "describe_weights", lambda _: {})
    if stages is None:
        with pytest.raises(RunError, match=r"by 0\.220 in log-mel, and at most 0\.210 is"):
            int8.quantise_voice(whole, tmp_path, utterances(6), lambda _: None)
        return
    made = int8.quantise_voice(whole, tmp_path, utterances(6), lambda _: None)["quantisation"]
    assert made["float32"] == list(float32_modules(SOVITS, stages))
    assert made["scale_per_channel"] == list(channelwise_modules(SOVITS, stages))
    graph = onnx.load(tmp_path / onnx_files.SOVITS).graph
    real = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1}
    assert any("dec.resblocks.2." in name for name in real) == (stages == 3)
    assert not list(left)


@pytest.mark.parametrize(
    ("limit", "measure", "message"),
    [
        ("MAX_MEL_SHARE", "mel_distance", "Speech in INT8 differs from that in float32"),
        ("MAX_DIVERGENCE", "divergence", "Predictions in INT8 differ"),
    ],
)
def test_what_differs_too_much_is_refused(
    limit: str, measure: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"mel_distance": 0.2, "mel_distance_of_two_utterances": 2.1, "divergence": 0.09}
    int8._check(found)
    with pytest.raises(RunError, match=message):
        int8._check(found | {measure: float("nan")})
    monkeypatch.setattr(int8, limit, 0.01)
    with pytest.raises(RunError, match=message):
        int8._check(found)


def test_nothing_appears_where_speech_differs_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "_export", lambda graph: onnx.load(onnx_voices.exported() / graph.file))
    monkeypatch.setattr(int8, "MAX_MEL_SHARE", 0.0)
    voice = replace(onnx_voices.networks(), decoder=None)
    with pytest.raises(RunError, match="Speech in INT8"):
        onnx_export.export_int8(voice, tmp_path / "out", [onnx_voices.reference()] * 2)
    assert not list(tmp_path.iterdir())


def test_what_is_compared_does_not_calibrate() -> None:
    many = utterances(9)
    calibrating, held_out = int8.split(many)
    assert [one is other for one, other in zip(held_out, many[::3], strict=True)] == [True] * 3
    assert len(calibrating) == 6 and not {id(one) for one in calibrating} & {id(one) for one in held_out}
    few = utterances(3)
    assert int8.split(few) == (few, few)
    with pytest.raises(UsageError, match="two at least, and the store has 1"):
        int8.split(utterances(1))


def test_distances_are_those_of_their_definitions() -> None:
    assert int8.mel_distance(np.zeros((4, 2)), np.full((7, 2), 0.5)) == 0.5
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.5, 2.5, 0.0]])
    expected = torch.nn.functional.kl_div(
        logits[1].log_softmax(0), logits[0].log_softmax(0), log_target=True, reduction="sum"
    )
    assert int8.divergence(logits[0].numpy(), logits[1].numpy()) == pytest.approx(float(expected), rel=1e-5)


class Says:
    """A graph that says noise, four times as loud with every code more."""

    def __init__(self, level: float) -> None:
        self.level = level

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
        return [np.float32(self.level * 4.0 ** (len(inputs["codes"]) - 12)) * noise]


def test_speech_is_compared_with_that_in_float32_and_with_the_utterance_before() -> None:
    voice = onnx_files.read_voice(onnx_voices.exported())
    whole, rounded = (Says(level) for level in (1e-3, 2e-3))
    found = int8._compare_speech(voice, whole, rounded, utterances(3), lambda _: None)  # type: ignore[arg-type]
    assert found["mel_distance"] == pytest.approx(np.log(2), rel=1e-3)
    assert found["mel_distance_of_two_utterances"] == pytest.approx(np.log(4), rel=1e-3)


def test_long_utterances_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "MAX_CODES", 5)
    voice, (one,) = onnx_files.read_voice(onnx_voices.exported()), utterances(1)
    counts = [0, 0, 1, 2, 3, 4]
    for count, (prompt, code) in zip(counts, int8._prompts(voice, one), strict=True):
        assert prompt["codes"].tolist() == one["codes"][:count].tolist() and code == one["codes"][count : count + 1]
    speech = int8.speech_inputs(voice, one, 0)
    assert speech["codes"].tolist() == one["codes"][:5].tolist()
    assert speech["noise"].shape == (SOVITS.inter_channels, 10)


def test_as_many_stages_stay_in_float32_whatever_the_sizes() -> None:
    kept = float32_modules(sovits_config.v2())
    assert kept[1:4] == ("dec.ups.2", "dec.ups.3", "dec.ups.4")
    assert kept[8] == "dec.resblocks.9" and kept[-2] == "dec.resblocks.14"
    channelwise = channelwise_modules(sovits_config.v2())
    assert channelwise == ("dec.ups.0", "dec.ups.1", *(f"dec.resblocks.{number}.convs2" for number in range(9)))
    assert channelwise_modules(sovits_config.v2(), 3) == ("dec.ups.0", *channelwise[2:8])
    assert channelwise_modules(sovits_config.v2(), 5) == channelwise_modules(sovits_config.v2(), 6) == ()


def test_a_store_is_needed(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    words = ["export", str(tmp_path / "x.pth"), "--to", "onnx-int8", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "give it by --store" in result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, onnx_export.Networks]:
    """The graphs of networks with ranges, as training for INT8 gives them, and the networks."""
    networks = onnx_voices.networks()
    generator, decoder = copy.deepcopy(networks.generator), copy.deepcopy(networks.decoder)
    assert generator is not None and decoder is not None
    for network, say in ((generator, _speak), (decoder, _predict)):
        rounded = copy.deepcopy(network)
        quantisation = FakeQuantisation(rounded)
        with quantisation.calibrating(), torch.no_grad():
            for one in utterances():
                say(rounded, one)
        network.ranges = quantisation.state_dict()
    networks = replace(networks, generator=generator, decoder=decoder)
    folder = tmp_path_factory.mktemp("trained") / "voice"
    onnx_export.export_int8(networks, folder, ())
    return folder, networks


def _tensors(utterance: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array)[None] for name, array in utterance.items()}


def _noise(utterance: dict[str, np.ndarray]) -> torch.Tensor:
    voice = np.random.default_rng(0).standard_normal((SOVITS.inter_channels, 2 * len(utterance["codes"])), np.float32)
    return torch.from_numpy(voice)[None]


def _speak(generator: SynthesizerTrn, utterance: dict[str, np.ndarray]) -> torch.Tensor:
    given = _tensors(utterance)
    lengths = [torch.tensor([given[name].shape[axis]]) for name, axis in (("phones", 1), ("spec", 2))]
    inputs = given["codes"], given["phones"], lengths[0], given["spec"], lengths[1]
    return generator.decode(*inputs, noise_BCT=_noise(utterance), speaker_BV=given["speaker"])[0, 0]


def _predict(decoder: Text2SemanticDecoder, utterance: dict[str, np.ndarray]) -> torch.Tensor:
    given = _tensors(utterance)
    counts = [torch.tensor([given[name].shape[1]]) for name in ("phones", "codes")]
    return decoder(given["phones"], counts[0], given["codes"], counts[1], given["bert"])[0, -1]


@torch.no_grad()
def test_graphs_of_networks_that_were_trained_for_int8_compute_what_was_trained(
    trained: tuple[Path, onnx_export.Networks],
) -> None:
    folder, networks = trained
    voice = onnx_files.read_voice(folder)
    assert voice.content["precision"] == "int8" and voice.content["quantisation"] == {"trained": ["sovits", "gpt"]}
    other = utterances(8)[7]
    speech = int8.speech_inputs(voice, other, 0) | {"noise": _noise(other)[0].numpy()}
    inputs = {onnx_files.SOVITS: speech, onnx_files.PROMPT: int8.prompt_inputs(voice, other, len(other["codes"]))}
    ports = {onnx_files.SOVITS: onnx_files.sovits_ports(SOVITS), onnx_files.PROMPT: onnx_files.prompt_ports(GPT)}
    for file, network, compute in (
        (onnx_files.SOVITS, networks.generator, _speak),
        (onnx_files.PROMPT, networks.decoder, _predict),
    ):
        assert network is not None and network.ranges is not None
        found = OnnxNetwork(folder / file, ports[file], 1).run(inputs[file])[0]
        exact = compute(network, other).numpy()  # type: ignore[operator]
        rounded = copy.deepcopy(network)
        FakeQuantisation(rounded).load_state_dict(network.ranges)
        fake = compute(rounded, other).numpy()  # type: ignore[operator]
        # A number just between two whole ones may be rounded to either. What this speech is made of is hardly rounded.
        assert abs(found - fake).mean() < 1e-3 * abs(exact).mean()
        if file == onnx_files.PROMPT:
            assert abs(found - fake).mean() < 0.01 * abs(exact - fake).mean()


def test_trained_and_calibrated_graphs_have_the_same_whole_weights(
    trained: tuple[Path, onnx_export.Networks], quantised: tuple[Path, dict[str, object]]
) -> None:
    for file in (onnx_files.SOVITS, onnx_files.PROMPT, onnx_files.STEP):
        learned, measured = (_whole_weights(folder / file) for folder in (trained[0], quantised[0]))
        # Calibration rounds the embeddings of relative positions too, keys and values of each stack of layers. Of the
        # first two upsamplings it has three and two convolutions.
        assert learned >= 10 and measured - learned == (2 * 4 + 3 if file == onnx_files.SOVITS else 0)
        graph = onnx.load(trained[0] / file, load_external_data=False).graph
        assert {one.name for one in graph.initializer} <= {name for node in graph.node for name in node.input}


def _whole_weights(file: Path) -> int:
    """Return how many tensors of whole numbers a graph has."""
    tensors = onnx.load(file, load_external_data=False).graph.initializer
    whole = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    return sum(one.data_type in whole and len(one.dims) > 1 for one in tensors)


def test_products_and_convolutions_have_integer_kernels(
    trained: tuple[Path, onnx_export.Networks], tmp_path: Path
) -> None:
    for file, kernel, floating in (
        (onnx_files.SOVITS, "QLinearConv", "Conv"),
        (onnx_files.STEP, "MatMulIntegerToFloat", "Gemm"),
    ):
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / file), 4
        onnxruntime.InferenceSession(trained[0] / file, options, providers=["CPUExecutionProvider"])
        kinds = Counter(node.op_type for node in onnx.load(tmp_path / file, load_external_data=False).graph.node)
        given = Counter(node.op_type for node in onnx.load(trained[0] / file, load_external_data=False).graph.node)
        if file == onnx_files.SOVITS:  # those of the last stages are computed in float32
            real = len([name for name in float32_modules(SOVITS) if name.startswith("dec.resblocks")]) * 2 + 1
            assert kinds[kernel] == given[floating] - real and kinds[floating] + kinds["FusedConv"] == real
        else:
            assert kinds[kernel] == 4 * GPT.layers + 1 and not kinds[floating]


class Returns(torch.nn.Module):
    """Returns the same whatever it reads, as a network and as an exported one."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((4,), self.value)

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.full(4, self.value, np.float32)]


@pytest.mark.parametrize(("exact", "share"), [(2.0, 0.3 / 2), (2.1, 0.3 / 2), (2.4, 0.3 / 4), (1.6, 0.3 / 4)])
def test_a_graph_may_differ_by_a_part_of_what_rounding_changes(exact: float, share: float) -> None:
    ports = onnx_files.Ports((onnx_files.Port("x", "float32", (1,)),), ())
    graph = onnx_graphs.Graph("x.onnx", Returns(2.0), ports, [(torch.zeros(1),)], exact=Returns(exact))
    (found,) = onnx_graphs.differences(graph, Returns(2.3))  # type: ignore[arg-type]
    assert found == pytest.approx(share, rel=1e-5)


def test_no_store_is_needed_where_all_was_trained_for_int8(
    trained: tuple[Path, onnx_export.Networks], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = replace(trained[1], generator=None)
    assert only.part(trained=True).stages == ["gpt"] and only.part(trained=False).stages == []
    monkeypatch.setattr(onnx_export, "load_networks", lambda *_: only)
    monkeypatch.setattr(onnx_graphs, "_export", lambda graph: onnx.load(trained[0] / graph.file))
    words = ["export", str(tmp_path), "--to", "onnx-int8", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and "int8, 2 graphs" in result.output, result.output
