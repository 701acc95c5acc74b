"""What a store was before it grew."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.store import added_arrays, index, layout
from headrace.store.errors import DamagedStore
from headrace.store.reader import Store
from headrace.store.schema import digest


def utterances_before_growth(store: Store, fingerprint: str, features: Iterable[str]) -> int | None:
    """How many utterances a store had when its `fingerprint_of(features)` was this one, before it grew. None where it
    never was, or holds not all of that now, or where several are read as one."""
    if len(store.members) > 1:
        return None
    later = {spec["name"] for spec in store.attributes["features"] if "seals" in spec}
    names = [name for name in features if name in later]
    for grown in store.attributes["plan"].get("grown", ()):
        kept = layout.expand_ranges(grown)
        try:
            seals = index.read_seals(store.path, kept)
            joins = {name: added_arrays.seals_digest(store.path, name, kept) for name in names}
        except DamagedStore:
            continue
        own = index.fingerprint(kept, seals)
        if fingerprint == (digest([own, joins]) if joins else own):
            return sum(seal["utterances"] for seal in seals)
    return None
