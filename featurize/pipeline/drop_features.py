"""Drop features that were added to a store, so that they can be made by another recipe.

The root stops naming them first, then their arrays go, part by part, and what they learned last. A drop that is killed
is continued by the same command. Until then, adding a feature by another recipe is refused, since parts still have it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headrace.featurize.pipeline.observer import SILENT, AddObserver
from headrace.store import added_arrays, index, layout, learned_models
from headrace.store.advice import command
from headrace.store.errors import UsageError
from headrace.store.integrity.foreign import COLUMNS, unnamed_arrays
from headrace.store.names import is_name, shown
from headrace.store.root_attributes import read_attributes
from headrace.store.storage import StoragePath, storage_of


def drop(root: StoragePath, names: Sequence[str], observer: AddObserver = SILENT) -> dict[str, int]:
    """Drop features from a store, or continue to do so.

    Args:
        names: of features that were added; those that are made from them must be among them.
    Returns:
        By feature, of how many parts arrays were deleted.
    Raises:
        NotAStore: there is no store.
        UsageError: the store has no such feature, the parts were built with it, or another one is made from it.
        StoreError: another command is writing the store.
    """
    read_attributes(root)
    with storage_of(root).write_lock(root):
        storage_of(root).clear_temporary(root)
        holders = _holders(root, names)
        _check(root, names, holders)
        added_arrays.withdraw(root, names)
        deleted = {}
        for name in names:
            numbers = sorted(holders.get(name, {}))
            for number in numbers:
                storage_of(root).delete_folder(root, f"{layout.part_name(number)}/{name}")
            storage_of(root).delete_file(root, learned_models.model_file(name))
            deleted[name] = len(numbers)
            observer.note(f"{name} is dropped from {len(numbers)} parts")
        storage_of(root).clear_temporary(root)
    return deleted


Holders = Mapping[str, Mapping[int, Collection[str]]]
"""Feature to the parts that have it, and for each what it was made from there."""


def _holders(root: StoragePath, names: Sequence[str]) -> Holders:
    """Return which parts have which added features, also those that not all parts have.

    Args:
        names: of features that may also be there without their metadata.
    """
    numbers = layout.sealed_parts(root)

    def of_part(number: int) -> dict[str, Collection[str]]:
        sealed = index.read_seal(root, number)["crc32c"]
        arrays = unnamed_arrays(root, number, {"zarr.json", *sealed})
        seals = ((name, added_arrays.read_seal(root, name, number)) for name in arrays)
        whole = {name: seal["inputs"].keys() for name, seal in seals if seal is not None}
        return {name: () for name in names if is_name(name) and _is_rest(root, name, number)} | whole

    found: dict[str, dict[int, Collection[str]]] = {}
    for number, arrays in zip(numbers, storage_of(root).map(of_part, numbers), strict=True):
        for name, inputs in arrays.items():
            found.setdefault(name, {})[number] = inputs
    return found


def _is_rest(root: StoragePath, name: str, number: int) -> bool:
    """Return whether a part has rows of an array without its metadata: its deletion, or its upload, was stopped."""
    folder = layout.part_path(root, number) / name
    there = storage_of(folder).list_names(folder)
    return "c" in there and "zarr.json" not in there


def _check(root: StoragePath, names: Sequence[str], holders: Holders) -> None:
    """Check that features can be dropped."""
    specs: Mapping[str, Mapping[str, Any]] = {spec["name"]: spec for spec in read_attributes(root)["features"]}
    added = [name for name, spec in specs.items() if "seals" in spec]
    for name in names:
        if name in COLUMNS - {"tokens_n"} or (name in specs and name not in added):
            raise UsageError(f"The parts of {root} were built with {name}: build another store without it.")
        if name not in holders and name not in added and name not in learned_models.digests(root):
            has = ", ".join(sorted({*added, *holders})) or "none"
            raise UsageError(f"{root} has no added feature {shown(name)}; those that it has: {has}.")
    made_from = {name: specs[name]["recipe"].keys() for name in added} | {
        name: {source for inputs in parts.values() for source in inputs} for name, parts in holders.items()
    }
    if others := _dependents(names, made_from):
        raise UsageError(
            f"{', '.join(others)} of {root} {'is' if len(others) == 1 else 'are'} made from {', '.join(names)}: drop "
            f"all of them, by {command('featurize drop', root, ','.join([*names, *others]))}."
        )


def _dependents(names: Sequence[str], made_from: Mapping[str, Collection[str]]) -> list[str]:
    """Return the other features that are made from these, directly or indirectly."""
    gone = list(names)
    while more := [name for name, sources in made_from.items() if name not in gone and set(gone) & set(sources)]:
        gone += more
    return gone[len(names) :]
