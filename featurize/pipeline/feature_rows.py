"""Compute the rows of an added feature, and find the utterances on which a library fails.

An added feature cannot leave an utterance out: it is in the sealed part. Where it fails its rows are `Derived.missing`,
and the seal of the array names it with the reason. All others have the rows that they would have without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from headrace.featurize.features.derived import Derived, Part
from headrace.store import layout
from headrace.store.errors import Rejected, rejecting

PartOf = Callable[[Sequence[int] | None], Part]
"""From numbers of utterances to a part that holds only them; from None to the whole part."""


def compute_rows(feature: Derived, part_of: PartOf) -> tuple[np.ndarray, dict[str, str], Part]:
    """Return the rows of all utterances, concatenated, and the reasons by id of those on which the feature fails.

    The feature is made as usual. If it raises, it is tried on every utterance alone, and made again without those on
    which it fails. If it fails on every one of several, the fault is not theirs, and is raised. A part without any
    utterance, which rejected all of them, has no rows: no feature is asked for them.

    Returns:
        The rows, the reasons, and the part that the rows were made of, with its remarks.
    """
    whole = part_of(None)
    ids = whole.strings("id")
    if not ids:
        return _concatenated(feature, whole, ()), {}, whole
    try:
        with rejecting("features"):
            return _concatenated(feature, whole, list(feature.rows(whole))), {}, whole
    except Rejected as error:
        fault = error.__cause__ or error
    reasons = {n: reason for n in range(len(ids)) if (reason := _failure(feature, part_of([n])))}
    if not reasons or len(reasons) == len(ids) > 1:
        raise fault
    others = part_of([n for n in range(len(ids)) if n not in reasons])
    made = iter(list(feature.rows(others)) if len(reasons) < len(ids) else ())
    rows = [_missing(feature, whole, n) if n in reasons else next(made) for n in range(len(ids))]
    return _concatenated(feature, whole, rows), {ids[n]: reason for n, reason in reasons.items()}, others


def _failure(feature: Derived, part: Part) -> str:
    """Return why a feature fails on a part of one utterance; empty if it does not."""
    try:
        with rejecting("features"):
            list(feature.rows(part))
    except Rejected as error:
        return error.reason
    return ""


def _concatenated(feature: Derived, part: Part, rows: Sequence[np.ndarray]) -> np.ndarray:
    spec = part.specs[feature.name]
    return np.concatenate([np.empty((0, *spec.row_shape), spec.dtype), *rows])


def _missing(feature: Derived, part: Part, number: int) -> np.ndarray:
    spec = part.specs[feature.name]
    count = 1 if spec.axis == "utterance" else int(part.strings(layout.LENGTH_COLUMNS[spec.axis])[number])
    return np.full((count, *spec.row_shape), feature.missing, spec.dtype)
