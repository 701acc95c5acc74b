"""Networks in the folders that Hugging Face's transformers writes: a config and weights. Nothing is fetched, and what a
folder says beyond these two is not looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from headrace.featurize.features import weight_files
from headrace.featurize.features.derived import Part
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import digest

Precision = Literal["fp32", "fp16", "bf16"]
Input = TypeVar("Input")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns of the files that hold them, the better first."""
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_UNUSED = ("masked_spec_embed", "pooler.")
"""Beginnings of the names that a network makes nothing of our features with."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of one kind of network, as far as it was inspected."""

    path: Path
    config: dict[str, Any]
    files: tuple[Path, ...]

    @property
    def recipe(self) -> dict[str, str]:
        """What of it changes numbers."""
        return {"weights": weight_files.digest(self.files), "config": digest(self.config)[:12]}


def inspect_folder(path: Path, kind: str, option: str, **expected: int) -> Folder:
    """
    Args:
        kind: what the config must call the network.
        option: that named the folder, for messages.
        expected: values that the config must have.
    Raises:
        UsageError: transformers is not installed, or the folder is none of this kind, or of another size.
    """
    if find_spec("transformers") is None:
        raise UsageError(f"{option} needs transformers: pip install 'headrace[networks]'.")
    try:
        config = json.loads((path / "config.json").read_bytes())
    except OSError as error:
        raise UsageError(
            f"{option} {path} is no folder as transformers writes them: config.json: {error.strerror}."
        ) from error
    except ValueError as error:
        raise UsageError(f"{option} {path}: config.json is not JSON: {error}.") from error
    if not isinstance(config, dict) or config.get("model_type") != kind:
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise UsageError(f"{option} {path} holds a network of type {found}, and {kind} is needed here.")
    for key, value in expected.items():
        if config.get(key) != value:
            raise UsageError(f"{option} {path} has {key}={config.get(key)}, and {value} is needed here.")
    for pattern in WEIGHTS:
        if files := sorted(path.glob(pattern)):
            return Folder(path, config, tuple(files))
    raise UsageError(f"{option} {path} holds no weights: neither {' nor '.join(WEIGHTS)}.")


@cache
def network(model: str, path: Path, kind: str, option: str, expected: str, device: str, precision: Precision) -> Any:
    """A network of this process, for inference. Equal arguments give the same one.

    Args:
        model: its class in transformers.
        path, kind, option: as in `inspect_folder`.
        expected: the weights' digest.
        device: cpu or cuda.
        precision: one of DTYPES.
    Raises:
        UsageError: as `inspect_folder` and `weights.read`, or the weights are not of this config.
    """
    import transformers

    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    folder, cls = inspect_folder(path, kind, option), getattr(transformers, model)
    state = weight_files.tensors(weight_files.read(folder.files, expected), folder.files[0])
    try:
        config = cls.config_class.from_dict(folder.config)
        made, found = cls.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{option} {path}: its weights are not of its config: {reason}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise UsageError(f"{option} {path}: its weights lack {len(missing)} tensors, such as {missing[0]}.")
    module: nn.Module = made.eval().requires_grad_(False).to(device, DTYPES[precision])
    return module


def finite(
    by: Callable[[Precision, Sequence[Input]], list[np.ndarray]],
    inputs: Sequence[Input],
    precision: Precision,
    part: Part,
    option: str,
) -> list[np.ndarray]:
    """What a network makes of each of some inputs; in fp32 what is not finite in the precision that was asked for.

    Args:
        by: float16 arrays by the network in a precision.
    Raises:
        StoreError: it is not finite in fp32 either.
    """
    made = by(precision, inputs)
    for n, rows in enumerate(made):
        if precision != "fp32" and not np.isfinite(rows).all():
            part.counts[f"not finite in {precision}: made again in fp32"] += 1
            made[n] = rows = by("fp32", [inputs[n]])[0]
        if not np.isfinite(rows).all():
            raise StoreError(f"The network of {option} makes numbers that are not finite, even in fp32.")
    return made
