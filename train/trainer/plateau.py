"""Detection of a plateau of the validation loss: for early stopping, growing batches and the best checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

PATIENCE = 2
"""Validations without a better loss after which batches grow."""
MAX_GROWTH = 4
"""Batches grow up to this many times their first size."""


@dataclass(kw_only=True)
class Plateau:
    """Tracks one loss over validations. Its fields are kept in checkpoints."""

    best: float = inf
    best_step: int = 0
    since: int = 0
    """Validations since the best one, or since batches grew."""
    growth: int = 1
    """Factor on the size of batches, 1 at first."""

    def update(self, step: int, loss: float) -> None:
        """Record the loss of a validation. One that is not finite is never better."""
        if loss < self.best:
            self.best, self.best_step, self.since = loss, step, 0
        else:
            self.since += 1

    def grow(self) -> bool:
        """Double the batches if the loss has stopped falling and they may grow. Returns whether they grew."""
        if self.since < PATIENCE or self.growth >= MAX_GROWTH:
            return False
        self.growth, self.since = self.growth * 2, 0
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)
