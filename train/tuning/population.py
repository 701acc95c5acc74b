"""Population-based training (Jaderberg et al. 2017): runs that copy better ones, and then try other options.

All members train as many steps; that is a generation. The worst quarter then continues from copies of the best quarter
(exploit), with options that are a little larger or smaller (explore); all others continue as they are. A generation is
begun when the one before it is complete, so that the result does not depend on which process was quicker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.store.errors import RunError
from headrace.store.storage import read_file
from headrace.store.storage.local import atomic_file
from headrace.train.tuning.search_space import Parameter

SHARE = 0.25
"""Share of a population that is copied, and that is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a member begins a generation with."""

    parent: int | None
    """The member of the generation before whose checkpoint it continues from; None in the first generation."""
    options: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One generation of one member, after it has ended."""

    generation: int
    """From 0."""
    member: int
    parent: int | None
    options: Mapping[str, float]
    step: int
    """Steps since the beginning of the lineage."""
    value: float | None
    """Of the metric at the end; None of a run that failed."""
    reason: str = ""
    """Why it failed."""

    @property
    def is_copy(self) -> bool:
        """Whether it began with the checkpoint of another member."""
        return self.parent is not None and self.parent != self.member


def first_generation(space: Sequence[Parameter], members: int, seed: int) -> list[Origin]:
    """Return what members begin with: the first with the defaults, the others anywhere in the ranges."""
    random = np.random.default_rng((seed, 0))
    shares = random.random((members, len(space)))
    sampled = [{p.name: p.at(float(share)) for p, share in zip(space, row, strict=True)} for row in shares]
    defaults = {parameter.name: parameter.default for parameter in space}
    return [Origin(parent=None, options=options) for options in (defaults, *sampled[1:])]


def next_generation(
    before: Sequence[Segment], space: Sequence[Parameter], *, maximise: bool, seed: int
) -> list[Origin]:
    """Return what each member continues with.

    Args:
        before: the generation before, in the order of members.
    Raises:
        RunError: all of them failed.
    """
    ranked = best_first(before, maximise=maximise)
    if not ranked:
        reasons = sorted({segment.reason for segment in before})
        raise RunError("All runs of a generation failed: change the options that they have in common.", *reasons)
    count = max(1, round(SHARE * len(before)))
    best = [segment.member for segment in ranked[:count]]
    replaced = {segment.member for segment in before if segment.value is None}
    replaced |= {segment.member for segment in ranked[-count:]} - set(best)
    random = np.random.default_rng((seed, before[0].generation + 1))
    origins = []
    for segment in before:
        if segment.member not in replaced:
            origins.append(Origin(parent=segment.member, options=segment.options))
            continue
        parent = int(random.choice(best))
        options = before[parent].options
        explored = {p.name: p.changed(options[p.name], up=bool(random.integers(2))) for p in space}
        origins.append(Origin(parent=parent, options=explored))
    return origins


def best_first(segments: Sequence[Segment], *, maximise: bool) -> list[Segment]:
    """Return the segments that did not fail, the best one first."""
    ended = [segment for segment in segments if segment.value is not None]
    return sorted(ended, key=lambda segment: (segment.value or 0.0) * (-1 if maximise else 1))


def lineage(segment: Segment, segments: Sequence[Segment]) -> list[Segment]:
    """Return the segments that a segment continues, and itself, the first generation first."""
    at = {(one.generation, one.member): one for one in segments}
    found = [segment]
    while found[0].parent is not None:
        found.insert(0, at[found[0].generation - 1, found[0].parent])
    return found


class Ledger:
    """The segments that have ended, in a file: a line for each."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            RunError: the file is damaged.
        """
        self._path = path
        try:
            lines = read_file(path).splitlines() if path.exists() else []
            self.segments = [Segment(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunError(f"{path} is damaged: begin a new tuning with another --out.") from error

    def add(self, segment: Segment) -> None:
        """Record a segment; it is on disk when this returns."""
        self.segments.append(segment)
        with atomic_file(self._path) as file:
            file.writelines(json.dumps(asdict(one)).encode() + b"\n" for one in self.segments)

    def generation(self, number: int) -> list[Segment]:
        """Return the segments of a generation, in the order of members."""
        found = [segment for segment in self.segments if segment.generation == number]
        return sorted(found, key=lambda segment: segment.member)

    def rows(self, metric: str) -> list[dict[str, Any]]:
        """Return a row for each segment, in order."""
        ordered = sorted(self.segments, key=lambda segment: (segment.generation, segment.member))
        return [segment_row(segment, metric) for segment in ordered]


def segment_row(segment: Segment, metric: str) -> dict[str, Any]:
    """Return a segment as a row of a table."""
    return {
        "generation": segment.generation,
        "member": segment.member,
        "state": "failed" if segment.value is None else "copied" if segment.is_copy else "continued",
        "parent": segment.parent,
        metric: segment.value,
        "step": segment.step,
        "options": dict(segment.options),
        "reason": segment.reason,
    }
