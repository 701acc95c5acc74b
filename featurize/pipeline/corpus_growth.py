"""Plan the parts of a corpus that grew: sealed parts are kept, and new utterances become further parts.

A plan says which parts were there when it was made. What those hold is in their own columns and seals, so the
same corpus gives the same plan again after a build was killed, and the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.featurize.pipeline.part_plan import order_in_part
from headrace.featurize.pipeline.part_worker import PartTask, Recipe, inputs_digest
from headrace.store import index, layout
from headrace.store.arrays.array_reader import load_array
from headrace.store.errors import StoreError
from headrace.store.schema import Utterance, digest
from headrace.store.storage import StoragePath

Generations = Sequence[Sequence[Sequence[int]]]
"""For each generation, the numbers of the parts that existed before it, as ranges (`layout.to_ranges`)."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """All parts of a store by number, and which of them existed each time that the corpus grew."""

    tasks: Sequence[PartTask]
    grown: Generations = ()
    """The parts before the last one are kept as they are."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as the store's root attributes hold it."""
        return {
            "parts": len(self.tasks),
            "utterances": sum(len(task.utterances) for task in self.tasks),
            "digest": digest([task.inputs for task in self.tasks]),
            "grown": [[list(run) for run in runs] for runs in self.grown],
        }


def choose_plan(
    out: StoragePath, found: Mapping[str, Any] | None, cut: Callable[[Sequence[int]], Sequence[PartTask]]
) -> StorePlan:
    """Return the plan that the store was begun with, or an extended one if the corpus grew.

    Args:
        found: the plan in the store's root attributes; None if it has none.
        cut: returns all parts of the corpus, given the numbers of the parts to keep.
    Raises:
        StoreError: the corpus changed other than by growing.
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
    """Return whether the sealed parts were made by these tasks."""
    made = {task.number: task.inputs for task in tasks}
    return all(made.get(n) == seal["inputs"] for n, seal in zip(sealed, index.read_seals(out, sealed), strict=True))


def assign_to_parts(
    utterances: Sequence[Utterance], out: StoragePath, kept: Sequence[int], recipe: Recipe
) -> tuple[dict[int, list[Utterance]], list[Utterance]]:
    """Return the utterances of each kept part in their original order, and all other utterances.

    Raises:
        StoreError: a kept part was made from utterances that the corpus no longer has.
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
        held[number].sort(key=order_in_part)
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
