"""Several stores read as one, without copying: the parts of one follow those of the other.

What they share decides: features that all of them have, made alike, and columns that all of them have. What each has
learned for itself is not shared.
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

from headrace.store import layout
from headrace.store.added_arrays import block_checksums
from headrace.store.errors import RecipeMismatch, StoreError
from headrace.store.index import Index, NameColumns, no_checksums, read_column
from headrace.store.schema import FeatureSpec, digest
from headrace.store.storage import StoragePath, parse_path
from headrace.store.storage.s3 import S3Path


@dataclass(frozen=True, slots=True)
class Member:
    """One of the stores."""

    path: StoragePath
    attributes: Mapping[str, Any]
    """Of its root."""
    index: Index

    @property
    def features(self) -> dict[str, FeatureSpec]:
        return {spec["name"]: FeatureSpec.from_json(spec) for spec in self.attributes["features"]}

    def fingerprint_of(self, features: Iterable[str]) -> str:
        """Digest of the seals of its parts, and of these features where they joined later."""
        seals = {spec["name"]: spec["seals"] for spec in self.attributes["features"] if "seals" in spec}
        joined = {name: seals[name] for name in features if name in seals}
        return digest([self.index.fingerprint, joined]) if joined else self.index.fingerprint

    def per_utterance(self, name: str, dtype: type, *, check: bool) -> np.ndarray:
        """(N,) values of an array of its parts that has one for each utterance."""
        blocks = partial(block_checksums, self.path) if check else no_checksums
        return read_column(self.path, self.index.parts.tolist(), name, dtype, blocks)


MAX_LIST_CHARACTERS = 1 << 20
"""Characters of a text file that names stores."""
Location = str | os.PathLike[str] | StoragePath


def store_paths(where: Location | Sequence[Location]) -> list[StoragePath]:
    """The stores that are meant: one, several, or those that a text file names, one a line, relative to its folder.

    Raises:
        StoreError: none are, or one twice.
        UsageError: as `parse_path`.
    """
    if isinstance(where, str | os.PathLike | S3Path):
        one = parse_path(where)
        found = _listed(one) if isinstance(one, Path) and one.is_file() else [one]
    else:
        found = [parse_path(one) for one in where]
    twice = [str(one) for one, count in Counter(found).items() if count > 1]
    if twice or not found:
        raise StoreError(f"{twice[0] if twice else where} {'is named twice' if twice else 'names no store'}.")
    return found


def _listed(file: Path) -> list[StoragePath]:
    try:
        with file.open(encoding="utf-8") as opened:
            lines = [line.strip() for line in opened.read(MAX_LIST_CHARACTERS).splitlines()]
    except ValueError as error:
        raise StoreError(f"{file} is neither a store nor a list of stores, one a line ({error}).") from None
    named = [parse_path(line) for line in lines if line and not line.startswith("#")]
    return [file.parent / one if isinstance(one, Path) else one for one in named]


def shared_features(members: Sequence[Member]) -> dict[str, FeatureSpec]:
    """The features that all have, in the first one's order.

    Raises:
        RecipeMismatch: one of them was made otherwise in another store, or there are none.
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
    own = _learned_separately(members, shared)
    shared = [name for name in shared if name not in own]
    for name in shared:
        for other in others:
            _check_same_recipe(first, other, features[name], other.features[name])
    if "phones" in shared:
        _check_same_frontends(members)
    if not shared:
        raise RecipeMismatch(f"{' and '.join(str(member.path) for member in members)} have no feature in common.")
    return {name: features[name] for name in shared}


def _learned_separately(members: Sequence[Member], names: Iterable[str]) -> set[str]:
    """Features that each store learned for itself, and what is made from those: equal numbers mean different things."""
    of_each = [member.features for member in members]
    apart: set[str] = set()
    for name in names:  # a feature comes after those that it is made from, which its recipe names
        recipes = [features[name].recipe for features in of_each]
        if apart & recipes[0].keys() or len({recipe.get("learned") for recipe in recipes}) > 1:
            apart.add(name)
    return apart


def _check_same_recipe(first: Member, other: Member, one: FeatureSpec, two: FeatureSpec) -> None:
    if one.fingerprint != two.fingerprint:
        fields = [{"dtype": spec.dtype, "channels": spec.channels, **spec.recipe} for spec in (one, two)]
        raise RecipeMismatch(
            f"{other.path} has another {one.name} than {first.path}: build it with the same recipe, or leave it out.",
            *_difference(first, other, fields[0], fields[1]),
        )


def _check_same_frontends(members: Sequence[Member]) -> None:
    """Texts of one language have been read by the same in all; of each store the attributes say by what."""
    read: dict[str, tuple[Member, str]] = {}
    for member in members:
        for language, frontend in member.attributes.get("frontends", {}).items():
            first, before = read.setdefault(language, (member, frontend))
            if frontend != before:
                raise RecipeMismatch(
                    f"{member.path} has texts in {language} read otherwise than {first.path}: build it with the same "
                    "libraries, or leave it out.",
                    *_difference(first, member, {language: before}, {language: frontend}),
                )


def _difference(first: Member, other: Member, one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterable[str]:
    keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
    for member, values in ((first, one), (other, two)):
        yield f"{member.path}: {' '.join(f'{key}={values.get(key)}' for key in keys)}"


def merge_indexes(members: Sequence[Member]) -> Index:
    """One row per utterance of all of them, store after store."""
    indexes = [member.index for member in members]
    if len(indexes) == 1:
        return indexes[0]
    columns = [name for name in indexes[0].columns if all(name in other.columns for other in indexes)]

    def names(name: str) -> np.ndarray:
        values = np.concatenate([index.names[name] for index in indexes])
        if name == "id":
            _check_identities(members, values, np.concatenate([index.columns["frames"] for index in indexes]))
        return values

    return Index(
        parts=np.concatenate([index.parts for index in indexes]),
        bounds=layout.offsets(np.concatenate([np.diff(index.bounds) for index in indexes])),
        columns={name: np.concatenate([index.columns[name] for index in indexes]) for name in columns},
        names=NameColumns(names),
        fingerprint=" ".join(index.fingerprint for index in indexes),
    )


def _check_identities(members: Sequence[Member], ids: np.ndarray, frames: np.ndarray) -> None:
    """No recording comes twice. One of the same name and another length is another recording.

    Raises:
        StoreError: one does.
    """
    seen: set[tuple[str, int]] = set()
    twice: list[tuple[str, int]] = []
    for one in zip(ids.tolist(), frames.tolist(), strict=True):
        (twice.append if one in seen else seen.add)(one)
    if twice:
        raise StoreError(
            f"{len(twice)} utterances are in more than one of {', '.join(str(member.path) for member in members)}; the "
            f"first is {twice[0][0]}: leave out one of these stores."
        )
