"""The ids of several stores that are read as one: which utterances they share, and what those are called."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from headrace.store import layout
from headrace.store.arrays.array_reader import open_array
from headrace.store.errors import StoreError

if TYPE_CHECKING:
    from headrace.store.multi_store import Member

MAX_REPEATED = 100
"""Repeated utterances after which no more are looked for."""
COMPARED = ("wave", "mel", "mfcc")
"""Features that show whether two utterances are of one recording, the best first."""


def own_ids(members: Sequence[Member]) -> np.ndarray:
    """Return the id of each utterance in its own store: (N,) str."""
    return np.concatenate([member.index.names["id"] for member in members])


def joined_ids(members: Sequence[Member]) -> np.ndarray:
    """Return an id for each utterance: (N,) str. Those that several stores have begin with the name of their store.

    Raises:
        StoreError: a recording is in two stores.
    """
    ids = own_ids(members)
    where: dict[str, list[int]] = {}
    for number, id in enumerate(ids.tolist()):
        where.setdefault(id, []).append(number)
    shared = {id: numbers for id, numbers in where.items() if len(numbers) > 1}
    if not shared:
        return ids
    _Recordings(members).check_different(shared)
    first = layout.offsets(np.array([int(member.index.bounds[-1]) for member in members]))
    names = member_names(members)
    for number in (number for numbers in shared.values() for number in numbers):
        ids[number] = f"{names[int(np.searchsorted(first, number, 'right')) - 1]}/{ids[number]}"
    return ids


def member_names(members: Sequence[Member]) -> list[str]:
    """Return a name for each store: that of its folder, with as many folders above as it takes to tell them apart."""
    folders = [str(member.path.resolve()).replace(os.sep, "/").split("/") for member in members]
    depth = 1
    while len({tuple(folder[-depth:]) for folder in folders}) < len(folders):
        depth += 1
    return ["/".join(folder[-depth:]) for folder in folders]


class _Recordings:
    """What several stores hold of single recordings, to compare them by."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._first = layout.offsets(np.array([int(member.index.bounds[-1]) for member in members]))
        self._frames = [member.index.columns["frames"] for member in members]
        self._offsets = [layout.offsets(frames) for frames in self._frames]
        self._feature = next((name for name in COMPARED if all(name in member.features for member in members)), "")
        self._texts: dict[int, np.ndarray] = {}

    def check_different(self, shared: Mapping[str, Sequence[int]]) -> None:
        """Check that utterances with one id are different recordings.

        Only those of one length are compared. Where the stores have no feature in common that shows it, texts are.

        Args:
            shared: numbers of the utterances by their id.
        Raises:
            StoreError: two of them are of one recording.
        """
        twice: list[str] = []
        for id, numbers in shared.items():
            if len(twice) < MAX_REPEATED and self._repeats(numbers):
                twice.append(id)
        if twice:
            count = f"{len(twice)} utterances {'or more ' if len(twice) == MAX_REPEATED else ''}are"
            raise StoreError(
                f"{count} in more than one of {', '.join(str(member.path) for member in self._members)}; the first is "
                f"{twice[0]}: leave out one of these stores."
            )

    def _repeats(self, numbers: Sequence[int]) -> bool:
        """Return whether two of these utterances are of one recording."""
        by_length: dict[int, list[np.ndarray]] = {}
        places = [self._place(number) for number in numbers]
        lengths = [int(self._frames[store][number]) for store, number in places]
        for place, length in zip(places, lengths, strict=True):
            if lengths.count(length) > 1:
                rows = self._read(*place)
                if any(np.array_equal(rows, other) for other in by_length.get(length, ())):
                    return True
                by_length.setdefault(length, []).append(rows)
        return False

    def _place(self, number: int) -> tuple[int, int]:
        """Return the number of an utterance's store, and its number there."""
        store = int(np.searchsorted(self._first, number, "right")) - 1
        return store, number - int(self._first[store])

    def _read(self, store: int, number: int) -> np.ndarray:
        """Return what a store holds of an utterance."""
        member, offsets = self._members[store], self._offsets[store]
        if not self._feature:
            if store not in self._texts:
                self._texts[store] = member.per_utterance("text", object, check=False)
            return self._texts[store][number : number + 1]
        part = int(np.searchsorted(member.index.bounds, number, "right")) - 1
        rows = offsets[number : number + 2] - offsets[member.index.bounds[part]]
        array = open_array(layout.part_path(member.path, int(member.index.parts[part])) / self._feature)
        return np.asarray(array.read([(int(rows[0]), int(rows[1]))])[0])
