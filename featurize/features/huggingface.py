"""Load networks from the folders that Hugging Face's transformers saves: a config and weights.

Nothing is downloaded, and nothing else in a folder is read. Of a config, only the keys in `network_config` are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from headrace.featurize.features import network_config, weight_files
from headrace.featurize.features.derived import Part, require_package
from headrace.featurize.files.load_once import load_once
from headrace.store.errors import StoreError, UsageError
from headrace.store.schema import digest

Precision = Literal["fp32", "fp16", "bf16"]
Input = TypeVar("Input")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Patterns of files with weights, the preferred one first."""
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MAX_MISSING = 1 << 24
"""Numbers that a network may lack before its memory is reserved: then the missing ones are named."""
_UNUSED = ("masked_spec_embed", "pooler.")
"""Prefixes of parameters that do not contribute to our features, and may be missing."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of a network: its config and its files of weights."""

    path: Path
    config: dict[str, Any]
    """As it was read; nothing but the keys in `sizes` may reach a library."""
    sizes: dict[str, Any]
    """What the network is built from, checked."""
    dtype: str | None
    """Of the weights, by the config."""
    files: tuple[Path, ...]

    @property
    def recipe(self) -> dict[str, str]:
        """Return the part of a recipe that identifies the network: digests of weights and config."""
        return {"weights": weight_files.digest(self.files), "config": digest(self.config)[:12]}


def inspect_folder(path: Path, kind: str, option: str, **expected: int) -> ModelFolder:
    """Read the config of a folder, check it, and find the weights.

    Args:
        kind: the `model_type` that the config must have.
        option: the option that named the folder, for messages.
        expected: values that the config must have.
    Raises:
        UsageError: transformers is not installed, or the folder holds another kind or size of network, or none.
    """
    require_package("transformers", option, "networks")
    try:
        config = network_config.read_json(path / "config.json", network_config.MAX_CONFIG)
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
            sizes = network_config.checked(config, kind, f"{option} {path}")
            dtype = network_config.dtype_name(config, f"{option} {path}")
            return ModelFolder(path, config, sizes, dtype, tuple(files))
    raise UsageError(f"{option} {path} holds no weights: neither {' nor '.join(WEIGHTS)}.")


@load_once
def load_network(
    model: str, path: Path, kind: str, option: str, expected: str, device: str, precision: Precision
) -> Any:
    """Load a network for inference. Equal arguments return the same object in a process.

    Args:
        model: name of its class in transformers.
        path, kind, option: as in `inspect_folder`.
        expected: the weights' digest.
        device: cpu or cuda.
        precision: one of DTYPES.
    Raises:
        UsageError: as `inspect_folder` and `weight_files.read`, or the weights do not fit the config.
    """
    folder = inspect_folder(path, kind, option)
    cls = _class(model, option)
    state = weight_files.as_tensors(weight_files.read(folder.files, expected), folder.files[0])
    config = _config(cls, folder.sizes, f"{option} {path}")
    try:
        _check_count(cls, config, state)
        outputs, found = cls.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=getattr(torch, folder.dtype) if folder.dtype else "auto",
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UsageError(f"{option} {path}: its weights are not of its config: {reason}") from error
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise UsageError(f"{option} {path}: its weights lack {len(missing)} tensors, such as {missing[0]}.")
    used = {name: value for name, value in outputs.named_parameters() if not name.startswith(_UNUSED)}
    weight_files.check_finite(used, f"{option} {path}")
    module: nn.Module = outputs.eval().requires_grad_(False).to(device, DTYPES[precision])
    return module


def _class(name: str, option: str) -> Any:
    """Return a class of transformers, which then says nothing. Raises UsageError where a package is missing."""
    try:
        import transformers

        transformers.logging.set_verbosity(transformers.logging.CRITICAL)
        transformers.logging.disable_progress_bar()
        return getattr(transformers, name)
    except (ImportError, RuntimeError) as error:  # the latter from imports on demand
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{option} needs transformers: pip install 'headrace[networks]' ({reason}).") from error


def _config(cls: Any, sizes: Mapping[str, Any], source: str) -> Any:
    """Return the config of a network. Raises UsageError where its class refuses the sizes, with whatever error."""
    try:
        return cls.config_class(**sizes)
    except MemoryError:
        raise
    except Exception as error:  # huggingface_hub's errors of validation are no ValueErrors, but are caused by them
        reason = str(error.__cause__ or error).strip().splitlines() or [repr(error)]
        raise UsageError(f"{source}: its config.json describes no network: {reason[0]}") from error


def _check_count(cls: Any, config: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError where a config needs more numbers than there are, before any memory is reserved for them."""
    with torch.device("meta"):
        parameters = dict(cls(config).named_parameters())
    needed = sum(value.numel() for name, value in parameters.items() if not name.startswith(_UNUSED))
    found = sum(value.numel() for value in state.values())
    if needed > found + MAX_MISSING:
        raise ValueError(f"it needs {needed:,} numbers, and they have {found:,}")


def halved_on_out_of_memory(
    compute: Callable[[Sequence[Input]], list[np.ndarray]], inputs: Sequence[Input]
) -> list[np.ndarray]:
    """Compute the outputs for some inputs at once, or in halves where a device's memory does not hold that.

    Raises:
        torch.OutOfMemoryError: a single input does not fit.
    """
    try:
        return compute(inputs)
    except torch.OutOfMemoryError:
        if len(inputs) < 2:
            raise
    # Not in the handler above, where the error still holds the tensors of the failed computation.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(inputs) // 2
    return [*halved_on_out_of_memory(compute, inputs[:half]), *halved_on_out_of_memory(compute, inputs[half:])]


def compute_finite(
    compute: Callable[[Precision, Sequence[Input]], list[np.ndarray]],
    inputs: Sequence[Input],
    precision: Precision,
    part: Part,
    option: str,
) -> list[np.ndarray]:
    """Compute the outputs of a network for some inputs, and again in fp32 where they are not finite.

    Args:
        compute: runs the network in a precision; returns an array for each input.
        part: its `counts` record what was computed again.
    Raises:
        StoreError: an output is not finite in fp32 either.
    """
    outputs = halved_on_out_of_memory(partial(compute, precision), inputs)
    for n, rows in enumerate(outputs):
        if precision != "fp32" and not np.isfinite(rows).all():
            part.counts[f"not finite in {precision}: made again in fp32"] += 1
            outputs[n] = rows = compute("fp32", [inputs[n]])[0]
        if not np.isfinite(rows).all():
            raise StoreError(f"The network of {option} makes numbers that are not finite, even in fp32.")
    return outputs
