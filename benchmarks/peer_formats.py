"""Other ways to keep features for training: how each is written and read, as its own documentation has it.

A writer takes a folder and the payload. A reader yields, batch after batch, the arrays of the batch's utterances; what
only comes in one order is written in the order of the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from headrace.store.reader import Store

NAMES = ("mel", "mfcc", "phones")
Rows = tuple[np.ndarray, ...]
"""An utterance's arrays, in the order of NAMES."""


@dataclass(frozen=True)
class Payload:
    """What everybody writes, and in which batches it is asked for."""

    store: Store
    batches: Sequence[np.ndarray]
    """Utterance numbers of each."""

    def rows(self, number: int) -> Rows:
        return tuple(self.store.read(name, number) for name in NAMES)

    def in_order(self) -> Iterator[int]:
        """Utterances in the order of the batches."""
        for numbers in self.batches:
            yield from numbers.tolist()


@dataclass(frozen=True, kw_only=True)
class Peer:
    package: str
    write: Callable[[Path, Payload], None] | None
    """None reads the store itself."""
    read: Callable[[Path, Payload], Iterator[Sequence[Rows]]]


def one_by_one(get: Callable[[int], Rows], payload: Payload) -> Iterator[Sequence[Rows]]:
    """For what hands out any utterance by its number."""
    for numbers in payload.batches:
        yield [get(number) for number in numbers.tolist()]


def in_turn(utterances: Iterator[Rows], payload: Payload) -> Iterator[Sequence[Rows]]:
    """For what hands out utterances in its own order."""
    for numbers in payload.batches:
        yield list(islice(utterances, len(numbers)))


def write_npy(folder: Path, payload: Payload) -> None:
    for number in range(len(payload.store)):
        for name, rows in zip(NAMES, payload.rows(number), strict=True):
            np.save(folder / f"{number}.{name}.npy", rows)


def read_npy(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    return one_by_one(lambda number: tuple(np.load(folder / f"{number}.{name}.npy") for name in NAMES), payload)


def write_lmdb(folder: Path, payload: Payload) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=1 << 40) as env, env.begin(write=True) as transaction:
        for number in range(len(payload.store)):
            mel, mfcc, phones = payload.rows(number)
            head = np.array([len(mel), len(phones)], np.int32).tobytes()
            value = b"".join((head, mel.tobytes(), mfcc.tobytes(), phones.tobytes()))
            transaction.put(number.to_bytes(4, "big"), value, append=True)


def read_lmdb(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    """One value an utterance, without a copy."""
    import lmdb

    def get(number: int) -> Rows:
        value = transaction.get(number.to_bytes(4, "big"))
        frames, phones = np.frombuffer(value, np.int32, 2).tolist()
        mel = np.frombuffer(value, np.float16, frames * 128, 8).reshape(-1, 128)
        mfcc = np.frombuffer(value, np.float16, frames * 20, 8 + mel.nbytes).reshape(-1, 20)
        return mel, mfcc, np.frombuffer(value, np.int16, phones, 8 + mel.nbytes + mfcc.nbytes)

    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin(buffers=True) as transaction:
        yield from one_by_one(get, payload)


def write_webdataset(folder: Path, payload: Payload) -> None:
    import webdataset

    with webdataset.ShardWriter(str(folder / "%06d.tar"), maxsize=256 << 20, verbose=0) as writer:
        for number in payload.in_order():
            arrays = {f"{name}.npy": rows for name, rows in zip(NAMES, payload.rows(number), strict=True)}
            writer.write({"__key__": f"{number:08d}", **arrays})


def read_webdataset(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode()
    return in_turn((tuple(item[f"{name}.npy"] for name in NAMES) for item in dataset), payload)


def write_arrow(folder: Path, payload: Payload) -> None:
    import datasets

    def flat() -> Iterator[dict[str, Any]]:
        for number in range(len(payload.store)):
            yield {name: rows.reshape(-1) for name, rows in zip(NAMES, payload.rows(number), strict=True)}

    dtypes = {name: datasets.Sequence(datasets.Value(str(payload.store.features[name].dtype))) for name in NAMES}
    features = datasets.Features(dtypes)
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "data.arrow"), features=features) as writer:
        for row in flat():
            writer.write(row)
        writer.finalize()


def _shaped(mel: np.ndarray, mfcc: np.ndarray, phones: np.ndarray) -> Rows:
    return mel.reshape(-1, 128), mfcc.reshape(-1, 20), phones


def read_arrow(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    """`dataset[numbers]` in NumPy's format."""
    import datasets

    dataset = datasets.Dataset.from_file(str(folder / "data.arrow")).with_format("numpy")
    for numbers in payload.batches:
        found = dataset[numbers.tolist()]
        yield [_shaped(*arrays) for arrays in zip(*(found[name] for name in NAMES), strict=True)]


def read_arrow_columns(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    """The mapped Arrow columns themselves, without a copy."""
    import datasets

    table = datasets.Dataset.from_file(str(folder / "data.arrow")).data.table
    starts = np.concatenate(([0], np.cumsum([len(chunk) for chunk in table.column("mel").chunks])))
    columns = [[(c.offsets.to_numpy(), c.values.to_numpy()) for c in table.column(name).chunks] for name in NAMES]

    def get(number: int) -> Rows:
        chunk = int(np.searchsorted(starts, number, side="right")) - 1
        at = number - int(starts[chunk])
        pairs = (column[chunk] for column in columns)
        return _shaped(*(values[offsets[at] : offsets[at + 1]] for offsets, values in pairs))

    return one_by_one(get, payload)


def write_mds(folder: Path, payload: Payload) -> None:
    import streaming

    with streaming.MDSWriter(out=str(folder), columns=dict.fromkeys(NAMES, "ndarray")) as writer:
        for number in range(len(payload.store)):
            writer.write(dict(zip(NAMES, payload.rows(number), strict=True)))


def read_mds(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import streaming

    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)

    def get(number: int) -> Rows:
        item = dataset[number]
        return tuple(item[name] for name in NAMES)

    return one_by_one(get, payload)


def write_litdata(folder: Path, payload: Payload) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=64 << 20)
    for number in range(len(payload.store)):
        writer[number] = dict(zip(NAMES, payload.rows(number), strict=True))
    writer.done()
    writer.merge()


def read_litdata(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import litdata

    dataset = litdata.StreamingDataset(str(folder))

    def get(number: int) -> Rows:
        item = dataset[number]
        return tuple(item[name] for name in NAMES)

    return one_by_one(get, payload)


def _cuts(folder: Path, payload: Payload) -> Any:
    """Lhotse's cuts of the payload, their arrays in HDF5."""
    import lhotse

    shift = payload.store.hop / payload.store.sample_rate
    with lhotse.NumpyHdf5Writer(str(folder / "arrays.h5")) as writer:
        for number in payload.in_order():
            mel, mfcc, phones = payload.rows(number)
            seconds = len(mel) * shift
            features = lhotse.Features(
                type="mel", num_frames=len(mel), num_features=128, frame_shift=shift, start=0, duration=seconds,
                sampling_rate=payload.store.sample_rate, storage_type=writer.name, recording_id=str(number), channels=0,
                storage_path=str(writer.storage_path), storage_key=writer.write(f"{number}-mel", mel),
            )  # fmt: skip
            cut = lhotse.MonoCut(id=str(number), start=0, duration=seconds, channel=0, features=features)
            cut.mfcc = writer.store_array(f"{number}-mfcc", mfcc, frame_shift=shift, temporal_dim=0, start=0)
            cut.phones = writer.store_array(f"{number}-phones", phones)
            yield cut


def _loaded(cut: Any) -> Rows:
    return cut.load_features(), cut.load_mfcc(), cut.load_phones()


def write_lhotse(folder: Path, payload: Payload) -> None:
    import lhotse

    lhotse.CutSet.from_cuts(_cuts(folder, payload)).to_file(folder / "cuts.jsonl.gz")


def read_lhotse(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import lhotse

    cuts = {int(cut.id): cut for cut in lhotse.CutSet.from_file(folder / "cuts.jsonl.gz")}
    return one_by_one(lambda number: _loaded(cuts[number]), payload)


def write_shar(folder: Path, payload: Payload) -> None:
    import lhotse

    fields = {"features": "numpy", "mfcc": "numpy", "phones": "numpy"}
    cuts = lhotse.CutSet.from_cuts(list(_cuts(folder, payload)))
    (folder / "shar").mkdir()
    cuts.to_shar(folder / "shar", fields=fields, shard_size=2000)
    (folder / "arrays.h5").unlink()


def read_shar(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import lhotse

    return in_turn(map(_loaded, lhotse.CutSet.from_shar(in_dir=folder / "shar")), payload)
