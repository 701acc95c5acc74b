"""Graphs of ONNX: networks are traced, written, and compared with torch.

Shapes: as in `onnx_networks`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.train.deployment import onnx_files, shared_weights
from headrace.train.deployment.onnx_files import OnnxNetwork, Ports
from headrace.train.deployment.onnx_networks import (
    PromptNetwork,
    RecordingNetwork,
    SpeechNetwork,
    StepNetwork,
    plain_convolutions,
)
from headrace.train.deployment.trained_int8 import rounded_network, store_whole_numbers
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
"""Largest difference from torch of any output, in float32."""
INT8_TOLERANCE = 0.05
"""Largest mean difference from torch of any output in INT8, as a share of its mean magnitude, or of ROUNDING_TIMES what
rounding changes: a number that lies just between two whole ones may be rounded to either, and more follows from that.
Of one voice it was 0.16 of the magnitude for codes at random, where rounding changed 0.48."""
ROUNDING_TIMES = 10
CHECKED_LENGTHS = ((1, 1), (6, 9), (21, 14))
"""Codes and phones with which graphs are compared with torch."""
HEARD_SAMPLES = 33_000, 16_000, 400
"""Samples at 16 kHz with which HuBERT is compared with torch."""
IMAGE_AXES = 4
"""Axes of an image: batch, channels, height and width."""
OTHER_CODES = 0.1
"""Share of codes that may differ from torch's: those that lie between two entries of the codebook."""


@dataclass(frozen=True)
class Graph:
    """A graph to export, with inputs to trace and to compare it with."""

    file: str
    network: nn.Module
    ports: Ports
    examples: Sequence[tuple[Any, ...]]
    """The arguments of the network; the first are those that it is traced with."""
    relative: bool = False
    """Whether a difference from torch is a share of the largest number that torch computes."""
    exact: nn.Module | None = None
    """The network without rounding, if this one computes with the numbers of INT8."""


def graph_groups(
    generator: SynthesizerTrn | None, decoder: Text2SemanticDecoder | None, *, in_int8: bool = False
) -> Iterator[list[Graph]]:
    """Yield the graphs of networks, those of one network together.

    Args:
        in_int8: with the numbers of INT8, for which the networks were trained.
    """
    random = torch.Generator().manual_seed(0)
    rounded: Callable[[Any], Any] = rounded_network if in_int8 else lambda network: network
    if generator is not None:
        plain = plain_convolutions(generator, images=not in_int8)  # ranges are those of the trained layers
        speech = _speech_graph(rounded(plain), random)
        yield [replace(speech, exact=SpeechNetwork(plain).eval()) if in_int8 else speech]
    if decoder is not None:
        of_gpt = rounded(decoder)
        prompt, step = _prompt_graph(of_gpt, random), _step_graph(of_gpt, random)
        if in_int8:
            prompt = replace(prompt, exact=PromptNetwork(decoder).eval())
            step = replace(step, exact=StepNetwork(decoder).eval())
        yield [prompt, step]


def recording_graph(hubert: nn.Module, generator: SynthesizerTrn) -> Graph:
    """Return the graph of HuBERT and of the quantiser of a generator."""
    network = RecordingNetwork(hubert, generator).eval()
    random = torch.Generator().manual_seed(0)
    examples = [(100 * torch.randn(samples, generator=random),) for samples in HEARD_SAMPLES]
    ports = onnx_files.recording_ports(generator.config)
    return Graph(onnx_files.RECORDING, network, ports, examples, relative=True)


def write_graphs(
    group: Sequence[Graph], folder: Path, out: Path, log: Callable[[str], object] | None
) -> dict[str, Any]:
    """Write graphs, which share their weights if there are several, and compare them with torch.

    Args:
        folder: is there, and gets the files.
        out: where they will lie, for the message of an error.
        log: is told of every graph.
    Returns:
        What onnx.json says of each, by its file.
    Raises:
        RunError: a graph differs from torch by more than TOLERANCE, or INT8_TOLERANCE.
    """
    models = [_export(graph) for graph in group]
    parameters = [_count_parameters(model) for model in models]
    if len(models) > 1:
        shared_weights.share_weights(models, folder)
    for graph, model in zip(group, models, strict=True):
        (folder / graph.file).write_bytes(model.SerializeToString())
    del models
    described = {}
    for graph, count in zip(group, parameters, strict=True):
        limit = TOLERANCE if graph.exact is None else INT8_TOLERANCE
        exported = OnnxNetwork(folder / graph.file, graph.ports, threads=1)
        difference = max(differences(graph, exported))
        if not difference <= limit:
            raise RunError(
                f"{out} is not written: {graph.file} differs from torch by {difference:.1e}, and at most "
                f"{limit:.0e} is expected of {'float32' if graph.exact is None else 'INT8'}."
            )
        described[graph.file] = onnx_files.describe_graph(folder, graph.file, graph.ports) | {
            "parameters": count,
            "difference": difference,
        }
        if log is not None:
            log(f"{graph.file}: {count / 1e6:.1f} M parameters, within {difference:.1e} of torch")
    return described


def _count_parameters(model: ModelProto) -> int:
    """Return how many numbers the tensors of a graph have, without scales and zero points."""
    rounding = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in rounding for name in node.input[1:]}
    return sum(math.prod(one.dims) for one in model.graph.initializer if one.name not in scales)


def differences(graph: Graph, exported: OnnxNetwork) -> Iterator[float]:
    """Yield the largest difference of each output from torch's, of each example of a graph.

    In INT8 it is the mean difference, as a share of the mean magnitude or of ROUNDING_TIMES what rounding changes,
    whichever is more.
    """
    names = [port.name for port in graph.ports.inputs]
    for arguments in graph.examples:
        with torch.no_grad():
            wanted = _outputs(graph.network(*arguments))
            exact = wanted if graph.exact is None else _outputs(graph.exact(*arguments))
        found = exported.run({name: value.numpy() for name, value in zip(names, _flat(arguments), strict=True)})
        for expected, unrounded, output in zip(wanted, exact, found, strict=True):
            if output.shape != expected.shape:
                yield math.inf
            elif expected.dtype == torch.int64:
                yield math.inf if (output != expected.numpy()).mean() > OTHER_CODES else 0.0
            elif graph.exact is not None:
                rounding = ROUNDING_TIMES * float((expected - unrounded).abs().sum())
                most = max(float(expected.abs().sum()), rounding, 1e-12)
                yield float(abs(output - expected.numpy()).sum()) / most
            else:
                scale = max(1.0, float(expected.abs().max())) if graph.relative else 1.0
                yield float(abs(output - expected.numpy()).max(initial=0.0)) / scale


def _outputs(computed: Any) -> Sequence[Tensor]:
    return [computed] if isinstance(computed, Tensor) else computed


def _speech_graph(generator: SynthesizerTrn, random: torch.Generator) -> Graph:
    config = generator.config

    def example(codes: int, phones: int) -> tuple[Tensor, ...]:
        reference = torch.rand(config.spec_bins, 5 * codes + 3, generator=random)
        noise = torch.randn(config.inter_channels, 2 * codes + (codes > 6), generator=random)
        speaker = [torch.randn(config.speaker_channels, generator=random)] if config.speaker_channels else []
        ids = _ids(config.codebook_size, codes, random), _ids(config.symbols, phones, random)
        return (*ids, reference, noise, *speaker)

    return Graph(
        onnx_files.SOVITS,
        SpeechNetwork(generator).eval(),
        onnx_files.sovits_ports(config),
        [example(*lengths) for lengths in reversed(CHECKED_LENGTHS)],
    )


def _prompt_graph(decoder: Text2SemanticDecoder, random: torch.Generator) -> Graph:
    config = decoder.config
    examples = [
        (_ids(config.symbols, phones, random), torch.randn(phones, config.bert_channels, generator=random), codes_Q)
        for codes, phones in reversed(CHECKED_LENGTHS)
        for codes_Q in (_ids(config.codes, codes, random), torch.zeros(0, dtype=torch.int64))
    ]
    return Graph(onnx_files.PROMPT, PromptNetwork(decoder).eval(), onnx_files.prompt_ports(config), examples)


def _step_graph(decoder: Text2SemanticDecoder, random: torch.Generator) -> Graph:
    config = decoder.config
    heads, channels = config.heads, config.channels // config.heads

    def example(codes: int, phones: int, capacity: int) -> tuple[Any, ...]:
        cache = [torch.randn(heads, capacity, channels, generator=random) for _ in range(2 * config.layers)]
        return _ids(config.codes, 1, random), torch.tensor(codes), torch.tensor(codes + phones), cache

    examples = [example(*lengths, 40 + sum(lengths)) for lengths in reversed(CHECKED_LENGTHS)]
    return Graph(onnx_files.STEP, StepNetwork(decoder).eval(), onnx_files.step_ports(config), examples)


def _ids(count: int, size: int, random: torch.Generator) -> Tensor:
    return torch.randint(count, (size,), generator=random)


def _flat(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        yield from (argument if isinstance(argument, list) else [argument])


def _export(graph: Graph) -> ModelProto:
    """Return a graph in the format of ONNX."""
    with _quiet_exporter():
        program = torch.onnx.export(
            graph.network,
            graph.examples[0],
            dynamo=True,
            opset_version=onnx_files.OPSET,
            dynamic_shapes=_dynamic_shapes(graph),
            input_names=[port.name for port in graph.ports.inputs],
            output_names=[port.name for port in graph.ports.outputs],
            verbose=False,
        )
        assert program is not None, "dynamo returns a program"
        model = program.model_proto
    for node in model.graph.node:  # the names of Python modules and lines are of no use there
        del node.metadata_props[:]
        node.doc_string = ""
    store_whole_numbers(model)
    images = []
    if graph.file == onnx_files.SOVITS:  # there ONNX Runtime adds within convolutions, if it knows the sizes of images
        images = [one for one in model.graph.value_info if len(one.type.tensor_type.shape.dim) == IMAGE_AXES]
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
    for image in images:
        model.graph.value_info.add(name=image.name, type=image.type)
    return model


def _dynamic_shapes(graph: Graph) -> tuple[Any, ...]:
    """Return which axes of the arguments differ from call to call, as `torch.export` is told."""
    dims: dict[str, Any] = {}

    def axes(shape: tuple[int | str, ...]) -> dict[int, Any] | None:
        named = {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        return {axis: dims.setdefault(name, torch.export.Dim(name)) for axis, name in named.items()} or None

    ports = iter(graph.ports.inputs)
    return tuple(
        [axes(next(ports).shape) for _ in argument] if isinstance(argument, list) else axes(next(ports).shape)
        for argument in graph.examples[0]
    )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter from printing what it tells developers of torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
