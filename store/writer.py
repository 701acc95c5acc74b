"""Writes one whole part: its arrays first, then the seal with all checksums, which makes it count.

The shard files are written here and not through zarr's codec pipeline: one sequential write per array at the disk's
rate (0.9 GB/s measured, against 0.4) with an fsync, which zarr's local store never does. zarr writes the metadata,
so what the bytes mean is said by zarr itself. It takes 0.3 s to import, which whoever only reads does not pay for.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numcodecs
import numpy as np

from headrace.store import layout
from headrace.store.errors import StoreError
from headrace.store.integrity.checksummed_metadata import crc32c, with_checksum
from headrace.store.schema import FeatureSpec, Reject
from headrace.store.storage import StoragePath, storage_of

if TYPE_CHECKING:
    from zarr.storage import MemoryStore

Compression = Literal["none", "zstd"]
ZSTD_LEVEL = 1
UTTERANCES = ("utterance",)
"""The dimension of what has one value an utterance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Everything that one part will hold. Rows are utterances, in order of length."""

    number: int
    specs: Sequence[FeatureSpec]
    arrays: Mapping[str, np.ndarray]
    """Feature name to its values for all utterances, concatenated along its axis: (sum of lengths, *row_shape)."""
    lengths: Mapping[str, np.ndarray]
    """Column name (`frames`, `phones_n`, ...) to (N,) int32; any other per-utterance integer column too."""
    strings: Mapping[str, Sequence[str]]
    """`id`, `speaker`, `language`, `text`: N strings each."""
    rejects: Sequence[Reject] = ()
    inputs: str = ""
    """Digest of what the part was made from; a build that resumes compares it."""


def create_store(root: StoragePath, attributes: Mapping[str, Any]) -> None:
    """Make an empty store, or give one that is there another root: afterwards that is there, or as it was before."""
    if not (root / "parts" / "zarr.json").exists():
        storage_of(root / "parts" / "zarr.json").write(root / "parts" / "zarr.json", [_group_metadata({})])
    storage_of(root).write_atomic(root, "zarr.json", _group_metadata(attributes))


def write_part(root: StoragePath, part: Part, compression: Compression = "none") -> None:
    """Write and seal one part. Two workers given the same part end with one copy of it.

    Raises:
        StoreError: the arrays do not fit the lengths, two have one name, or the disk is full (in which case nothing is
            left behind).
        StorageError: a bucket refuses it, or does not answer; what is there of the part then counts for nothing.
    """
    _check_names(part)
    _check_shapes(part)
    try:
        with storage_of(root).atomic_folder(root, layout.part_name(part.number)) as draft:
            _write_draft(draft, part, compression)
    except OSError as error:
        raise write_error(error, f"part {part.number} of {root}") from error


def write_error(error: OSError, what: str) -> StoreError:
    """The one line for a write that failed."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"No space left on the device while writing {what}: make room and run the same command again."
        )
    return StoreError(f"Cannot write {what}: {error.strerror or error}.")


def _check_names(part: Part) -> None:
    names = [*(spec.name for spec in part.specs), *part.lengths, *part.strings]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StoreError(
            f"part {part.number}: features and columns share the names {', '.join(twice)}; rename the former."
        )


def _check_shapes(part: Part) -> None:
    for spec in part.specs:
        rows = (
            len(part.strings["id"])
            if spec.axis == "utterance"
            else int(part.lengths[layout.LENGTH_COLUMNS[spec.axis]].sum())
        )
        array = part.arrays[spec.name]
        if array.shape != (rows, *spec.row_shape) or array.dtype != spec.dtype:
            raise StoreError(
                f"part {part.number}: {spec.name} is {array.dtype}{array.shape}, "
                f"its lengths and spec say {spec.dtype}{(rows, *spec.row_shape)}."
            )


def _write_draft(draft: StoragePath, part: Part, compression: Compression) -> None:
    columns = {name: column.astype(np.int32) for name, column in part.lengths.items()}
    writing: dict[str, Callable[[], str]] = {
        **{
            spec.name: partial(write_array, draft / spec.name, part.arrays[spec.name], compression, spec.dimensions)
            for spec in part.specs
        },
        **{name: partial(write_array, draft / name, column, "none") for name, column in columns.items()},
        **{name: partial(write_strings, draft / name, values) for name, values in part.strings.items()},
    }
    checksums = storage_of(draft).map(lambda write: write(), writing.values())
    seal = {
        "inputs": part.inputs,
        "utterances": len(part.strings["id"]),
        "frames": int(part.lengths["frames"].sum()),
        "rejects": [asdict(reject) for reject in part.rejects],
        "features": {spec.name: spec.fingerprint for spec in part.specs},
        "columns": sorted(part.lengths),
        "crc32c": dict(zip(writing, checksums, strict=True)),
    }
    write_group(draft, {"seal": seal})


def write_group(folder: StoragePath, attributes: Mapping[str, Any]) -> None:
    """Write the `zarr.json` of a Zarr group: of a draft the last file."""
    storage_of(folder / "zarr.json").write(folder / "zarr.json", [_group_metadata(attributes)])


def _group_metadata(attributes: Mapping[str, Any]) -> bytes:
    import zarr

    made = _zarr_files(lambda memory: zarr.create_group(memory, attributes=dict(attributes)))["zarr.json"]
    return with_checksum(json.loads(made))


def _zarr_files(make: Callable[[MemoryStore], object]) -> dict[str, bytes]:
    """The files that zarr makes, by name."""
    from zarr.storage import MemoryStore

    memory: dict[str, Any] = {}
    make(MemoryStore(memory))
    return {name: buffer.to_bytes() for name, buffer in memory.items()}


def write_array(
    path: StoragePath, values: np.ndarray, compression: Compression, dimensions: Sequence[str] = UTTERANCES
) -> str:
    """Write one Zarr array as one shard, inner chunks in order, and its metadata last.

    Uncompressed, the shard file begins with the array's own bytes, so that a local reader can map it.

    Returns:
        The CRC-32C of its metadata and of every inner chunk as stored, eight hexadecimal digits each, joined.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    values = np.ascontiguousarray(values)
    rows, row_shape = len(values), values.shape[1:]
    chunk = layout.chunk_rows(rows, values.itemsize * int(np.prod(row_shape)))
    count = max(1, -(-rows // chunk))
    metadata = _zarr_files(
        lambda memory: zarr.create_array(
            memory,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(chunk, *row_shape),
            shards=(chunk * count, *row_shape),
            filters=None,
            compressors=ZstdCodec(level=ZSTD_LEVEL) if compression == "zstd" else None,
            fill_value=0,
            dimension_names=dimensions,
        )
    )["zarr.json"]
    shard = _ShardWriter(values, chunk, _encoder(compression))
    if rows:
        storage_of(path / layout.shard_name(values.ndim)).write(path / layout.shard_name(values.ndim), shard)
    storage_of(path / "zarr.json").write(path / "zarr.json", [metadata])
    return "".join([crc32c(metadata), *shard.checksums])


def _encoder(compression: Compression) -> Callable[[np.ndarray], bytes]:
    return numcodecs.Zstd(level=ZSTD_LEVEL).encode if compression == "zstd" else np.ndarray.tobytes


class _ShardWriter:
    """A shard as chunks of bytes: the inner chunks one after the other, then their (offset, length) index with its
    CRC-32C. That is the layout of Zarr's `sharding_indexed` codec with `index_location: end`."""

    def __init__(self, values: np.ndarray, chunk: int, encode: Callable[[np.ndarray], bytes]) -> None:
        self._values, self._chunk, self._encode = values, chunk, encode
        self.checksums: list[str] = []
        """Of the inner chunks, once they were gone through."""

    def __iter__(self) -> Iterator[bytes]:
        index, self.checksums, position = [], [], 0
        for stored in map(self._encode, self._blocks()):
            yield stored
            index.append((position, len(stored)))
            self.checksums.append(crc32c(stored))
            position += len(stored)
        table = np.asarray(index, "<u8").tobytes()
        yield table + google_crc32c.value(table).to_bytes(4, "little")

    def _blocks(self) -> Iterator[np.ndarray]:
        """Of equal size: the last one is filled up with zeros."""
        for start in range(0, len(self._values), self._chunk):
            block = self._values[start : start + self._chunk]
            missing = self._chunk - len(block)
            yield np.concatenate((block, np.zeros((missing, *block.shape[1:]), block.dtype))) if missing else block


def write_strings(path: StoragePath, values: Sequence[str] | np.ndarray) -> str:
    """Write strings as one chunk (`vlen-utf8`), and the metadata last. Returns checksums like `write_array`."""
    import zarr

    count = len(values)

    def make(memory: MemoryStore) -> None:
        array = zarr.create_array(
            memory,
            shape=(count,),
            dtype=str,
            chunks=(max(1, count),),
            filters=None,
            compressors=None,
            dimension_names=UTTERANCES,
        )
        if count:
            array[:] = np.asarray(values, dtype=object)

    files = _zarr_files(make)
    order = [layout.shard_name(1), "zarr.json"] if count else ["zarr.json"]
    for name in order:
        storage_of(path / name).write(path / name, [files[name]])
    return "".join(crc32c(files[name]) for name in reversed(order))
