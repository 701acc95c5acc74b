"""Comparison of training runs, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.monitoring import metrics

UNTIMED = ("step_s", "wait_s", "plan_s", "read_s", "copy_s", "seconds")
"""Metrics that are measured by the clock."""


def untimed(records: list[dict[str, Any]], split: str | None = "train") -> list[dict[str, Any]]:
    """Return lines of metrics without what the clock measured, of one split or, with None, of both."""
    return [
        {name: value for name, value in record.items() if name not in UNTIMED}
        for record in records
        if split in (None, record["split"])
    ]


def untimed_lines(out: Path) -> list[dict[str, Any]]:
    """Return all lines of a run's metrics.jsonl without what the clock measured."""
    return untimed(metrics.read(out / "metrics.jsonl"), None)


def assert_same_run(out: Path, undisturbed: Path, *, steps: int) -> None:
    """Assert that two runs have the same metrics, and the same checkpoint after `steps` steps."""
    assert untimed_lines(out) == untimed_lines(undisturbed)
    ours, theirs = (load(Checkpoints(run / "checkpoints").path(steps)) for run in (out, undisturbed))
    assert_same(ours["stage"], theirs["stage"])
    assert_same(ours["random"], theirs["random"])
    assert ours["stream"] == theirs["stream"]


def assert_same(one: Any, other: Any) -> None:
    """Assert that nested states are equal, tensors to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
