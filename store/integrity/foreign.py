"""Finds what lies in a store and is not the store's: files and folders of other programs and people, and links.

Headrace neither reads nor deletes it. Whether something is the store's shows in its name, and in a part also in what
the part or the root says of itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from headrace.store import added_arrays, index, layout, learned_models
from headrace.store.errors import DamagedStore
from headrace.store.names import ROOT_NAMES, is_name
from headrace.store.storage import StoragePath, storage_of

COLUMNS = frozenset(("frames", "samples_dropped", "phones_n", "tokens_n", "aligned", *index.NAMES, "text"))
"""Arrays that any part can have without being named in the root."""


def foreign_entries(root: StoragePath) -> list[str]:
    """Return what is foreign directly in a store, and directly in its folder of parts: paths relative to the root."""
    parts = root / "parts"
    own = {layout.part_name(number) for number in layout.sealed_parts(root)} | {"parts/zarr.json"}
    in_parts = {f"parts/{name}" for name in storage_of(parts).list_names(parts)}
    return sorted((set(storage_of(root).list_names(root)) - ROOT_NAMES) | (in_parts - own))


def find_foreign(root: StoragePath, features: Collection[str]) -> list[str]:
    """Return everything foreign in a store: paths relative to the root.

    Args:
        features: that the root names.
    """
    found = foreign_entries(root)
    models, storage = root / "models", storage_of(root)
    found += [f"models/{name}" for name in storage.list_names(models) if not _is_model(name)]
    found += [f"scan/{name}" for name in storage.list_names(root / "scan") if name != "zarr.json"]
    found += [f"index/{name}" for name in storage.list_foreign(root / "index")]
    for number in layout.sealed_parts(root):
        found += [f"{layout.part_name(number)}/{name}" for name in foreign_in_part(root, number, features)]
    return found


def foreign_in_part(root: StoragePath, number: int, features: Collection[str]) -> list[str]:
    """Return what is foreign in the folder of a part: paths relative to it."""
    folder = layout.part_path(root, number)
    try:
        sealed = frozenset(index.read_seal(root, number)["crc32c"])
    except DamagedStore:
        sealed = COLUMNS
    by_form = storage_of(root).list_foreign(folder)
    known = {"zarr.json", *sealed, *features}
    unknown = [name for name in storage_of(folder).list_names(folder) if name not in known]
    arrays = [name for name in unknown if not (is_name(name) and _is_sealed(root, name, number))]
    listed = {path.partition("/")[0] for path in by_form}
    return sorted([*by_form, *(name for name in arrays if name not in listed)])


def unnamed_arrays(root: StoragePath, number: int, known: Collection[str]) -> Iterator[str]:
    """Yield the sealed arrays of a part that are not known: an add was interrupted."""
    folder = layout.part_path(root, number)
    for name in sorted(storage_of(folder).list_names(folder)):
        if name not in known and is_name(name) and _is_sealed(root, name, number):
            yield name


def _is_sealed(root: StoragePath, name: str, number: int) -> bool:
    """Return whether a folder is an array that was added: its metadata hold a seal of that name."""
    try:
        seal = added_arrays.read_seal(root, name, number)
    except DamagedStore:
        return False
    return seal is not None and seal["name"] == name


def _is_model(name: str) -> bool:
    return name.endswith(learned_models.SUFFIX) and is_name(name.removesuffix(learned_models.SUFFIX))
