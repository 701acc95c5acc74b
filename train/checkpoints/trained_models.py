"""Load trained networks from a run or from one of upstream's files, and export those of a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headrace.featurize.features.codebooks import codebook_digest
from headrace.featurize.files import run_checkpoints
from headrace.store.errors import RunError
from headrace.store.storage import StoragePath
from headrace.train.checkpoints import export, upstream_files
from headrace.train.checkpoints.checkpoint import CorruptCheckpoint, load
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.checkpoints.origin import Origin
from headrace.train.config import RunConfig, config_path, read_config
from headrace.train.config_sections import STAGES
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.presets import PRESETS
from headrace.train.models.sizes import decoder_sizes, generator_sizes
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenCheckpoint:
    """The checkpoint of a run whose weights are used."""

    config: RunConfig
    state: Mapping[str, Any]
    source: str
    """The run, the step, and why that one was chosen."""


def load_sovits(path: Path, at: str = "", log: Callable[[str], object] | None = None) -> SynthesizerTrn:
    """Load the SoVITS generator of a run or of a file for inference, without its posterior encoder.

    Args:
        at: which checkpoint of a run, as for `run_checkpoints.choices`.
        log: is told which one it is.
    Raises:
        RunError: there is none, it is damaged, or it belongs to another network.
    """
    if path.is_dir():
        chosen = choose(path, "sovits", at, log)
        weights = weights_of(chosen.state, "generator", path)
        sizes, recorded = _generator_sizes(chosen.config, weights), codebook_in(chosen.state)
        origin, ranges = Origin.from_json(chosen.state.get("origin")), ranges_in(chosen.state)
    else:
        file = upstream_files.read(path)
        weights, recorded, origin, ranges = file.weights, file.codebook, file.origin, None
        version = _version(path, weights, "a SoVITS generator of ")
        sizes = generator_sizes(weights, export.SOVITS_SIZES[version])
    model = SynthesizerTrn(sizes)
    del model.enc_q
    load_strict(model, _without_posterior_encoder(weights), str(path))
    model.codebooks = frozenset({recorded, codebook_digest(weights)} - {""})
    model.origin, model.ranges = origin.describe(), ranges
    return model.eval()


def load_gpt(path: Path, at: str = "", log: Callable[[str], object] | None = None) -> Text2SemanticDecoder:
    """Load the text-to-semantic decoder of a run or of a file.

    Args:
        at, log: as for `load_sovits`.
    Raises:
        RunError: there is none, it is damaged, or it belongs to another network.
    """
    if path.is_dir():
        chosen = choose(path, "gpt", at, log)
        weights = weights_of(chosen.state, "model", path)
        sizes, recorded = decoder_sizes(weights, PRESETS[chosen.config.model.preset].gpt), codebook_in(chosen.state)
        origin, ranges = Origin.from_json(chosen.state.get("origin")), ranges_in(chosen.state)
    else:
        file = upstream_files.read(path)
        weights, recorded, origin, ranges = file.weights, file.codebook, file.origin, None
        version = _version(path, weights, "a text-to-semantic decoder of ")
        sizes = decoder_sizes(weights, export.GPT_SIZES[version])
    model = Text2SemanticDecoder(sizes)
    load_strict(model, weights, str(path))
    model.codebook = recorded
    model.origin, model.ranges = origin.describe(), ranges
    return model.eval()


def export_run(
    run: Path,
    out: Path,
    name: str = "",
    at: str = "",
    log: Callable[[str], object] | None = None,
    *,
    mixed_origins: bool = False,
) -> tuple[Path, str]:
    """Export the weights of a run in upstream's format.

    Args:
        out: a file, or an existing folder: then the file gets the name that upstream would give it.
        name: of the voice; that of the folder of the run if it is not given.
        at, log: as for `load_sovits`.
        mixed_origins: export a model that was trained on MFCC too, which upstream makes by HuBERT.

    Returns:
        The file and its version.

    Raises:
        RunError: there is no run or no checkpoint.
        StoreError: the file cannot be written.
        UsageError: no published version has the sizes of the run's model, or it was trained on MFCC.
    """
    chosen = choose(run, read_config(run).model.stage, at, log)
    config, state = chosen.config, chosen.state
    weights = weights_of(state, "model" if config.model.stage == "gpt" else "generator", run)
    origin = Origin.from_json(state.get("origin"))
    recorded: dict[str, Any] = {"origin": origin, "mixed_origins": mixed_origins}
    epoch, step, name = state["stage"].get("epoch"), state.get("step"), name or run.resolve().name
    if type(epoch) is not int or type(step) is not int:
        raise RunError(f"The checkpoint of {run} does not say its epoch and step.")
    epoch -= 1  # that one is in progress; upstream counts those that are done
    if config.model.stage == "gpt":
        decoder_ = Text2SemanticDecoder(decoder_sizes(weights, PRESETS[config.model.preset].gpt))
        load_strict(decoder_, weights, str(run))
        decoder_.codebook = codebook_in(state)
        file = out / export.gpt_file(name, epoch) if out.is_dir() else out
        return file, export.export_gpt(file, decoder_, epoch=epoch, **recorded)
    model = SynthesizerTrn(_generator_sizes(config, weights))
    load_strict(model, weights, str(run))
    file = out / export.sovits_file(name, epoch, step) if out.is_dir() else out
    return file, export.export_sovits(
        file, model, name=name, epoch=epoch, step=step, codebook=codebook_in(state), **recorded
    )


def store_of(path: Path | None, stage: str) -> StoragePath | None:
    """Return the store that a run was trained on, or that run of a voice; None for anything else."""
    for run in () if path is None else (path, path / stage):
        if config_path(run).exists():
            return read_config(run).store
    return None


def choose(run: Path, stage: str, at: str = "", log: Callable[[str], object] | None = None) -> ChosenCheckpoint:
    """Load the checkpoint of a run that is chosen. Warns of each one that is damaged, for which another stands in.

    Args:
        run: its folder, or that of a voice, which has a run of each stage. It may be in training.
        at, log: as for `load_sovits`.
    Raises:
        UsageError: `at` is none of its values.
        RunError: there is no run of this stage, or no such checkpoint, or none is intact.
    """
    if not config_path(run).exists() and config_path(run / stage).exists():
        run = run / stage
    config = read_config(run)
    if config.model.stage != stage:
        raise RunError(
            f"{run} is a run of stage {config.model.stage}, and what is needed here is one of stage {stage}."
        )
    gone: set[int] = set()
    damaged = 0
    while choices := [choice for choice in run_checkpoints.choices(run, at) if choice.step not in gone]:
        choice = choices[0]
        path = run_checkpoints.path_of(run / run_checkpoints.FOLDER, choice.step)
        gone.add(choice.step)
        try:
            state = load(path)
        except CorruptCheckpoint as fault:
            if path.is_file():  # and otherwise a run that goes on has deleted it
                damaged += 1
                warnings.warn(f"{path} is damaged ({fault}): trying the next best one", stacklevel=3)
            continue
        if damaged:
            warnings.warn(f"the weights of {run} are those of step {choice.step}", stacklevel=3)
        source = f"{run}, step {choice.step} ({choice.reason})"
        if log is not None:
            log(f"weights of {source}")
        return ChosenCheckpoint(config=config, state=state, source=source)
    raise RunError(f"No checkpoint of {run} can be used: all are damaged. Name another run, or train it again.")


def describe_checkpoints(run: Path) -> list[dict[str, Any]]:
    """Return step, validation loss (None for none), age in seconds, bytes and path of each checkpoint, ascending.

    Args:
        run: the folder of a run, or of a voice, whose runs come one after the other. It may be in training.
    Raises:
        RunError: it is none.
    """
    inner = [run / stage for stage in STAGES if config_path(run / stage).exists()]
    if inner and not config_path(run).exists():
        return [one for stage in inner for one in describe_checkpoints(stage)]
    stage = read_config(run).model.stage
    folder, now, found = run / run_checkpoints.FOLDER, time.time(), []
    losses = run_checkpoints.validated(run, run_checkpoints.steps_in(folder))
    best = run_checkpoints.best_of(run, losses)
    for step in run_checkpoints.steps_in(folder):
        path = run_checkpoints.path_of(folder, step)
        with suppress(FileNotFoundError):  # a run that goes on has deleted it
            stat = path.stat()
            found.append(
                {
                    "stage": stage,
                    "step": step,
                    "loss": losses.get(step),
                    "best": step == best,
                    "age_s": max(0.0, now - stat.st_mtime),
                    "bytes": stat.st_size,
                    "path": str(path),
                }
            )
    return found


def weights_of(state: Mapping[str, Any], name: str, run: Path) -> dict[str, Tensor]:
    """Return the weights of a network in a checkpoint. Raises RunError where it has none of this name."""
    stage = state.get("stage")
    weights = stage.get(name) if isinstance(stage, Mapping) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise RunError(f"The checkpoint of {run} holds no weights of a {name}.")
    return weights


def codebook_in(state: Mapping[str, Any]) -> str:
    """Return the digest of the codebook of the codes that a checkpoint was trained on; empty if it has none."""
    codebook = state.get("codebook", "")
    return codebook[:64] if isinstance(codebook, str) else ""


def ranges_in(state: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """Return the ranges of activations in a checkpoint of a model that was trained for INT8; None in another one."""
    ranges = state["stage"].get("ranges")
    return ranges if isinstance(ranges, Mapping) else None


def _generator_sizes(config: RunConfig, weights: Mapping[str, Tensor]) -> SovitsConfig:
    """Return the sizes of a run's generator: those of its weights, and of its preset what they do not tell."""
    frozen = config.model.source is not None or config.model.codebook == "store"
    return replace(generator_sizes(weights, PRESETS[config.model.preset].sovits), freeze_quantizer=frozen)


def _without_posterior_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(export.TRAINING_PART)}


def _version(path: Path, weights: Mapping[str, Tensor], wanted: str) -> str:
    described = upstream_files.describe(weights)
    if not described.startswith(wanted):
        raise RunError(f"{path} holds {described}, and what is needed here is {wanted.removesuffix(' of ')}.")
    return described.removeprefix(wanted)
