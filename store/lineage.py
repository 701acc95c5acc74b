"""Recognition of an earlier, smaller state of a store that has grown."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.store import added_arrays, index, layout
from headrace.store.errors import DamagedStore
from headrace.store.reader import Store
from headrace.store.schema import digest


def utterances_before_growth(store: Store, fingerprint: str, features: Iterable[str]) -> int | None:
    """Return how many utterances a store had when its `fingerprint_of(features)` was this one, before it grew.

    Returns:
        None if the store never had that fingerprint, lacks some of those parts now, or is several stores read as one.
    """
    if len(store.members) > 1:
        return None
    added = {spec["name"] for spec in store.attributes["features"] if "seals" in spec}
    names = [name for name in features if name in added]
    for ranges in store.attributes["plan"].get("grown", ()):
        numbers = layout.expand_ranges(ranges)
        try:
            seals = index.read_seals(store.path, numbers)
            digests = {name: added_arrays.seals_digest(store.path, name, numbers) for name in names}
        except DamagedStore:
            continue
        own = index.fingerprint(numbers, seals)
        if fingerprint == (digest([own, digests]) if digests else own):
            return sum(seal["utterances"] for seal in seals)
    return None
