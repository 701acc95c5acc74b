"""Load files of `torch.save` safely: check them before torch reads them, and run no code that they name.

`torch.load` does not verify checksums, inflates whatever an archive declares, and its restricted unpickler is the only
protection. So an archive's sizes and checksums are checked first. Then the names in its pickles are read without
running them. Only then does torch load it, with `weights_only=True`.
"""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

MAGIC = b"PK"
"""The first two bytes of an archive. What `torch.save` wrote before PyTorch 1.6 is a plain sequence of pickles."""
TENSOR_NAMES = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        *(
            f"torch.{kind}Storage"
            for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")
        ),
    }
)
"""Every name that tensors in dicts and lists need."""
LEGACY_PICKLES = 5
"""Pickles of a file without an archive: magic number, protocol, system, object, storage keys. Raw storages follow."""


class HParams:
    """Stands in for GPT-SoVITS' class `utils.HParams`: a config as attributes, sections within sections."""


GPT_SOVITS: Mapping[str, type] = {"utils.HParams": HParams}
"""The only class of its own that GPT-SoVITS names in its files."""


class ArchiveError(Exception):
    """A file cannot be loaded as data."""


class CorruptedError(ArchiveError):
    """A file is cut short, does not match its checksums, or is not a file of `torch.save`."""


class UnsafeError(ArchiveError):
    """A file names functions or classes that loading would run.

    Attributes:
        names: the full names, such as `posix.system`, ascending.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"loading it would run {', '.join(names)}")
        self.names = names


def load(source: Path | bytes, *, classes: Mapping[str, type] | None = None, legacy: bool = False) -> Any:
    """Load a file of tensors, numbers, strings, and dicts and lists of them, onto the CPU.

    Checksums are verified at about 3 GB/s.

    Args:
        source: a file, or its content.
        classes: stand-ins by the full name of the class that a file may name besides tensors.
        legacy: whether a file without an archive, and so without checksums, is accepted too.
    Raises:
        CorruptedError: it is damaged, or not such a file.
        UnsafeError: it names anything else.
        OSError: it cannot be opened.
    """
    import torch

    classes = classes or {}
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        try:
            names = _names_in_file(file, legacy)
            if unsafe := sorted(names - TENSOR_NAMES - classes.keys()):
                raise UnsafeError(unsafe)
            file.seek(0)
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in classes.items()]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except ArchiveError:
            raise
        except Exception as error:  # damage reaches four parsers, which have no error in common
            raise CorruptedError((str(error).strip() or repr(error)).splitlines()[0]) from error


def names_in(pickle: bytes | IO[bytes]) -> Iterator[str]:
    """Yield the full name of every function and class that a pickle refers to, without running it.

    Args:
        pickle: its bytes, or a file, which is read to the end of one pickle.
    """
    recent: list[str] = []
    memo: dict[int, str] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(recent[-2:])
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = recent[-1] if recent else ""
        elif isinstance(argument, int) and "PUT" in opcode.name:
            memo[argument] = recent[-1] if recent else ""
        elif isinstance(argument, int) and "GET" in opcode.name:
            recent.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            recent.append(argument)


def _names_in_file(file: IO[bytes], legacy: bool) -> set[str]:
    """Return the names in all pickles of a file, after its sizes and checksums were found right."""
    magic = file.read(len(MAGIC))
    file.seek(0)
    if legacy and magic != MAGIC:
        return {name for _ in range(LEGACY_PICKLES) for name in names_in(file)}
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        declared = sum(record.file_size for record in archive.infolist())
        if declared > size:  # torch.save compresses nothing
            raise CorruptedError(f"its records declare {declared:,} bytes, and the whole file has {size:,}")
        if corrupted := archive.testzip():
            raise CorruptedError(f"{corrupted} does not match its checksum")
        pickles = [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    return {name for pickle in pickles for name in names_in(pickle)}
