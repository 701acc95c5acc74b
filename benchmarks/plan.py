"""What the plan of an epoch costs, in padding and in time, and how random it is.

    python -m benchmarks.plan

Lengths are log-normal, 5 s in the median, 1 to 20 s, 50 frames a second. Each of 200 speakers has its own pace: the
longer ones speak half as long again as the shorter ones.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import click
import numpy as np

from benchmarks import report
from headrace.train.data import fixed_shapes
from headrace.train.data.batch_plan import Plan, Position, padding_of, plan_epoch

SPEAKERS = 200
LIMITS: dict[str, dict[str, Any]] = {
    "32 utterances": {"batch_frames": None, "max_utterances": 32},
    "9,600 frames, 75 utterances": {"batch_frames": 9600, "max_utterances": 75},
    "9,600 frames": {"batch_frames": 9600, "max_utterances": None},
}
HEAD = (
    "utterances", "batches of", "padding", "meet again", "after next", "speakers in a batch", "full shuffle's",
    "CPU s", "MB",
)  # fmt: skip


def corpus(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int32 frames and (N,) int speakers."""
    random = np.random.default_rng(count)
    speakers = random.integers(0, SPEAKERS, count)
    pace = np.linspace(-0.2, 0.2, SPEAKERS)[speakers]
    seconds = np.exp(np.log(5) + pace + np.sqrt(0.55**2 - pace.var()) * random.standard_normal(count))
    return (np.clip(seconds, 1, 20) * 50).astype(np.int32), speakers


def labels(plan: Plan) -> np.ndarray:
    """(N,) the batch of each utterance."""
    label = np.empty(len(plan.order), np.int64)
    label[plan.order] = np.repeat(np.arange(len(plan.bounds) - 1), np.diff(plan.bounds))
    return label


def meeting_again(first: np.ndarray, second: np.ndarray) -> float:
    """The chance that two utterances of one batch are together in the other epoch too."""
    together = np.unique(first * len(second) + second, return_counts=True)[1].astype(np.float64)
    pairs = np.bincount(first).astype(np.float64)
    return float((together * (together - 1)).sum() / (pairs * (pairs - 1)).sum())


def speakers_in_a_batch(batch: np.ndarray, speakers: np.ndarray) -> float:
    """How many different ones, on average."""
    return len(np.unique(batch * SPEAKERS + speakers)) / (batch.max() + 1)


def described(plans: list[Plan], lengths: np.ndarray, speakers: np.ndarray) -> list[float]:
    """Padding, meetings in the next epoch and the one after, speakers, and those of a full shuffle."""
    batches = [labels(plan) for plan in plans]
    anyhow = np.random.default_rng(0).permutation(speakers)
    return [
        float(np.mean([padding_of(lengths, plan) for plan in plans])),
        meeting_again(batches[0], batches[1]),
        meeting_again(batches[0], batches[2]),
        speakers_in_a_batch(batches[0], speakers),
        speakers_in_a_batch(batches[0], anyhow),
    ]


def measured(count: int, limits: str) -> tuple[Any, ...]:
    """One row of the first table. Runs in a process of its own, whose peak of memory it tells."""
    lengths, speakers = corpus(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    plans = [plan_epoch(lengths, Position.start(), seed=0, **LIMITS[limits])]
    seconds = time.process_time() - begun
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    plans += [plan_epoch(lengths, Position.start(epoch=epoch), seed=0, **LIMITS[limits]) for epoch in (1, 2)]
    padding, following, later, spread, full = described(plans, lengths, speakers)
    return (
        f"{count:,}", limits, f"{padding:.2%}", f"{following:.3f}", f"{later:.3f}", f"{spread:.1f}", f"{full:.1f}",
        seconds, f"{peak:.0f}",
    )  # fmt: skip


def in_order(order: np.ndarray, size: int = 32) -> Plan:
    """Batches of 32 in this order."""
    bounds = np.append(np.arange(0, len(order), size), len(order))
    return Plan(order, bounds, np.arange(len(bounds) - 1)[:, None])


def sorted_order(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.lexsort((random.random(len(lengths)), lengths))


def in_blocks(batches: int) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """By length, shuffled inside blocks of so many batches that begin anywhere."""

    def order(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
        block = (np.arange(len(lengths)) + random.integers(32 * batches)) // (32 * batches)
        return sorted_order(lengths, random)[np.lexsort((random.random(len(lengths)), block))]

    return order


def all_moved(window: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """By length, every utterance moved up by a random part of a window, wider where there are more of its length."""

    def order(lengths: np.ndarray, random: np.random.Generator) -> np.ndarray:
        ranked = sorted_order(lengths, random)
        ascending = lengths[ranked]
        alike = np.searchsorted(ascending, ascending * 1.05, "right") - np.searchsorted(ascending, ascending / 1.05)
        moved = window * np.sqrt(alike / ascending) * (1 - np.sqrt(random.random(len(ranked))))
        return ranked[np.argsort(np.arange(len(ranked)) + moved, kind="stable")]

    return order


def compared() -> list[tuple[Any, ...]]:
    """The second table: other ways to make batches of 32 of 20,000 utterances."""
    lengths, speakers = corpus(20_000)
    ways = {
        "by length": sorted_order,
        "blocks of 4 batches": in_blocks(4),
        "blocks of 16 batches": in_blocks(16),
        "all moved, as little padding": all_moved(135),
        "all moved, as few meetings": all_moved(400),
        "full shuffle": lambda lengths, random: random.permutation(len(lengths)),
    }
    plans = {
        name: [in_order(way(lengths, np.random.default_rng(epoch))) for epoch in range(3)] for name, way in ways.items()
    }
    own = [plan_epoch(lengths, Position.start(epoch=epoch), seed=0, **LIMITS["32 utterances"]) for epoch in range(3)]
    rows = []
    for name, some in {"this plan": own, **plans}.items():
        padding, following, later, spread, _ = described(some, lengths, speakers)
        rows.append((name, f"{padding:.2%}", f"{following:.3f}", f"{later:.3f}", f"{spread:.1f}"))
    return rows


def fixed() -> list[tuple[Any, ...]]:
    """The third table: what fixed shapes cost, 20,000 utterances."""
    lengths, _ = corpus(20_000)
    rows = []
    for count in (4, 8, 16, 32, 64):
        padded = fixed_shapes.choose({"frames": lengths}, count).round_up(lengths)
        plans = [
            plan_epoch(padded, Position.start(epoch=e), seed=0, batch_frames=9600, max_utterances=75) for e in (0, 1)
        ]
        longest = np.maximum.reduceat(padded[plans[0].order], plans[0].bounds[:-1])
        sizes = len(set(zip(longest.tolist(), np.diff(plans[0].bounds).tolist(), strict=True)))
        again = meeting_again(labels(plans[0]), labels(plans[1]))
        rows.append((count, f"{padding_of(lengths, plans[0], padded):.2%}", f"{again:.3f}", sizes))
    return rows


@click.command()
@click.option("--most", default=10_000_000, show_default=True, help="Utterances of the largest corpus.")
def main(most: int) -> None:
    counts = [count for count in (552, 20_000, 200_000, 1_000_000, 10_000_000) if count <= most]
    large = ["9,600 frames, 75 utterances"]
    cases = [(count, name) for count in counts for name in (LIMITS if count < 1_000_000 else large)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as alone:
        rows = [alone.submit(measured, *case).result() for case in cases]
    ways, fixed_rows = compared(), fixed()
    tables = {
        "Meet again: the chance that two utterances of a batch are together in the next epoch too, or in the one after "
        "it. MB: the peak of memory above the lengths themselves.": (HEAD, rows),
        "Batches of 32 of 20,000 utterances, made in other ways": (
            ("way", "padding", "meet again", "after next", "speakers in a batch"),
            ways,
        ),
        "Fixed shapes, 20,000 utterances, 9,600 frames, 75 utterances": (
            ("lengths", "padding", "meet again", "shapes of batches"),
            fixed_rows,
        ),
    }
    markdown = "\n\n".join(f"{title}\n\n{report.table(head, rows)}" for title, (head, rows) in tables.items())
    click.echo(markdown)
    data = {title: [dict(zip(head, row, strict=True)) for row in rows] for title, (head, rows) in tables.items()}
    report.save("plan", markdown, data)


if __name__ == "__main__":
    main()
