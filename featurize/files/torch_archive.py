"""Load files of `torch.save` safely: nothing is trusted that a file says of itself, and no code runs that it names.

`torch.load` does not verify checksums, inflates whatever an archive declares, and rests on a restricted unpickler. Here
an archive must be as `torch.save` writes it: uncompressed, every record once, intact and of the size that its tensor
needs. The pickles are read by `torch_pickle`.
"""

from __future__ import annotations

import io
import math
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from torch import Tensor, nn

from headrace.featurize.files.torch_pickle import Attributes, Name, PickleError, names_in, read

MAGIC = b"PK"
"""The first two bytes of an archive. What `torch.save` wrote before PyTorch 1.6 is a plain sequence of pickles."""
DTYPES = {
    f"torch.{kind}Storage": dtype
    for kind, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the first two pickles of a file without an archive hold. A description of the system, the object, and the keys
of its storages follow as pickles, and then the storages, each after its number of elements as 8 bytes."""
LEGACY_PICKLES = 5
MAX_DIMENSIONS = 16
MAX_EXPANDED = 1 << 28
"""Elements of a tensor that repeats those of a smaller storage, as `Tensor.expand` makes it."""
MAX_NAMES = 5
"""Names of functions and classes that a message lists."""
_BLOCK = 1 << 22


class HParams(Attributes):
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
        shown = [*names[:MAX_NAMES], *(["..."] if len(names) > MAX_NAMES else [])]
        super().__init__(f"loading it would run {', '.join(map(_shown, shown))}")
        self.names = names


@dataclass(frozen=True, slots=True)
class _Storage:
    """The elements that tensors are views of."""

    dtype: torch.dtype
    content: Tensor
    """(bytes,) uint8."""

    @property
    def elements(self) -> int:
        return len(self.content) // self.dtype.itemsize


def load(source: Path | bytes, *, classes: Mapping[str, type] | None = None, legacy: bool = False) -> Any:
    """Load a file of tensors, numbers, strings, and dicts and lists of them, onto the CPU.

    It takes about as much memory as the file has bytes.

    Args:
        source: a file, or its content.
        classes: stand-ins, subclasses of `Attributes`, by the full name of the class that a file may name besides
            tensors.
        legacy: whether a file without an archive, and so without checksums, is accepted too.
    Raises:
        CorruptedError: it is damaged, or not such a file.
        UnsafeError: it names anything else.
        OSError: it cannot be opened.
    """
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise CorruptedError("it is not a regular file")
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        try:
            is_archive = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            if not is_archive and not legacy:
                raise CorruptedError("it is no archive of torch.save")
            return _load(_Archive(file) if is_archive else _LegacyFile(file), classes or {})
        except ArchiveError:
            raise
        except Exception as error:  # damage reaches several parsers, which have no error in common
            raise CorruptedError(_shown(str(error).strip() or type(error).__name__)) from error


class _Content(Protocol):
    """A file, of either kind, as far as its object is concerned."""

    pickle: bytes

    def names(self) -> set[str]: ...
    def storage(self, dtype: torch.dtype, key: str, elements: int) -> _Storage: ...
    def finish(self) -> None: ...


def _load(content: _Content, classes: Mapping[str, type]) -> Any:
    calls: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        **classes,
    }
    if unsafe := sorted(content.names() - calls.keys() - DTYPES.keys()):
        raise UnsafeError(unsafe)
    storages: dict[str, _Storage] = {}

    def resolve(id: tuple[Any, ...]) -> _Storage:
        kind, name, key, _, elements, *view = id
        if kind != "storage" or not isinstance(name, Name) or type(key) is not str or type(elements) is not int:
            raise PickleError("it refers to other things than storages")
        if any(part is not None for part in view):
            raise PickleError("it has storages that are views of others, as PyTorch 0.1 wrote them")
        if key not in storages:
            storages[key] = content.storage(DTYPES[name.full], key, elements)
        if (storages[key].dtype, storages[key].elements) != (DTYPES[name.full], elements):
            raise PickleError(f"it describes storage {key} in two ways")
        return storages[key]

    value = read(content.pickle, calls, resolve)
    content.finish()
    if wrong := [key for key, one in storages.items() if one.dtype is torch.bool and one.content.gt(1).any()]:
        raise PickleError(f"storage {wrong[0]} is of truth values, and holds others")
    return value


class _Archive:
    """An archive of `torch.save`, whose records lie in one folder: data.pkl, data/0, data/1, ..."""

    def __init__(self, file: IO[bytes]) -> None:
        size = file.seek(0, os.SEEK_END)
        self._zip = zipfile.ZipFile(file)
        records = self._zip.infolist()
        declared = sum(record.file_size for record in records)
        if declared > size:  # torch.save compresses nothing
            raise CorruptedError(f"its records declare {declared:,} bytes, and the whole file has {size:,}")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CorruptedError("its records are compressed, and torch.save compresses none")
        self._sizes = {record.filename: record.file_size for record in records}
        if len(self._sizes) != len(records):
            raise CorruptedError("it has two records of one name")
        self._folder = records[0].filename.partition("/")[0] if records else ""
        self._unread = set(self._sizes)
        if self._bytes("byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
            raise CorruptedError("its numbers have the byte order of another kind of computer")
        self.pickle = self._bytes("data.pkl")

    def names(self) -> set[str]:
        return set(names_in(self.pickle))

    def storage(self, dtype: torch.dtype, key: str, elements: int) -> _Storage:
        name = f"{self._folder}/data/{key}"
        if self._sizes.get(name) != elements * dtype.itemsize:
            raise CorruptedError(f"{name} is missing, or has another size than its tensor")
        return _Storage(dtype, self._read(name))

    def finish(self) -> None:
        """Verify the records that nothing refers to."""
        for name in sorted(self._unread):
            self._read(name)

    def _bytes(self, name: str, default: bytes | None = None) -> bytes:
        path = f"{self._folder}/{name}"
        if default is not None and path not in self._sizes:
            return default
        return self._read(path).numpy().tobytes()

    def _read(self, name: str) -> Tensor:
        """Read a record as bytes, and verify it."""
        if name not in self._sizes:
            raise CorruptedError(f"it has no {name.partition('/')[2]}, as torch.save writes it")
        self._unread.discard(name)
        content, start = torch.empty(self._sizes[name], dtype=torch.uint8), 0
        view = memoryview(content.numpy())  # type: ignore[arg-type]
        with self._zip.open(name) as record:
            try:
                while block := record.read(_BLOCK):
                    view[start : start + len(block)] = block
                    start += len(block)
            except zipfile.BadZipFile:
                raise CorruptedError(f"{name} does not match its checksum") from None
        if start != len(content):
            raise CorruptedError(f"{name} is cut short")
        return content


class _LegacyFile:
    """A file of `torch.save` before PyTorch 1.6, which has no checksums."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._storages = file, dict[str, _Storage]()
        start = file.tell()
        pickles = []
        self._names: set[str] = set()
        for _ in range(LEGACY_PICKLES):
            self._names |= set(names_in(file))
            stop = file.tell()
            file.seek(start)
            pickles.append(file.read(stop - start))
            start = stop
        self._room = file.seek(0, os.SEEK_END) - start
        file.seek(start)
        *self._headers, self.pickle, self._keys = pickles

    def names(self) -> set[str]:
        return self._names

    def storage(self, dtype: torch.dtype, key: str, elements: int) -> _Storage:
        self._room -= elements * dtype.itemsize
        if elements < 0 or self._room < 0:
            raise CorruptedError("its storages declare more bytes than the file has")
        self._storages[key] = _Storage(dtype, torch.empty(elements * dtype.itemsize, dtype=torch.uint8))
        return self._storages[key]

    def finish(self) -> None:
        """Check the pickles before the object, and read the storages after it."""
        magic, protocol, system, keys = (_plain(pickle) for pickle in (*self._headers, self._keys))
        if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
            raise CorruptedError("it is no file of torch.save")
        if bool(system["little_endian"]) != (sys.byteorder == "little"):
            raise CorruptedError("its numbers have the byte order of another kind of computer")
        if sorted(keys) != sorted(self._storages):
            raise CorruptedError("its storages are not those that its tensors refer to")
        for key in keys:
            storage = self._storages[key]
            if int.from_bytes(self._file.read(8), sys.byteorder) != storage.elements:
                raise CorruptedError(f"storage {key} has another size than its tensor")
            if self._file.readinto(memoryview(storage.content.numpy())) != len(storage.content):  # type: ignore[arg-type,attr-defined]
                raise CorruptedError("it is cut short")


def _shown(text: str) -> str:
    """Return the first line of a text that may come from a file, as far as it fits into a message."""
    return "".join(char if char.isprintable() else "?" for char in text.splitlines()[0][:200])


def _plain(pickle: bytes) -> Any:
    def refuse(_: Any) -> Any:
        raise PickleError("it has a storage where none belongs")

    return read(pickle, {}, refuse)


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    """Stand in for OrderedDict, which is written as an empty one whose items follow."""
    if arguments:
        raise PickleError("it makes an OrderedDict of something")
    return {}


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    """Stand in for `torch._utils._rebuild_tensor_v2`: return a view of a storage that lies within it."""
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise PickleError("it has a tensor without a storage")
    whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if not whole or not len(size) == len(stride) <= MAX_DIMENSIONS:
        raise PickleError("it has a tensor whose shape is not one")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset - 1
    if count > max(storage.elements, MAX_EXPANDED) or last >= storage.elements:
        raise PickleError("it has a tensor that is larger than its storage")
    empty = torch.empty(0, dtype=storage.dtype)
    tensor = empty.set_(storage.content.untyped_storage(), offset, size, stride)
    return tensor.requires_grad_() if requires_grad is True and tensor.is_floating_point() else tensor


def _rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None) -> nn.Parameter:
    """Stand in for `torch._utils._rebuild_parameter`."""
    if not isinstance(data, Tensor):
        raise PickleError("it has a parameter that is no tensor")
    return nn.Parameter(data.detach(), requires_grad=requires_grad is True and data.is_floating_point())
