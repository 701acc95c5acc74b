"""The parts of a store, read by others that read Zarr. Readers as in `benchmarks.peer_formats`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peer_formats import NAMES, Payload, Rows, one_by_one
from headrace.store import layout
from headrace.store.arrays.array_reader import load_array


def _places(payload: Payload) -> list[tuple[int, Sequence[slice]]]:
    """Part and rows of every utterance, from the part's own seals and columns."""
    places: list[tuple[int, Sequence[slice]]] = []
    axes = [layout.LENGTH_COLUMNS[payload.store.features[name].axis] for name in NAMES]
    for number in layout.sealed_parts(payload.store.path):
        lengths = {axis: load_array(layout.part_path(payload.store.path, number) / axis) for axis in set(axes)}
        bounds = {axis: layout.offsets(column).tolist() for axis, column in lengths.items()}
        count = len(bounds[axes[0]]) - 1
        places += [(number, [slice(bounds[a][n], bounds[a][n + 1]) for a in axes]) for n in range(count)]
    return places


def read_zarr(folder: Path, payload: Payload, pipeline: str = "") -> Iterator[Sequence[Rows]]:
    import zarr

    if pipeline:
        zarr.config.set({"codec_pipeline.path": pipeline})
    places, root = _places(payload), payload.store.path
    parts = {part: zarr.open_group(root / f"parts/{part:05d}", mode="r") for part in {part for part, _ in places}}
    arrays = {part: [group[name] for name in NAMES] for part, group in parts.items()}
    zarr.config.reset()

    def get(number: int) -> Rows:
        part, rows = places[number]
        return tuple(array[span] for array, span in zip(arrays[part], rows, strict=True))

    return one_by_one(get, payload)


def read_zarrs(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    import zarr
    import zarrs

    zarr.registry.register_pipeline(zarrs.ZarrsCodecPipeline)
    return read_zarr(folder, payload, "zarrs.ZarrsCodecPipeline")


def read_tensorstore(folder: Path, payload: Payload) -> Iterator[Sequence[Rows]]:
    """All reads of a batch are begun before the first is waited for."""
    import tensorstore

    places, root = _places(payload), payload.store.path

    def opened(part: int, name: str) -> Any:
        where = {"driver": "file", "path": f"{root}/parts/{part:05d}/{name}"}
        return tensorstore.open({"driver": "zarr3", "kvstore": where}, read=True).result()

    arrays = {part: [opened(part, name) for name in NAMES] for part in {part for part, _ in places}}
    for numbers in payload.batches:
        begun = [
            [a[span].read() for a, span in zip(arrays[p], rows, strict=True)]
            for p, rows in (places[n] for n in numbers.tolist())
        ]
        yield [tuple(future.result() for future in futures) for futures in begun]
