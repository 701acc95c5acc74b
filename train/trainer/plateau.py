"""Whether the loss on utterances that are held out still falls."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

PATIENCE = 2
"""Validations without a better loss after which batches grow."""
MOST = 4
"""Times as large as at first, batches do not grow any further."""


@dataclass(kw_only=True)
class Plateau:
    """Follows one loss from validation to validation."""

    best: float = inf
    best_step: int = 0
    since: int = 0
    """Validations since the best one, or since batches grew."""
    growth: int = 1
    """How many times as large batches are as at first."""

    def note(self, step: int, loss: float) -> None:
        """A validation. A loss that is not finite is no better than any."""
        if loss < self.best:
            self.best, self.best_step, self.since = loss, step, 0
        else:
            self.since += 1

    def grow(self) -> bool:
        """Double the batches if the loss has stopped falling and they may grow; whether they did."""
        if self.since < PATIENCE or self.growth >= MOST:
            return False
        self.growth, self.since = self.growth * 2, 0
        return True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
