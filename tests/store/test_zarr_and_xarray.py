"""What a store is to those who bring a reader of their own: Zarr, named dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from headrace.store.reader import Store
from tests.helpers import training_store


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return training_store.build(tmp_path_factory.mktemp("readers") / "store")


def test_with_xarray_alone(corpus: Store) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    part = xarray.open_zarr(corpus.path / "parts/00000", consolidated=False, chunks=None)
    assert part.sizes["utterance"] == len(corpus) // 2
    assert dict(part["wave"].sizes) == {"frames": int(part["frames"].sum()), "wave_channel": 640}
    bounds = np.concatenate(([0], np.cumsum(part["frames"])))
    mfcc = part["mfcc"].isel(frames=slice(bounds[3], bounds[4]))
    assert np.array_equal(mfcc, corpus.read("mfcc", 3)) and str(part["id"][3].item()) == corpus.ids[3]


def test_every_array_names_its_dimensions(corpus: Store) -> None:
    """And those of one part that share a name share a length: that is what xarray asks for."""
    part = zarr.open_group(corpus.path / "parts/00000", mode="r")
    sizes: dict[str, set[int]] = {}
    for _, array in part.arrays():
        for name, size in zip(array.metadata.dimension_names, array.shape, strict=True):
            sizes.setdefault(name, set()).add(size)
    assert sizes.keys() >= {"frames", "phones", "utterance", "wave_channel", "mfcc_channel"}
    assert all(len(lengths) == 1 for lengths in sizes.values())
