"""Reads several stores as one, without copying: the parts of one follow those of the other.

The result has the features that all of them have, made by the same recipe, and the columns that all of them have. It
lacks features that each store learned from its own data. Phones may be of several symbol tables: one begins the other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace.store import joined_ids, layout
from headrace.store.added_arrays import block_checksums
from headrace.store.errors import RecipeMismatch, StoreError
from headrace.store.index import Index, LazyColumns, NameColumns, no_checksums, read_column
from headrace.store.schema import SYMBOL_TABLES, FeatureSpec, digest
from headrace.store.storage import StoragePath, parse_path
from headrace.store.storage.s3 import S3Path


@dataclass(frozen=True, slots=True)
class Member:
    """One of the stores that are read."""

    path: StoragePath
    attributes: Mapping[str, Any]
    """Attributes of its root."""
    index: Index

    @property
    def features(self) -> dict[str, FeatureSpec]:
        """Return the features that the root names."""
        return {spec["name"]: FeatureSpec.from_json(spec) for spec in self.attributes["features"]}

    def fingerprint_of(self, features: Iterable[str]) -> str:
        """Return the digest of the parts' seals, and of the seals of those of these features that were added later."""
        seals = {spec["name"]: spec["seals"] for spec in self.attributes["features"] if "seals" in spec}
        added = {name: seals[name] for name in features if name in seals}
        return digest([self.index.fingerprint, added]) if added else self.index.fingerprint

    def per_utterance(self, name: str, dtype: type, *, check: bool) -> np.ndarray:
        """Read an array that has one value for each utterance from all parts: (N,) of `dtype`."""
        blocks = partial(block_checksums, self.path) if check else no_checksums
        return read_column(self.path, self.index.parts.tolist(), np.diff(self.index.bounds), name, dtype, blocks)


MAX_LIST_CHARACTERS = 1 << 20
"""Longest text file with a list of stores that is read."""
Location = str | os.PathLike[str] | StoragePath


def store_paths(location: Location | Sequence[Location]) -> list[StoragePath]:
    """Return the paths of the stores at a location.

    Args:
        location: a store, a sequence of stores, or a text file that has one on each line, relative to its own folder.
    Raises:
        StoreError: there are none, or one is named twice.
        UsageError: one is neither a path nor an S3 URL.
    """
    if isinstance(location, str | os.PathLike | S3Path):
        one = parse_path(location)
        found = _read_list(one) if isinstance(one, Path) and one.is_file() else [one]
    else:
        found = [parse_path(one) for one in location]
    places = Counter(str(one.resolve()) for one in found)
    twice = [str(one) for one in found if places[str(one.resolve())] > 1]
    if twice or not found:
        raise StoreError(f"{twice[0] if twice else location} {'is named twice' if twice else 'names no store'}.")
    return found


def _read_list(file: Path) -> list[StoragePath]:
    """Return the stores that a text file names; empty lines and those that begin with # are skipped."""
    try:
        with file.open(encoding="utf-8") as opened:
            lines = [line.strip() for line in opened.read(MAX_LIST_CHARACTERS).splitlines()]
    except ValueError as error:
        raise StoreError(f"{file} is neither a store nor a list of stores, one a line ({error}).") from None
    named = [parse_path(line) for line in lines if line and not line.startswith("#")]
    return [file.parent / one if isinstance(one, Path) else one for one in named]


def shared_features(members: Sequence[Member]) -> dict[str, FeatureSpec]:
    """Return the features that all stores have, in the order of the first store.

    Raises:
        RecipeMismatch: a feature was made by different recipes, or there is no common feature.
    """
    first, *others = members
    for key in ("sample_rate", "hop"):
        for other in others:
            if first.attributes[key] != other.attributes[key]:
                raise RecipeMismatch(
                    f"{other.path} has another {key} than {first.path}: such stores cannot be read as one.",
                    *_difference(first, other, {key: first.attributes[key]}, {key: other.attributes[key]}),
                )
    features = first.features
    shared = [name for name in features if all(name in other.features for other in others)]
    separate = _learned_separately(members, shared)
    shared = [name for name in shared if name not in separate]
    for name in shared:
        for other in others:
            _check_same_recipe(first, other, features[name], other.features[name])
    if "phones" in shared:  # ids of all, in the largest table
        features["phones"] = max((member.features["phones"] for member in members), key=_table)
    if "phones" in shared:
        _check_same_frontends(members)
    if not shared:
        raise RecipeMismatch(f"{' and '.join(str(member.path) for member in members)} have no feature in common.")
    return {name: features[name] for name in shared}


def _learned_separately(members: Sequence[Member], names: Iterable[str]) -> set[str]:
    """Return the features that each store learned from its own data, and those made from them.

    In such features equal numbers mean different things in different stores.
    """
    features_of_each = [member.features for member in members]
    separate: set[str] = set()
    for name in names:  # a feature comes after those that it is made from, which its recipe names
        recipes = [features[name].recipe for features in features_of_each]
        if separate & recipes[0].keys() or len({recipe.get("learned") for recipe in recipes}) > 1:
            separate.add(name)
    return separate


def _check_same_recipe(first: Member, other: Member, one: FeatureSpec, two: FeatureSpec) -> None:
    if _comparable(first, one) != _comparable(other, two):
        fields = [{"dtype": spec.dtype, "channels": spec.channels, **spec.recipe} for spec in (one, two)]
        raise RecipeMismatch(
            f"{other.path} has another {one.name} than {first.path}: build it with the same recipe, or leave it out.",
            *_difference(first, other, fields[0], fields[1]),
        )


def _comparable(member: Member, spec: FeatureSpec) -> dict[str, Any]:
    """Return what has to be equal in two stores: all of a recipe but the symbol table, on which ids do not depend, and
    the dictionary of names.

    Features that this one is made from are compared by themselves, so the fingerprints of this store's are left out.
    """
    features = member.features
    recipe = {
        key: value
        for key, value in spec.recipe.items()
        if not (key == "symbols" and value in SYMBOL_TABLES)
        and key != "dictionary"
        and not (key in features and features[key].fingerprint == value)
    }
    made_from = sorted(spec.recipe.keys() & features.keys())
    return {"axis": spec.axis, "dtype": spec.dtype, "channels": spec.channels, "recipe": recipe, "from": made_from}


def _table(spec: FeatureSpec) -> int:
    """Return the number of a feature's symbol table, the smallest first."""
    table = spec.recipe.get("symbols")
    return SYMBOL_TABLES.index(table) if table in SYMBOL_TABLES else -1


def _check_same_frontends(members: Sequence[Member]) -> None:
    """Check that all stores read the texts of a language with the same frontend, which their attributes name."""
    read: dict[str, tuple[Member, str]] = {}
    for member in members:
        for language, frontend in member.attributes.get("frontends", {}).items():
            first, before = read.setdefault(language, (member, frontend))
            if frontend != before:
                raise RecipeMismatch(
                    f"{member.path} reads texts in {language} with another frontend than {first.path}: build it with "
                    "the same libraries, or leave it out.",
                    *_difference(first, member, {language: before}, {language: frontend}),
                )


def _difference(first: Member, other: Member, one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterable[str]:
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    for member, values in ((first, one), (other, two)):
        yield f"{member.path}: {' '.join(f'{key}={values.get(key)}' for key in keys)}"


def merge_indexes(members: Sequence[Member]) -> Index:
    """Return one index of all stores: the utterances of one after those of the other."""
    indexes = [member.index for member in members]
    if len(indexes) == 1:
        return indexes[0]
    columns = [name for name in indexes[0].columns if all(name in other.columns for other in indexes)]

    def names(name: str) -> np.ndarray:
        if name == "id":
            return joined_ids.joined_ids(members)
        return np.concatenate([index.names[name] for index in indexes])

    return Index(
        parts=np.concatenate([index.parts for index in indexes]),
        bounds=layout.offsets(np.concatenate([np.diff(index.bounds) for index in indexes])),
        columns=LazyColumns(columns, lambda name: np.concatenate([index.columns[name] for index in indexes])),
        names=NameColumns(names),
        fingerprint=" ".join(index.fingerprint for index in indexes),
    )
