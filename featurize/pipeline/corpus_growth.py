"""A corpus that grew: the parts that a store has stay as they are, and what they do not hold becomes further parts.

A plan says which parts were there when it was made. What those hold is in their own columns and seals, so the
same corpus gives the same plan again after a build was killed, and the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.featurize.pipeline.part_worker import PartTask, Recipe, inputs_digest
from headrace.store import index, layout
from headrace.store.arrays.array_reader import load_array
from headrace.store.errors import StoreError
from headrace.store.schema import Utterance, digest
from headrace.store.storage import StoragePath

Generations = Sequence[Sequence[Sequence[int]]]
"""Of each, the numbers of the parts that were there before it, as `layout.to_ranges`."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """All parts of a store, by number, and which were there each time that it began to grow."""

    tasks: Sequence[PartTask]
    grown: Generations = ()
    """The parts before the last one are kept as they are."""

    def to_json(self) -> dict[str, Any]:
        return {
            "parts": len(self.tasks),
            "utterances": sum(len(task.utterances) for task in self.tasks),
            "digest": digest([task.inputs for task in self.tasks]),
            "grown": [[list(run) for run in runs] for runs in self.grown],
        }


def choose_plan(
    out: StoragePath, found: Mapping[str, Any] | None, cut: Callable[[Sequence[int]], Sequence[PartTask]]
) -> StorePlan:
    """The plan that the store was begun with, or one more where the corpus grew.

    Args:
        found: what the store's root says of its plan; None where it does not.
        cut: all parts of the corpus, given the numbers of those that keep what they hold.
    Raises:
        StoreError: the corpus changed otherwise than by growing, or is another.
    """
    sealed = layout.sealed_parts(out)
    grown = found["grown"] if found else []
    kept = layout.expand_ranges(grown[-1]) if grown else []
    if set(kept) <= set(sealed):
        plan = StorePlan(cut(kept), grown)
        asked = plan.to_json()
        if asked == found or not sealed or (found is None and _made_by(out, sealed, plan.tasks)):
            return plan
        if found and asked["utterances"] == found["utterances"]:
            raise StoreError(
                f"The corpus, --part-hours or --max-segment changed since {out} was begun: build into another --out.",
                f"in store:  {found['utterances']} utterances in {found['parts']} parts",
                f"asked for: {asked['utterances']} utterances in {asked['parts']} parts",
            )
    return StorePlan(cut(sealed), [*grown, layout.to_ranges(sealed)])


def _made_by(out: StoragePath, sealed: Sequence[int], tasks: Sequence[PartTask]) -> bool:
    """Whether these tasks made the parts that are there."""
    made = {task.number: task.inputs for task in tasks}
    return all(made.get(n) == seal["inputs"] for n, seal in zip(sealed, index.read_seals(out, sealed), strict=True))


def assign_to_parts(
    utterances: Sequence[Utterance], out: StoragePath, kept: Sequence[int], recipe: Recipe
) -> tuple[dict[int, list[Utterance]], list[Utterance]]:
    """What each of some sealed parts was made from, in the order in which it was, and all the others.

    Raises:
        StoreError: one was made from something that is not in the corpus now.
    """
    if not kept:
        return {}, list(utterances)
    seals = index.read_seals(out, kept)
    part_of: dict[str, int] = {}
    for number, seal in zip(kept, seals, strict=True):
        ids = load_array(layout.part_path(out, number) / "id").tolist()
        part_of.update(dict.fromkeys([*ids, *(reject["id"] for reject in seal["rejects"])], number))
    held: dict[int, list[Utterance]] = {number: [] for number in kept}
    rest: list[Utterance] = []
    for utterance in utterances:
        held.get(part_of.get(utterance.id, -1), rest).append(utterance)
    for number, seal in zip(kept, seals, strict=True):
        held[number].sort(key=lambda utterance: utterance.seconds)
        if inputs_digest(held[number], recipe) != seal["inputs"]:
            raise _changed_error(out, number, seal, held[number], len(utterances))
    return held, rest


def _changed_error(
    out: StoragePath, number: int, seal: Mapping[str, Any], there: Sequence[Utterance], count: int
) -> StoreError:
    made_from = seal["utterances"] + len(seal["rejects"])
    gone = made_from - len(there)
    what = f"{gone} of its {made_from} are gone" if gone else "some are other recordings, or have another text"
    return StoreError(
        f"The corpus changed otherwise than by growing since {out} was begun: build into another --out.",
        f"utterances of part {number:05d}: {what}",
        f"asked for: {count} utterances",
    )
