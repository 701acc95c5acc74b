"""Exported voices in INT8: layers compute with whole numbers, by scales that are calibrated on utterances.

Quantisation is static. Weights are int8, symmetric, with a scale for each output channel. What layers read is uint8,
with one scale for each tensor, of the smallest and the largest number that it had over the utterances; what sums of the
decoder read has one for each channel. The graphs say so with pairs of QuantizeLinear and DequantizeLinear around each
layer, which ONNX Runtime turns into integer kernels.
What is compared with the graphs in float32 is held out of the calibration.

Shapes: Q codes, P phones, E channels of BERT, V vocabulary, S samples, T frames, M mel bands.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import RunError, UsageError
from headrace.store.storage.temporary import temporary_folder
from headrace.train.deployment import channel_ranges, onnx_files, shared_weights
from headrace.train.deployment.onnx_files import OnnxNetwork, OnnxVoice
from headrace.train.models.fake_quantisation import channelwise_modules, float32_modules
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.vocoder import FLOAT32_STAGES

if TYPE_CHECKING:
    from onnx import ModelProto

Arrays = Mapping[str, np.ndarray]
OPERATORS = {
    "sovits": ("Conv", "Gemm", "MatMul", "Gather"),
    "gpt": ("Gemm", "MatMul", "Gather"),
}
"""What is quantised, of each stage. An activation between two convolutions then has whole numbers on both sides, and
ONNX Runtime computes it with them; what reads a sum in float32 is not rounded before. The last stages of the decoder
stay in float32, since the noise of rounding covers quiet bands. With the weights of one tiny model speech was 0.413
from that in float32 in log-mel with all stages in INT8, 0.150 with all but the last one, 0.044 with all but the last
two, and 0.014 with all but the last three. So the last two stay, and a third one where speech differs too much without
it."""
MAX_CODES = 250
"""Utterances are cut after so many codes, 10 s."""
STEPS = 6
"""Predictions of each utterance that the step graph is calibrated on."""
MAX_MEL_SHARE = 0.1
"""Largest distance of speech in INT8 to that in float32, as a share of the distance between two utterances."""
MAX_DIVERGENCE = 0.1
"""Largest mean Kullback-Leibler divergence of predictions in INT8 from those in float32, in nats."""


def quantise_voice(
    whole: Path,
    folder: Path,
    utterances: Sequence[Arrays],
    log: Callable[[str], object],
) -> dict[str, Any]:
    """Write the graphs of an exported voice in INT8, and compare them with those in float32.

    Args:
        whole: an exported folder, in float32.
        folder: is there, and gets the graphs.
        utterances: two at least, each with `spec`, `phones`, `codes`, and if the voice reads them `bert` and `speaker`.
        log: is told of every graph, and of differences.
    Returns:
        What onnx.json says of graphs, of weights, and of the quantisation.
    Raises:
        RunError: speech or predictions differ too much.
    """
    voice = onnx_files.read_voice(whole)
    calibrating, held_out = split(utterances)
    graphs: dict[str, Any] = {}
    found: dict[str, Any] = {"float32": [], "scale_per_channel": []}
    if voice.sovits is not None:
        graphs, found = _quantise_speech(voice, whole, folder, (calibrating, held_out), log)
    if voice.gpt is not None:
        graphs |= _quantise_decoder(voice, whole, folder, calibrating, log)
        found |= _compare_predictions(voice, whole, folder, held_out, log)
    _check(found)
    return {
        "precision": "int8",
        "graphs": graphs,
        "quantisation": {
            "weights": "int8, symmetric, a scale for each output channel",
            "activations": "uint8, a scale for each tensor, by minimum and maximum",
            "operators": {stage: list(names) for stage, names in OPERATORS.items()},
            "utterances": {"calibration": len(calibrating), "comparison": len(held_out)},
            "bytes_in_float32": voice.content["bytes"],
            **found,
        },
        **onnx_files.describe_weights(folder),
    }


class Places(NamedTuple):
    """Where a generator is not rounded as elsewhere, by names of modules."""

    float32: tuple[str, ...]
    """What stays in float32."""
    channelwise: tuple[str, ...]
    """Whose convolutions write each channel with a scale of its own."""


def _places(config: SovitsConfig) -> Iterator[Places]:
    """Yield where a generator is rounded otherwise: first the fastest, then what speech needs that differs too much."""
    for kept in (FLOAT32_STAGES, FLOAT32_STAGES + 1):
        yield Places(float32_modules(config, kept), channelwise_modules(config, kept))


def split(utterances: Sequence[Arrays]) -> tuple[list[Arrays], list[Arrays]]:
    """Split utterances into those that calibrate and those that compare: every third one, or all where there are few.

    Raises:
        UsageError: there are fewer than two.
    """
    if len(utterances) < 2:
        raise UsageError(
            f"INT8 is calibrated on utterances, two at least, and the store has {len(utterances)} with phones and "
            "codes: give another one by --store."
        )
    if len(utterances) < 6:
        return list(utterances), list(utterances)
    rest = [one for number, one in enumerate(utterances) if number % 3]
    return rest, list(utterances[::3])


def speech_inputs(voice: OnnxVoice, utterance: Arrays, seed: int) -> dict[str, np.ndarray]:
    """Return what the graph of sovits reads to say an utterance in its own voice."""
    assert voice.sovits is not None, "the voice has a generator"
    codes_Q = utterance["codes"][:MAX_CODES]
    noise = np.random.default_rng(seed).standard_normal((voice.sovits.inter_channels, 2 * len(codes_Q)), np.float32)
    inputs = {"codes": codes_Q, "phones": utterance["phones"], "reference": utterance["spec"], "noise": noise}
    return inputs | ({"speaker": utterance["speaker"]} if voice.sovits.speaker_channels else {})


def prompt_inputs(voice: OnnxVoice, utterance: Arrays, codes: int) -> dict[str, np.ndarray]:
    """Return what the prompt graph reads of an utterance and so many of its codes."""
    assert voice.gpt is not None, "the voice has a decoder"
    phones_P = utterance["phones"]
    bert_PE = utterance.get("bert", np.zeros((len(phones_P), voice.gpt.bert_channels), np.float32))
    return {"phones": phones_P, "bert": bert_PE, "codes": utterance["codes"][:codes]}


def step_inputs(voice: OnnxVoice, prompt: Arrays, cache: np.ndarray, code: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the step graph reads after a prompt, with the cache that the prompt graph has returned."""
    assert voice.gpt is not None, "the voice has a decoder"
    names = [port.name for port in onnx_files.step_ports(voice.gpt).inputs[3:]]
    position, codes = np.array(cache.shape[2]), np.array(len(prompt["codes"]))
    return {"code": code, "code_position": codes, "position": position} | dict(zip(names, cache, strict=True))


def _prompts(voice: OnnxVoice, utterance: Arrays) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield prompts of an utterance, of STEPS evenly spaced numbers of codes, and the code that follows each."""
    codes_Q = utterance["codes"][:MAX_CODES]
    for count in np.linspace(0, len(codes_Q) - 1, STEPS).astype(int).tolist():
        yield prompt_inputs(voice, utterance, count), codes_Q[count : count + 1]


def _quantise_speech(
    voice: OnnxVoice,
    whole: Path,
    folder: Path,
    utterances: tuple[Sequence[Arrays], Sequence[Arrays]],
    log: Callable[[str], object],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the graph of sovits, with as little in float32 as its speech allows.

    Args:
        utterances: those that calibrate, and those that compare.
    Returns:
        What describes it, and what is found of its speech.
    """
    assert voice.sovits is not None, "the voice has a generator"
    ports = onnx_files.sovits_ports(voice.sovits)
    for places in _places(voice.sovits):
        graphs = _quantise_generator(voice, whole, folder, utterances[0], places, log)
        in_float32, in_int8 = (OnnxNetwork(one / onnx_files.SOVITS, ports) for one in (whole, folder))
        found: dict[str, Any] = {
            "float32": list(places.float32),
            "scale_per_channel": list(places.channelwise),
            **_compare_speech(voice, in_float32, in_int8, utterances[1], log),
        }
        if found["mel_distance"] <= _largest_distance(found):
            break
    return graphs, found


def _quantise_generator(
    voice: OnnxVoice,
    whole: Path,
    folder: Path,
    utterances: Sequence[Arrays],
    places: Places,
    log: Callable[[str], object],
) -> dict[str, Any]:
    """Write the graph of sovits. Describes it."""
    assert voice.sovits is not None, "the voice has a generator"
    feeds = [speech_inputs(voice, one, seed) for seed, one in enumerate(utterances)]
    file = whole / onnx_files.SOVITS
    model = _quantised(file, feeds, "sovits", places.float32)
    channel_ranges.give_own_scales(model, channel_ranges.observe(file, places.channelwise, feeds))
    return _written([(onnx_files.SOVITS, onnx_files.sovits_ports(voice.sovits), model)], folder, log)


def _quantise_decoder(
    voice: OnnxVoice, whole: Path, folder: Path, utterances: Sequence[Arrays], log: Callable[[str], object]
) -> dict[str, Any]:
    assert voice.gpt is not None, "the voice has a decoder"
    prompt_ports, step_ports = onnx_files.prompt_ports(voice.gpt), onnx_files.step_ports(voice.gpt)
    network = OnnxNetwork(whole / onnx_files.PROMPT, prompt_ports)
    steps = (
        step_inputs(voice, prompt, network.run(prompt)[1], code)
        for utterance in utterances
        for prompt, code in _prompts(voice, utterance)
    )
    prompts = (prompt_inputs(voice, utterance, len(utterance["codes"])) for utterance in utterances)
    models = [
        (onnx_files.PROMPT, prompt_ports, _quantised(whole / onnx_files.PROMPT, prompts, "gpt")),
        (onnx_files.STEP, step_ports, _quantised(whole / onnx_files.STEP, steps, "gpt")),
    ]
    return _written(models, folder, log)


def _quantised(file: Path, feeds: Iterable[Arrays], stage: str, modules: Sequence[str] = ()) -> ModelProto:
    """Return a graph in INT8, calibrated on inputs, whose named modules stay in float32."""
    import onnx
    from onnxruntime import quantization

    exact = onnx.load(file)
    with temporary_folder() as work, _quiet():
        quantization.quantize_static(
            file,
            work / "int8.onnx",
            _Feeds(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS[stage]),
            nodes_to_exclude=_float32_nodes(exact, modules),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        model = onnx.load(work / "int8.onnx")
    for node in model.graph.node:
        node.ClearField("name")
    del model.graph.value_info[:], model.metadata_props[:]
    written = {name for node in model.graph.node for name in node.output}
    model.graph.value_info.extend(one for one in exact.graph.value_info if one.name in written)
    return model


def _float32_nodes(model: ModelProto, modules: Sequence[str]) -> list[str]:
    """Return the names of nodes that stay in float32: those of modules, and what has no weight.

    A product of two activations, as in attention, has none.
    """
    constants = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    weights = {name for name, axes in constants.items() if axes > 1}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def stays(node: Any) -> bool:
        read = [name for name in node.input if name in constants]
        if node.op_type == "MatMul":  # the weight of a linear layer has lost its name, its bias has not
            read += [name for added in readers.get(node.output[0], []) for name in added.input if name in constants]
        of_modules = any(f".{module}." in f".{name}" for module in modules for name in read)
        return of_modules or weights.isdisjoint(node.input)

    return [node.name for node in model.graph.node if stays(node)]


class _Feeds:
    """Inputs of a graph, one after the other, as ONNX Runtime's calibration reads them."""

    def __init__(self, feeds: Iterable[Arrays]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's quantisation from advising what it can be given beforehand."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _written(
    models: Sequence[tuple[str, onnx_files.Ports, ModelProto]], folder: Path, log: Callable[[str], object]
) -> dict[str, Any]:
    """Write graphs, which share their weights if there are several. Describes them."""
    if len(models) > 1:
        shared_weights.share_weights([model for _, _, model in models], folder)
    described = {}
    for file, ports, model in models:
        (folder / file).write_bytes(model.SerializeToString())
        described[file] = onnx_files.describe_graph(folder, file, ports)
        log(f"{file}: calibrated")
    return described


def _compare_speech(
    voice: OnnxVoice,
    whole: OnnxNetwork,
    quantised: OnnxNetwork,
    utterances: Sequence[Arrays],
    log: Callable[[str], object],
) -> dict[str, float]:
    spectral = Spectral(SpectralRecipe())
    own, others = [], []
    before: np.ndarray | None = None
    for seed, utterance in enumerate(utterances):
        inputs = speech_inputs(voice, utterance, seed)
        mel, mel_int8 = (log_mel(spectral, network.run(inputs)[0]) for network in (whole, quantised))
        own.append(mel_distance(mel, mel_int8))
        if before is not None:
            others.append(mel_distance(mel, before))
        before = mel
    found = {"mel_distance": float(np.mean(own)), "mel_distance_of_two_utterances": float(np.mean(others))}
    log(
        f"speech in INT8 is {found['mel_distance']:.3f} from that in float32 in log-mel, and two utterances are "
        f"{found['mel_distance_of_two_utterances']:.3f} from one another"
    )
    return found


def log_mel(spectral: Spectral, wave_S: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram of a waveform, (T, M)."""
    return spectral.log_mel(spectral.magnitude(torch.from_numpy(wave_S))).numpy()


def mel_distance(one_TM: np.ndarray, other_TM: np.ndarray) -> float:
    """Return the mean absolute difference of two log-mel spectrograms, over the frames that both have."""
    frames = min(len(one_TM), len(other_TM))
    return float(abs(one_TM[:frames] - other_TM[:frames]).mean())


def _compare_predictions(
    voice: OnnxVoice, whole: Path, folder: Path, utterances: Sequence[Arrays], log: Callable[[str], object]
) -> dict[str, float]:
    assert voice.gpt is not None, "the voice has a decoder"
    divergences, same = [], []
    networks = [
        (
            OnnxNetwork(path / onnx_files.PROMPT, onnx_files.prompt_ports(voice.gpt)),
            OnnxNetwork(path / onnx_files.STEP, onnx_files.step_ports(voice.gpt)),
        )
        for path in (whole, folder)
    ]
    for utterance in utterances:
        for prompt, code in _prompts(voice, utterance):
            logits = []
            for prompt_network, step_network in networks:
                logits_V, cache = prompt_network.run(prompt)
                logits.append((logits_V, step_network.run(step_inputs(voice, prompt, cache, code))[0]))
            for exact_V, int8_V in zip(*logits, strict=True):
                divergences.append(divergence(exact_V, int8_V))
                same.append(exact_V.argmax() == int8_V.argmax())
    found = {"divergence": float(np.mean(divergences)), "same_most_likely_code": float(np.mean(same))}
    log(
        f"predictions in INT8 are {found['divergence']:.4f} nats from those in float32; the most likely code is the "
        f"same in {found['same_most_likely_code']:.0%}"
    )
    return found


def divergence(logits_V: np.ndarray, others_V: np.ndarray) -> float:
    """Return the Kullback-Leibler divergence of a prediction from another one, in nats."""
    one, other = (x - x.max() - math.log(np.exp(x - x.max()).sum()) for x in (logits_V, others_V))
    return float((np.exp(one) * (one - other)).sum())


def _largest_distance(found: Mapping[str, Any]) -> float:
    """Return how far speech in INT8 may be from that in float32."""
    return float(MAX_MEL_SHARE * found["mel_distance_of_two_utterances"])


def _check(found: Mapping[str, Any]) -> None:
    """Raise RunError if INT8 differs too much from float32."""
    if "mel_distance" in found:
        most = _largest_distance(found)
        if not found["mel_distance"] <= most:
            raise RunError(
                f"Speech in INT8 differs from that in float32 by {found['mel_distance']:.3f} in log-mel, and at most "
                f"{most:.3f} is accepted, a tenth of what two utterances differ: export with --to onnx, or calibrate "
                "on a --store of the same voice."
            )
    if "divergence" in found and not found["divergence"] <= MAX_DIVERGENCE:
        raise RunError(
            f"Predictions in INT8 differ from those in float32 by {found['divergence']:.3f} nats, and at most "
            f"{MAX_DIVERGENCE} is accepted: export with --to onnx, or calibrate on a --store of the same voice."
        )
