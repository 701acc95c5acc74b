"""What the ranks of a job tell one another beside collective operations: where each is, and why the job ends."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch.distributed as dist

from headrace.train.distributed.stalls import RankState

ERROR = "error"
"""A rank fails with an error of its own, which it prints."""
LOST = "lost"
"""A rank is gone and has said nothing."""
STALL = "stall"
"""A rank stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """Why a job ends. The first rank that offers a reason prints it; it becomes that of all."""

    kind: str
    line: str
    code: int
    """Exit code of all ranks."""
    token: str = field(default_factory=lambda: uuid.uuid4().hex)


class SideChannel:
    """States and the end of a job in a key-value store that all ranks reach.

    Each method is one request. It raises RuntimeError where the process that keeps the store has ended, and blocks for
    as long as that process is stopped.
    """

    def __init__(self, store: dist.Store, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._count = 0

    def tell(self, state: RankState) -> None:
        """Tell the others where this rank is."""
        self._count += 1
        self._store.set(f"rank/{self._rank}", json.dumps({"count": self._count, **asdict(state)}))

    def read_states(self) -> list[tuple[int, RankState]]:
        """Return the state of each rank that has told one, with how often it has."""
        keys = [f"rank/{rank}" for rank in range(self._world)]
        if not self._store.check(keys):
            keys = [key for key in keys if self._store.check([key])]
        values: list[dict[str, Any]] = [json.loads(value) for value in self._store.multi_get(keys)] if keys else []
        return [(value.pop("count"), RankState(**value)) for value in values]

    def read_end(self) -> JobEnd | None:
        """Return why the job ends; None while it goes on."""
        return JobEnd(**json.loads(self._store.get("end"))) if self._store.check(["end"]) else None

    def offer_end(self, end: JobEnd) -> JobEnd:
        """End the job for this reason, and return the one that was offered first."""
        return JobEnd(**json.loads(self._store.compare_set("end", "", json.dumps(asdict(end)))))


class Silence:
    """How long each rank has not been heard, in seconds for which this process was running."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[int, float]] = {}

    def listen(self, states: Sequence[tuple[int, RankState]], seconds: float) -> None:
        """Compare what is told now with what was told this many seconds ago."""
        for count, state in states:
            before, silent_s = self._heard.get(state.rank, (count, 0.0))
            self._heard[state.rank] = (count, silent_s + seconds if count == before else 0.0)

    def of(self, rank: int) -> float:
        """Return the seconds for which a rank has been silent."""
        return self._heard.get(rank, (0, 0.0))[1]
