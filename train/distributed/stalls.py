"""The judgement which rank of a job stands still, from what each of them last said of itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.train.distributed.phases import ENDED, WAITING

MOST_NAMED = 4
"""Ranks that a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """What a rank last said of itself, and how long ago that is."""

    rank: int
    step: int
    """Steps that it has finished."""
    phase: str
    collectives: int
    """Collective operations that it has entered."""
    idle_s: float
    """Seconds that it had made no progress for."""
    limit_s: float
    """Seconds for which it may make none."""
    device: str = "CPU"
    silent_s: float = 0.0
    """Seconds since it was heard, by the clock of the rank that judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The ranks that stand still, and how it shows."""

    silent: tuple[RankState, ...] = ()
    """Those that say nothing any more: stopped, or their machine is gone."""
    busy: tuple[RankState, ...] = ()
    """Those that are at work, and do not come on."""
    behind: tuple[RankState, ...] = ()
    """Those that wait in another operation than the others, or have ended while others wait."""
    deadlocked: tuple[RankState, ...] = ()
    """All, where they wait for one another in the same operation."""

    @property
    def ranks(self) -> list[int]:
        """Numbers of the ranks that stand still, ascending."""
        return sorted(s.rank for group in (self.silent, self.busy, self.behind, self.deadlocked) for s in group)

    def describe(self, names: Sequence[str]) -> str:
        """Return one line.

        Args:
            names: of each rank, with its host.
        """
        parts = [
            *(f"{_name(s, names)} does not answer, last heard {_place(s)}: stopped, or gone" for s in self.silent),
            *(f"{_name(s, names)} stands still {_place(s)} for {s.idle_s:.0f} s" for s in self.busy),
            *(f"{_name(s, names)} {_lag(s)}, and the others wait for it" for s in self.behind),
        ]
        if self.deadlocked:
            first = self.deadlocked[0]
            parts.append(
                f"all ranks wait for one another {_place(first)} for {first.idle_s:.0f} s: a device, or the network "
                "between them"
            )
        more = len(parts) - MOST_NAMED
        return "; ".join(parts[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def find_stalled(states: Iterable[RankState], *, silence_s: float) -> Verdict | None:
    """Return which ranks stand still; None as long as the job may come on by itself.

    A rank that waits for another one does not stand still, however long, while that one makes progress.

    Args:
        states: of all ranks, as one of them sees them.
        silence_s: seconds after which a rank that says nothing does not answer.
    """
    states = sorted(states, key=lambda state: state.rank)
    living = [state for state in states if state.phase != ENDED]
    silent = tuple(state for state in living if state.silent_s > silence_s)
    answering = [state for state in living if state.silent_s <= silence_s]
    working = [state for state in answering if state.phase not in WAITING]
    busy = tuple(state for state in working if state.idle_s > state.limit_s)
    if silent:
        return Verdict(silent=silent, busy=busy)
    if len(busy) < len(working):
        return None  # one still makes progress, and comes to the others in the end
    if busy:
        return Verdict(busy=busy)
    if not answering or any(state.idle_s <= state.limit_s for state in answering):
        return None  # one has just come to the others
    if ended := tuple(state for state in states if state.phase == ENDED):
        return Verdict(behind=ended)
    most = max((state.step, state.collectives) for state in answering)
    if behind := tuple(state for state in answering if (state.step, state.collectives) < most):
        return Verdict(behind=behind)
    return Verdict(deadlocked=tuple(answering))


def _name(state: RankState, names: Sequence[str]) -> str:
    return f"{names[state.rank]}, {state.device},"


def _place(state: RankState) -> str:
    """Say where a rank is. The step is the one that it is at, not the last one that it has finished."""
    return f"in {state.phase} at step {state.step + 1}"


def _lag(state: RankState) -> str:
    return "has ended" if state.phase == ENDED else f"waits in another {state.phase} at step {state.step + 1}"
