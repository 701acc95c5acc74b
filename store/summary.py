"""A summary of a store, for people and programs: what it holds, how much of it is there, how each feature was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from headrace.store import added_arrays, index, layout, rejects
from headrace.store.integrity import scan_record
from headrace.store.multi_store import Member
from headrace.store.reader import Store
from headrace.store.schema import Reject
from headrace.store.units import format_size

ALIGNERS = {"hmm-gmm": "learned", "ctc": "CTC network"}
"""Names of the aligners by the `method` in the recipe of `align`."""
UNKNOWN_SOURCE = "came with the corpus"


def summarize(store: Store) -> dict[str, Any]:
    """Return what `store info --json` prints: counts, hours, speakers, languages and features, ready for JSON."""
    return {
        "preset": store.attributes["preset"],
        "sample_rate": store.sample_rate,
        "hop": store.hop,
        "utterances": len(store),
        "hours": store.hours,
        "parts": len(store.parts),
        "parts_planned": sum(member.attributes["plan"]["parts"] for member in store.members),
        "complete": store.complete,
        "rejects": sum(map(_count_rejects, store.members)),
        "reject_kinds": [asdict(kind) for kind in rejects.group(_listed_rejects(store.members))],
        "listed": _count_listed(store.members),
        "speakers": dict(Counter(store.speakers.tolist()).most_common()),
        "languages": dict(Counter(store.languages.tolist()).most_common()),
        "aligned": int(store.column("aligned").sum()),
        "alignments": _alignments(store),
        **{name: int(np.count_nonzero(store.recording_counts(name))) for name in layout.RECORDING_COUNTS},
        "fingerprint": store.fingerprint,
        "reading": store.read_method,
        "features": [_summarize_feature(store, name) for name in store.features],
    }


def _summarize_feature(store: Store, name: str) -> dict[str, Any]:
    spec = store.features[name]
    rows = int(store.lengths(spec.axis).sum(dtype=np.int64))
    size = rows * np.dtype(spec.dtype).itemsize * (spec.channels or 1)
    return spec.to_json() | {"row": spec.channels or "scalar", "rows": rows, "bytes": size, "size": format_size(size)}


def _alignments(store: Store) -> dict[str, int]:
    """Return the number of utterances by the source of their times: those they came with, and `align`; or `none`."""
    sources = Counter[str]()
    for member in store.members:
        sources += _alignments_of(member, "align" in store.features)
    return dict(sources.most_common())


def _alignments_of(member: Member, with_align: bool) -> Counter[str]:
    numbers = member.index.parts.tolist()
    sources, total = Counter[str](), int(member.index.bounds[-1])
    for seal in index.read_seals(member.path, numbers):
        sources.update(seal.get("alignments", {}))
    given = int(member.index.columns["aligned"].sum())
    sources[UNKNOWN_SOURCE] = given - sources.total()  # of a store that was made before sources were counted
    without = total - given
    if with_align:
        seals = added_arrays.read_seals(member.path, "align", numbers)
        failed = sum(len(seal.get("failed", {})) for seal in seals if seal)
        method = str(member.features["align"].recipe.get("method", ""))
        sources[ALIGNERS.get(method, method)] = without - failed
        without = failed
    sources["none"] = without
    return +sources


def _count_rejects(member: Member) -> int:
    numbers = member.index.parts.tolist()
    return rejects.count(member.path, member.attributes, numbers, int(member.index.bounds[-1]))


def _listed_rejects(members: Sequence[Member]) -> Iterator[Reject]:
    for member in members:
        yield from rejects.read(member.path)[0]


def _count_listed(members: Sequence[Member]) -> int | None:
    """Return how many utterances the corpora of all stores list; None if one of the stores has no record of it."""
    if all(scan_record.is_recorded(member.attributes) for member in members):
        return sum(scan_record.read(member.path).listed for member in members)
    return None
