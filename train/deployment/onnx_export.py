"""Export voices to ONNX: what is exported, and the folder, which appears when all graphs are compared with torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

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
from headrace.train.deployment import onnx_files
from headrace.train.deployment.int8 import quantise_voice
from headrace.train.deployment.onnx_graphs import TOLERANCE, graph_groups, recording_graph, write_graphs
from headrace.train.inference.reference import reference_from_store
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference

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
        RunError: a graph differs from torch, as for `write_graphs`.
        StoreError: the folder cannot be written.
    """
    _check_installed()
    with output_folder(out) as draft:
        graphs: dict[str, Any] = {}
        for group in graph_groups(networks.generator, networks.decoder):
            graphs |= write_graphs(group, draft, out, log)
        if hubert is not None:
            assert networks.generator is not None, "its quantiser makes the codes"
            graphs |= write_graphs([recording_graph(hubert, networks.generator)], draft, out, log)
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
        for group in graph_groups(trained.generator, trained.decoder, in_int8=True):
            graphs |= write_graphs(group, draft, out, log)
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
