"""Read pretrained weights as data: safetensors, or torch's files without running code from them.

Files are identified by their SHA-256, which is part of the recipe of every feature that uses the network. It is
compared on loading, because a worker on another machine may see another file under the same name.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from headrace.featurize.files import torch_archive
from headrace.store.errors import UsageError
from headrace.store.storage import read_file
from headrace.store.storage.regular_files import open_regular

_VERSION = re.compile(rb"0\d")
"""Version that GPT-SoVITS writes over the first two bytes of some archives."""


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256, in hex, of the concatenated files.

    Raises:
        UsageError: a file cannot be read.
    """
    try:
        if other := next((path for path in files if not stat.S_ISREG(path.stat().st_mode)), None):
            raise UsageError(f"{other} is no regular file.")
        return _digest(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error


@cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        with open_regular(path) as file:
            while block := file.read(1 << 22):
                sha.update(block)
    return sha.hexdigest()


def check_digest(files: Sequence[Path], expected: str) -> None:
    """Compare the digest of files with the expected one.

    Raises:
        UsageError: the files cannot be read, or have another digest.
    """
    if digest(files) != expected:
        raise UsageError(f"{files[0]} is not here what it was where the command began: all must see the same file.")


def read(files: Sequence[Path], expected: str) -> dict[str, Any]:
    """Read the entries of all files, with tensors on the CPU.

    Args:
        expected: their `digest`.
    Raises:
        UsageError: the files cannot be read, have another digest, are damaged, or would run code.
    """
    check_digest(files, expected)
    content: dict[str, Any] = {}
    for path in files:
        found = _parse(path)
        if not isinstance(found, Mapping):
            raise UsageError(f"{path} holds no weights by name, but {type(found).__name__}.")
        content.update(found)
    return content


def as_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Return a mapping of names to tensors. Raises UsageError where the content is anything else."""
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(f"{path} holds no weights by name where they should be.")
    return {str(name): value for name, value in content.items()}


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise UsageError where a tensor holds anything but finite numbers, which would be silent nonsense later."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise UsageError(f"{source}: {name} holds numbers that are not finite: the file is damaged, or no good.")


def _parse(path: Path) -> Any:
    """Parse one file. Raises UsageError where it is refused or damaged."""
    data = read_file(path)
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
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} is damaged, or not a safetensors file: {error}.") from error
