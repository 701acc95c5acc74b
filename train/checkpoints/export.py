"""Export trained weights as upstream's inference and web UI load them: in half precision, with its config and names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headrace.store.errors import UsageError
from headrace.train.checkpoints import upstream_files
from headrace.train.checkpoints.origin import MFCC, UNKNOWN, Origin
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig

SOVITS_HEADERS = {"v1": upstream_files.ARCHIVE, "v2": upstream_files.ARCHIVE, "v2Pro": b"05", "v2ProPlus": b"06"}
SOVITS_SIZES = {version: PRESETS[version].sovits for version in SOVITS_HEADERS}
GPT_SIZES = {version: PRESETS[version].gpt for version in ("v1", "v2")}
"""Sizes of the published versions. v2Pro and v2ProPlus use the decoder of v2."""
SMALL = "small"
"""A preset that upstream loads as a v2 of other sizes, by the config in the file."""
SMALL_HEADER = b"01"
"""Says v2. Without it upstream takes a generator of v2 for one of v1 where the file is small."""
TRAINING_FIELDS = (
    "freeze_quantizer",
    "segment_frames",
    "p_dropout",
    "periods",
    "discriminator_width",
    "activation_checkpointing",
)
"""Fields that matter only in training."""
TRAINING_PART = "enc_q."
"""Prefix of the posterior encoder's weights. Inference needs none, so upstream's files have none."""


def sovits_file(name: str, epoch: int, step: int) -> str:
    """Return the name that upstream gives to a file of SoVITS weights."""
    return f"{name}_e{epoch}_s{step}.pth"


def gpt_file(name: str, epoch: int) -> str:
    """Return the name that upstream gives to a file of GPT weights."""
    return f"{name}-e{epoch}.ckpt"


def export_sovits(
    path: Path,
    model: SynthesizerTrn,
    *,
    name: str,
    epoch: int,
    step: int,
    codebook: str = "",
    origin: Origin = UNKNOWN,
    mixed_origins: bool = False,
) -> str:
    """Export a generator. Returns its version.

    Args:
        name: name of the voice, for the config.
        codebook: digest of the codebook of the store's codes that it was trained on; empty for its own.
        origin: what it was trained on.
        mixed_origins: export a model that was trained on MFCC too, which upstream makes by HuBERT.
    Raises:
        UsageError: no published version has these sizes, so upstream could not load it; or it was trained on MFCC.
        RunError, StoreError: the file cannot be written.
    """
    name_of_sizes = _version_of(model.config, SOVITS_SIZES | {SMALL: PRESETS[SMALL].sovits}, TRAINING_FIELDS)
    version, header = ("v2", SMALL_HEADER) if name_of_sizes == SMALL else (name_of_sizes, SOVITS_HEADERS[name_of_sizes])
    _check_origin(path, origin, mixed_origins)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(TRAINING_PART)}
    config = sovits_sections(model.config, version, name)
    info = f"{epoch}epoch_{step}iteration"
    upstream_files.write(path, weights, config, info, header, codebook, origin)
    return version


def export_gpt(
    path: Path, model: Text2SemanticDecoder, *, epoch: int, origin: Origin = UNKNOWN, mixed_origins: bool = False
) -> str:
    """Export a decoder. Returns its version; v2Pro and v2ProPlus use that of v2.

    Raises:
        As `export_sovits`.
    """
    name_of_sizes = _version_of(model.config, GPT_SIZES | {SMALL: PRESETS[SMALL].gpt}, ("dropout",))
    version = "v2" if name_of_sizes == SMALL else name_of_sizes
    _check_origin(path, origin, mixed_origins)
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    sections = gpt_sections(model.config)
    upstream_files.write(path, weights, sections, f"GPT-e{epoch}", codebook=model.codebook, origin=origin)
    return version


def sovits_sections(config: SovitsConfig, version: str, name: str) -> dict[str, Any]:
    """Return the config sections from which upstream constructs a generator."""
    same = ("inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size", "p_dropout")
    upsampling = ("resblock_kernel_sizes", "upsample_rates", "upsample_initial_channel", "upsample_kernel_sizes")
    return {
        "train": {"segment_size": config.segment_frames * config.hop},
        "data": {
            "max_wav_value": 32768.0, "sampling_rate": 32000, "filter_length": 2 * (config.spec_bins - 1),
            "hop_length": config.hop, "win_length": 2048, "n_mel_channels": 128, "mel_fmin": 0.0, "mel_fmax": None,
            "add_blank": True, "n_speakers": 300, "cleaned_text": True,
        },
        "model": {
            **{field: getattr(config, field) for field in same},
            **{field: _listed(getattr(config, field)) for field in upsampling},
            "resblock_dilation_sizes": _listed(config.resblock_dilation_sizes),
            "resblock": "1", "n_layers_q": 3, "use_spectral_norm": False, "gin_channels": config.voice_channels,
            "semantic_frame_rate": "25hz", "freeze_quantizer": config.freeze_quantizer, "version": version,
        },
        "content_module": "cnhubert",
        "name": name,
        "version": version,
    }  # fmt: skip


def gpt_sections(config: GptConfig) -> dict[str, Any]:
    """Return the config sections from which upstream constructs a decoder."""
    return {
        "data": {"max_sec": 54, "pad_val": config.end},
        "model": {
            "vocab_size": config.vocabulary, "phoneme_vocab_size": config.symbols, "embedding_dim": config.channels,
            "hidden_dim": config.channels, "head": config.heads, "linear_units": 4 * config.channels,
            "n_layer": config.layers, "dropout": 0, "EOS": config.end, "random_bert": 0,
        },
        "inference": {"top_k": 15},
    }  # fmt: skip


def _check_origin(path: Path, origin: Origin, mixed_origins: bool) -> None:
    """Raise UsageError if upstream would not understand a model of this origin, and that is not allowed."""
    if origin.content == MFCC and not mixed_origins:
        raise UsageError(
            f"{path} is not written: the model was trained on {origin}, and GPT-SoVITS makes content by HuBERT. Train "
            "on a store with content of HuBERT, by featurize add STORE content --hubert FOLDER, or give "
            "--mixed-origins."
        )


def _version_of(config: Any, published: dict[str, Any], ignored: Iterable[str]) -> str:
    """Return the version whose sizes a config has, except in ignored fields.

    Raises:
        UsageError: no published version has these sizes.
    """
    fields = [field.name for field in dataclasses.fields(config) if field.name not in ignored]
    for version, sizes in published.items():
        if all(getattr(config, field) == getattr(sizes, field) for field in fields):
            return version
    v2 = published["v2"]
    raise UsageError(
        "No published version has the sizes of this model, so upstream could not load it: train with preset "
        f"{' or '.join(published)} on a store of upstream's own table of phones to export.",
        *(
            f"{field}: {getattr(config, field)} here, {getattr(v2, field)} in v2"
            for field in fields
            if getattr(config, field) != getattr(v2, field)
        ),
    )


def _listed(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
