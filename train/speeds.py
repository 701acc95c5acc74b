"""Speeds of the processes of a run, as its option `speeds` gives them, and their shares of a step."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.store.errors import UsageError

EQUAL = "equal"
AUTO = "auto"
FASTEST = 100
"""Speed of the fastest rank: the others are percentages of it."""

Speeds = tuple[int, ...]
"""Speed of each rank in percent of the fastest, 1 to 100; empty where all have equal shares."""


def relative_speeds(speeds: Sequence[float]) -> Speeds:
    """Return speeds in percent of the fastest; empty where all are equal. They are greater than 0."""
    fastest = max(speeds)
    found = tuple(max(1, round(FASTEST * speed / fastest)) for speed in speeds)
    return () if min(found) == FASTEST else found


def parse_speeds(text: str) -> Speeds | None:
    """Return the speeds that the option `speeds` names: `equal`, or a number for each rank. None for `auto`.

    Raises:
        UsageError: it is something else.
    """
    if text in (EQUAL, AUTO):
        return () if text == EQUAL else None
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < 1e6 for number in numbers):
        raise UsageError(
            f"speeds is {text!r}; give auto, equal, or a number greater than 0 for each process, such as 1,0.45."
        )
    return relative_speeds(numbers) if len(numbers) > 1 else ()


def count_speeds(text: str) -> int:
    """Return for how many ranks the option `speeds` has numbers; 0 for `equal` and `auto`."""
    return 0 if text in (EQUAL, AUTO) else len(text.split(","))


def shares(speeds: Speeds, world: int) -> list[float]:
    """Return the share of each rank in the frames of a step; they sum to 1."""
    return [speed / sum(speeds) for speed in speeds] if speeds else [1 / world] * world
