"""Weights of networks that others trained, read as data: safetensors, or torch's files by its loader of weights alone.

Files are known by their SHA-256, which stands in the recipe of all that their network makes. Whoever loads them
compares it: a worker elsewhere may see another file under the same name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from headrace.featurize.files import torch_archive
from headrace.store.errors import UsageError

_VERSION = re.compile(rb"0\d")
"""What GPT-SoVITS writes over the first two bytes of some of its archives."""


def digest(files: Sequence[Path]) -> str:
    """SHA-256, in hex, of the files' bytes, one after the other.

    Raises:
        UsageError: one cannot be read.
    """
    try:
        return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


def check(files: Sequence[Path], expected: str) -> None:
    """
    Args:
        expected: their `digest`.
    Raises:
        UsageError: they cannot be read, or are others.
    """
    if digest(files) != expected:
        raise UsageError(f"{files[0]} is not here what it was where the command began: all must see the same file.")


def read(files: Sequence[Path], expected: str) -> dict[str, Any]:
    """What the files hold, on the CPU: of several, the entries of all.

    Args:
        expected: their `digest`.
    Raises:
        UsageError: they cannot be read, are others, are damaged, or would run code.
    """
    check(files, expected)
    content: dict[str, Any] = {}
    for path in files:
        found = _parse(path)
        if not isinstance(found, Mapping):
            raise UsageError(f"{path} holds no weights by name, but {type(found).__name__}.")
        content.update(found)
    return content


def tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """A mapping of names to tensors as such. Raises UsageError where it holds anything else."""
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"{path} holds no weights by name where they should be.")
    return {str(name): value for name, value in content.items()}


def _parse(path: Path) -> Any:
    """Return what one file holds. Raises UsageError."""
    data = path.read_bytes()
    if _VERSION.fullmatch(data[:2]):
        data = torch_archive.MAGIC + data[2:]
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(data)
        return torch_archive.load(data, classes=torch_archive.GPT_SOVITS, legacy=True)
    except torch_archive.UnsafeError as error:
        raise UsageError(f"{path} is refused: {error}, and weights need none of that.") from None
    except torch_archive.CorruptedError as error:
        raise UsageError(f"{path} is damaged, or not a file of weights: {error}.") from error
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged, or not a safetensors file: {error}.") from error
