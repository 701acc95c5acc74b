"""Export voices to ONNX: every graph is compared with torch before the folder appears.

Shapes: as in `onnx_networks`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn

from headrace import store as stores
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.advice import command
from headrace.store.errors import RunError, StoreError, UsageError
from headrace.store.storage import StoragePath
from headrace.store.storage.output_files import output_folder
from headrace.store.storage.temporary import temporary_folder
from headrace.train.checkpoints import trained_models, upstream_files
from headrace.train.checkpoints.origin import UNKNOWN, Origin, check_same_codes
from headrace.train.config import config_path, read_config
from headrace.train.deployment import onnx_files, shared_weights
from headrace.train.deployment.int8 import quantise_voice
from headrace.train.deployment.onnx_files import OnnxNetwork, Ports
from headrace.train.deployment.onnx_networks import (
    PromptNetwork,
    RecordingNetwork,
    SpeechNetwork,
    StepNetwork,
    plain_convolutions,
)
from headrace.train.deployment.trained_int8 import rounded_network, store_whole_numbers
from headrace.train.inference.reference import reference_from_store
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
"""Largest difference from torch of any output, in float32."""
INT8_TOLERANCE = 0.05
"""Largest mean difference from torch of any output in INT8, as a share of its mean magnitude: a number that lies just
between two whole ones may be rounded to either, and what follows from that."""
CHECKED_LENGTHS = ((1, 1), (6, 9), (21, 14))
"""Codes and phones with which graphs are compared with torch."""
HEARD_SAMPLES = 33_000, 16_000, 400
"""Samples at 16 kHz with which HuBERT is compared with torch."""
OTHER_CODES = 0.1
"""Share of codes that may differ from torch's: those that lie between two entries of the codebook."""
CALIBRATED = 24
"""Utterances that INT8 is calibrated on and compared with."""
_WHAT = {"sovits": "a SoVITS generator of ", "gpt": "a text-to-semantic decoder of "}


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What is exported."""

    generator: SynthesizerTrn | None
    decoder: Text2SemanticDecoder | None
    sources: Mapping[str, str]
    """Where the weights come from, by stage."""
    origins: Mapping[str, Origin]

    def part(self, *, trained: bool) -> Networks:
        """Return only the networks that were trained for INT8, or only the others."""
        both = self.generator, self.decoder
        kept: list[Any] = [one if one is not None and (one.ranges is not None) == trained else None for one in both]
        return dataclasses.replace(self, generator=kept[0], decoder=kept[1])

    @property
    def stages(self) -> list[str]:
        """The stages of the networks that are there."""
        return [stage for stage, one in (("sovits", self.generator), ("gpt", self.decoder)) if one is not None]


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


def load_networks(path: Path, at: str = "", log: Callable[[str], object] | None = None) -> Networks:
    """Load the networks of a voice, of a run or of a file of weights.

    Raises:
        RunError, UsageError: as `trained_models.load_sovits`; or both are trained on codes of different codebooks.
    """
    stages = [path.name] if path.is_file() else _stages(path)
    if path.is_file():
        described = upstream_files.describe(upstream_files.read(path).weights)
        stages = [stage for stage, words in _WHAT.items() if described.startswith(words)]
        if not stages:
            raise RunError(f"{path} holds {described}, and a SoVITS generator or a text-to-semantic decoder is needed.")
    generator = trained_models.load_sovits(path, at, log) if "sovits" in stages else None
    decoder = trained_models.load_gpt(path, at, log) if "gpt" in stages else None
    if generator is not None and decoder is not None:
        check_same_codes(decoder, generator, mixed_origins=False)
    sources, origins = {}, {}
    for stage in stages:
        sources[stage], origins[stage] = str(path.name), UNKNOWN
        if path.is_dir():
            chosen = trained_models.choose(path, stage, at)
            sources[stage], origins[stage] = chosen.source, Origin.from_json(chosen.state.get("origin"))
    return Networks(generator=generator, decoder=decoder, sources=sources, origins=origins)


def _stages(path: Path) -> list[str]:
    """Return the stages of a voice that have runs, or that of a run."""
    inner = [stage for stage in _WHAT if config_path(path / stage).exists()]
    return inner if inner and not config_path(path).exists() else [read_config(path).model.stage]


def export_onnx(
    networks: Networks,
    out: Path,
    *,
    reference: Reference | None = None,
    hubert: nn.Module | None = None,
    log: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Export networks to a folder that appears when every graph is there and compared with torch.

    Args:
        out: a folder that does not exist, or is empty.
        reference: is written beside the graphs.
        hubert: makes the codes of recordings, with the quantiser of the generator.
        log: is told of every graph.
    Returns:
        The content of onnx.json.
    Raises:
        UsageError: onnx, onnxscript or onnxruntime is not installed; or there is something at `out`.
        RunError: a graph differs from torch by more than TOLERANCE.
        StoreError: the folder cannot be written.
    """
    _check_installed()
    with output_folder(out) as draft:
        graphs: dict[str, Any] = {}
        for group in (*graph_groups(networks), *_recording_groups(networks, hubert)):
            graphs |= _write(group, draft, out, log)
        if reference is not None:
            (draft / onnx_files.REFERENCE_FILE).write_bytes(save(reference_arrays(reference)))
        voice = _describe_voice(networks, graphs) | onnx_files.describe_weights(draft)
        (draft / onnx_files.FILE).write_text(json.dumps(voice, indent=1) + "\n", encoding="utf-8")
    return voice


def export_int8(
    networks: Networks,
    out: Path,
    utterances: Sequence[Reference],
    *,
    reference: Reference | None = None,
    log: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Export networks in INT8 to a folder that appears when every graph is compared.

    Networks that were trained for INT8 are exported with the numbers of their training, and compared with torch. Others
    are calibrated, and compared with themselves in float32.

    Args:
        utterances: what INT8 is calibrated on, and compared; none are needed where all networks were trained for it.
        out, reference, log: as for `export_onnx`.
    Returns:
        The content of onnx.json.
    Raises:
        UsageError, RunError, StoreError: as `export_onnx`, and as `quantise_voice`.
    """
    _check_installed()
    trained, others = networks.part(trained=True), networks.part(trained=False)
    graphs: dict[str, Any] = {}
    quantisation: dict[str, Any] = {"trained": trained.stages}
    with temporary_folder() as work, output_folder(out) as draft:
        for group in graph_groups(trained, in_int8=True):
            graphs |= _write(group, draft, out, log, in_int8=True)
        if others.stages:
            in_float32 = export_onnx(others, work / "float32", log=log)
            arrays = [reference_arrays(utterance) for utterance in utterances]
            quantised = quantise_voice(work / "float32", draft, arrays, log)
            for file, graph in quantised["graphs"].items():
                graphs[file] = graph | {"parameters": in_float32["graphs"][file]["parameters"]}
            quantisation |= quantised["quantisation"]
        if reference is not None:
            (draft / onnx_files.REFERENCE_FILE).write_bytes(save(reference_arrays(reference)))
        voice = _describe_voice(networks, graphs) | {"precision": "int8", "quantisation": quantisation}
        voice |= onnx_files.describe_weights(draft)
        (draft / onnx_files.FILE).write_text(json.dumps(voice, indent=1) + "\n", encoding="utf-8")
    return voice


def calibration_utterances(
    store: StoragePath, networks: Networks, log: Callable[[str], object], count: int = CALIBRATED
) -> list[Reference]:
    """Read evenly spaced utterances of a store that INT8 is calibrated on.

    Args:
        log: is told where there are fewer than `count`.
    Raises:
        StoreError: it lacks what the networks read, or holds what they cannot read.
    """
    opened = stores.open(store)
    if missing := [name for name in ("phones", "semantic") if name not in opened.features]:
        raise StoreError(
            f"{store} holds no {' and no '.join(missing)}, and INT8 is calibrated on them: "
            f"{command('featurize add', store, *missing)} makes them."
        )
    config = SovitsConfig() if networks.generator is None else networks.generator.config
    usable = np.flatnonzero(opened.frames >= SpectralRecipe().min_frames)
    places = np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int)
    numbers = usable[np.unique(places)].tolist()
    found = {number: reference_from_store(store, str(number), config, prompt=True) for number in numbers}
    found = {number: one for number, one in found.items() if len(one.codes) and len(one.phones)}
    for number, one in found.items():
        if fault := _fault(one, networks):
            raise StoreError(
                f"INT8 cannot be calibrated on utterance {opened.ids[number]} of {store}: {fault}. Give a store that "
                "these weights were trained on by --store."
            )
    if len(found) < count:
        log(f"INT8 is calibrated on {len(found)} utterances in place of {count}: {store} has no more to choose from")
    return list(found.values())


def _fault(utterance: Reference, networks: Networks) -> str:
    """Return why networks cannot read an utterance, in words; empty if they can."""
    configs = [one.config for one in (networks.generator, networks.decoder) if one is not None]
    for name, ids, sizes in (
        ("phones", utterance.phones, [config.symbols for config in configs]),
        ("codes", utterance.codes, [_code_count(config) for config in configs]),
    ):
        if not 0 <= ids.min() <= ids.max() < min(sizes):
            return f"its {name} are from {ids.min()} to {ids.max()}, and the weights know those below {min(sizes)}"
    for name in ("spec", "bert", "speaker"):
        array = getattr(utterance, name)
        if array is not None and not np.isfinite(array).all():
            return f"its {name} is not finite"
    channels = None if networks.decoder is None else networks.decoder.config.bert_channels
    if channels and utterance.bert is not None and utterance.bert.shape[1] != channels:
        return f"its BERT features have {utterance.bert.shape[1]} channels, and the weights read {channels}"
    return ""


def _code_count(config: SovitsConfig | GptConfig) -> int:
    return config.codebook_size if isinstance(config, SovitsConfig) else config.codes


def graph_groups(networks: Networks, *, in_int8: bool = False) -> Iterator[list[Graph]]:
    """Yield the graphs of networks, those of one network together.

    Args:
        in_int8: with the numbers of INT8, for which the networks were trained.
    """
    random = torch.Generator().manual_seed(0)
    rounded: Callable[[Any], Any] = rounded_network if in_int8 else lambda network: network
    if networks.generator is not None:
        plain = plain_convolutions(networks.generator, images=not in_int8)  # ranges are those of the trained layers
        yield [_speech_graph(rounded(plain), random)]
    if networks.decoder is not None:
        decoder = rounded(networks.decoder)
        yield [_prompt_graph(decoder, random), _step_graph(decoder, random)]


def _recording_groups(networks: Networks, hubert: nn.Module | None) -> Iterator[list[Graph]]:
    """Yield the graph of HuBERT, where there is one."""
    if hubert is None:
        return
    assert networks.generator is not None, "its quantiser makes the codes"
    network = RecordingNetwork(hubert, networks.generator).eval()
    random = torch.Generator().manual_seed(0)
    examples = [(100 * torch.randn(samples, generator=random),) for samples in HEARD_SAMPLES]
    ports = onnx_files.recording_ports(networks.generator.config)
    yield [Graph(onnx_files.RECORDING, network, ports, examples, relative=True)]


def _write(
    group: Sequence[Graph], folder: Path, out: Path, log: Callable[[str], object] | None, *, in_int8: bool = False
) -> dict[str, Any]:
    """Write graphs, which share their weights if there are several, and compare them with torch. Describes them."""
    models = [_export(graph) for graph in group]
    parameters = [_count_parameters(model) for model in models]
    if len(models) > 1:
        shared_weights.share_weights(models, folder)
    for graph, model in zip(group, models, strict=True):
        (folder / graph.file).write_bytes(model.SerializeToString())
    del models
    described = {}
    for graph, count in zip(group, parameters, strict=True):
        limit = INT8_TOLERANCE if in_int8 else TOLERANCE
        exported = OnnxNetwork(folder / graph.file, graph.ports, threads=1)
        difference = max(differences(graph, exported, on_average=in_int8))
        if not difference <= limit:
            raise RunError(
                f"{out} is not written: {graph.file} differs from torch by {difference:.1e}, and at most "
                f"{limit:.0e} is expected of {'INT8' if in_int8 else 'float32'}."
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


def differences(graph: Graph, exported: OnnxNetwork, *, on_average: bool = False) -> Iterator[float]:
    """Yield the largest difference of each output from torch's, of each example of a graph.

    Args:
        on_average: yield the mean difference instead, as a share of the mean magnitude.
    """
    names = [port.name for port in graph.ports.inputs]
    for arguments in graph.examples:
        with torch.no_grad():
            outputs = graph.network(*arguments)
        found = exported.run({name: value.numpy() for name, value in zip(names, _flat(arguments), strict=True)})
        for expected, output in zip([outputs] if isinstance(outputs, Tensor) else outputs, found, strict=True):
            if output.shape != expected.shape:
                yield math.inf
            elif expected.dtype == torch.int64:
                yield math.inf if (output != expected.numpy()).mean() > OTHER_CODES else 0.0
            elif on_average:
                yield float(abs(output - expected.numpy()).sum() / max(expected.abs().sum(), 1e-12))
            else:
                scale = max(1.0, float(expected.abs().max())) if graph.relative else 1.0
                yield float(abs(output - expected.numpy()).max(initial=0.0)) / scale


def reference_arrays(reference: Reference) -> dict[str, np.ndarray]:
    """Return the arrays of a reference, by the names of its fields, without those that it lacks."""
    arrays = {field.name: getattr(reference, field.name) for field in dataclasses.fields(reference)}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}


def _check_installed() -> None:
    onnx_files.import_runtime()
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError("onnxscript is not installed: pip install 'headrace[onnx]'.") from error


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
    del model.graph.value_info[:], model.graph.metadata_props[:], model.metadata_props[:]
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


def _describe_voice(networks: Networks, graphs: Mapping[str, Any]) -> dict[str, Any]:
    import onnx
    import onnxruntime

    recipe = SpectralRecipe()
    generator, decoder = networks.generator, networks.decoder
    described: dict[str, Any] = {
        "format": onnx_files.FORMAT,
        "precision": "fp32",
        "sample_rate": recipe.sample_rate,
        "spectrogram": {"n_fft": recipe.n_fft, "win": recipe.win, "hop": recipe.hop},
        "symbols": "headrace-ipa",
        "sovits": None,
        "gpt": None,
        "graphs": graphs,
        "recipe": {
            "opset": onnx_files.OPSET,
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
            "tolerance": TOLERANCE,
        },
    }
    if generator is not None:
        described["sovits"] = _describe_network("sovits", generator, networks)
        described["sovits"]["codebooks"] = sorted(generator.codebooks)
    if decoder is not None:
        described["gpt"] = _describe_network("gpt", decoder, networks) | {"codebook": decoder.codebook}
    return described


def _describe_network(stage: str, network: SynthesizerTrn | Text2SemanticDecoder, networks: Networks) -> dict[str, Any]:
    return {
        "sizes": dataclasses.asdict(network.config),
        "source": networks.sources[stage],
        "origin": networks.origins[stage].to_json(),
    }
