"""Load trained networks from a run or from one of upstream's files, and export those of a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headrace.featurize.features.codebooks import TENSOR_NAMES, codebook_digest
from headrace.store.errors import RunError
from headrace.train.checkpoints import export, upstream_files
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.config import RunConfig, config_path, read_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig


def load_sovits(path: Path) -> SynthesizerTrn:
    """Load the SoVITS generator of a run or of a file for inference, without its posterior encoder.

    Raises:
        RunError: there is none, it is damaged, or it belongs to another network.
    """
    if path.is_dir():
        config, state = _newest(path, "sovits")
        weights = _weights(state, "generator", path)
        sizes, recorded = _generator_sizes(config, weights), _codebook(state)
    else:
        file = upstream_files.read(path)
        weights, recorded = file.weights, file.codebook
        sizes = export.SOVITS_SIZES[_version(path, weights, "a SoVITS generator of ")]
    model = SynthesizerTrn(sizes)
    del model.enc_q
    load_strict(model, _without_posterior_encoder(weights), str(path))
    model.codebooks = frozenset({recorded, codebook_digest(weights)} - {""})
    return model.eval()


def load_gpt(path: Path) -> Text2SemanticDecoder:
    """Load the text-to-semantic decoder of a run or of a file.

    Raises:
        RunError: there is none, it is damaged, or it belongs to another network.
    """
    if path.is_dir():
        config, state = _newest(path, "gpt")
        weights = _weights(state, "model", path)
        sizes, recorded = _decoder_sizes(config, weights), _codebook(state)
    else:
        file = upstream_files.read(path)
        weights, recorded = file.weights, file.codebook
        sizes = export.GPT_SIZES[_version(path, weights, "a text-to-semantic decoder of ")]
    model = Text2SemanticDecoder(sizes)
    load_strict(model, weights, str(path))
    model.codebook = recorded
    return model.eval()


def export_run(run: Path, out: Path, name: str = "") -> tuple[Path, str]:
    """Export the newest weights of a run in upstream's format.

    Args:
        out: a file, or an existing folder: then the file gets the name that upstream would give it.
        name: of the voice; that of the folder of the run if it is not given.

    Returns:
        The file and its version.

    Raises:
        RunError: there is no run or no checkpoint.
        StoreError: the file cannot be written.
        UsageError: no published version has the sizes of the run's model.
    """
    config = read_config(run)
    config, state = _newest(run, config.model.stage)
    weights = _weights(state, "model" if config.model.stage == "gpt" else "generator", run)
    epoch, step, name = state["stage"].get("epoch"), state.get("step"), name or run.resolve().name
    if type(epoch) is not int or type(step) is not int:
        raise RunError(f"The newest checkpoint of {run} does not say its epoch and step.")
    if config.model.stage == "gpt":
        decoder_ = Text2SemanticDecoder(_decoder_sizes(config, weights))
        load_strict(decoder_, weights, str(run))
        decoder_.codebook = _codebook(state)
        file = out / export.gpt_file(name, epoch) if out.is_dir() else out
        return file, export.export_gpt(file, decoder_, epoch=epoch)
    model = SynthesizerTrn(_generator_sizes(config, weights))
    load_strict(model, weights, str(run))
    file = out / export.sovits_file(name, epoch, step) if out.is_dir() else out
    return file, export.export_sovits(file, model, name=name, epoch=epoch, step=step, codebook=_codebook(state))


def _newest(run: Path, stage: str) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config of a run and its newest intact checkpoint. Warns of each newer one that is damaged.

    Args:
        run: its folder, or that of a voice, which has a run of each stage.
    """
    if not config_path(run).exists() and config_path(run / stage).exists():
        run = run / stage
    config = read_config(run)
    if config.model.stage != stage:
        raise RunError(
            f"{run} is a run of stage {config.model.stage}, and what is needed here is one of stage {stage}."
        )
    state, damaged = Checkpoints(run / "checkpoints").load_newest()
    for line in damaged:
        warnings.warn(line, stacklevel=3)
    if damaged:
        warnings.warn(f"the weights of {run} are those of step {state['step']}", stacklevel=3)
    return config, state


def _weights(state: Mapping[str, Any], name: str, run: Path) -> dict[str, Tensor]:
    """Return the weights of a network in a checkpoint. Raises RunError where it has none of this name."""
    stage = state.get("stage")
    weights = stage.get(name) if isinstance(stage, Mapping) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise RunError(f"The newest checkpoint of {run} holds no weights of a {name}.")
    return weights


def _codebook(state: Mapping[str, Any]) -> str:
    """Return the digest of the codebook of the codes that a checkpoint was trained on; empty if it has none."""
    codebook = state.get("codebook", "")
    return codebook[:64] if isinstance(codebook, str) else ""


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    """Return the length of a tensor. Raises RunError where there is none, or it has no rows."""
    if name not in weights or not weights[name].ndim or not len(weights[name]):
        raise RunError(f"The weights are not of this model: {name} is missing, or empty.")
    return len(weights[name])


def _generator_sizes(config: RunConfig, weights: Mapping[str, Tensor]) -> SovitsConfig:
    """Return the sizes of a run's generator: those of its preset, with the numbers of phones and codes of its store."""
    return replace(
        PRESETS[config.model.preset].sovits,
        symbols=_rows(weights, "enc_p.text_embedding.weight"),
        codebook_size=_rows(weights, TENSOR_NAMES["entries"]),
        freeze_quantizer=config.model.init is not None or config.model.codebook == "store",
    )


def _decoder_sizes(config: RunConfig, weights: Mapping[str, Tensor]) -> GptConfig:
    """Return the sizes of a run's decoder: those of its preset, with the numbers of phones and codes of its store."""
    symbols = _rows(weights, "ar_text_embedding.word_embeddings.weight")
    vocabulary = _rows(weights, "ar_predict_layer.weight")
    return replace(PRESETS[config.model.preset].gpt, symbols=symbols, codes=vocabulary - 1)


def _without_posterior_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(export.TRAINING_PART)}


def _version(path: Path, weights: Mapping[str, Tensor], wanted: str) -> str:
    described = upstream_files.describe(weights)
    if not described.startswith(wanted):
        raise RunError(f"{path} holds {described}, and what is needed here is {wanted.removesuffix(' of ')}.")
    return described.removeprefix(wanted)
