"""Training on a device: steps of both sides, batches that are brought to it, and memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import forecast
from benchmarks.engines import wait_for
from benchmarks.gpu import Bench, Table
from benchmarks.gpu.speech import write_corpus
from benchmarks.step import Process, peak, said, started, step
from benchmarks.step_sides import Case
from headrace import store as stores
from headrace.train.data.stream import Stream, StreamConfig

FEATURES = ("wave", "mel", "phones")
ROUNDS = 20


def training_steps(bench: Bench, *, stage: str, precision: str) -> Iterator[Table]:
    """Measure steps of upstream where it is given, and ours: kernel by kernel, captured in graphs, and compiled."""
    if bench.device == "cpu" and precision == "fp16":
        yield Table(title="fp16 needs CUDA", head=("side",), rows=[])
        return
    kinds: dict[str, dict[str, Any]] = {"ours": {}}
    if bench.device == "cuda":
        kinds["ours, graphs"] = {"graphs": True}
    kinds["ours, compiled"] = {"compiled": True}
    if bench.device == "cuda":
        kinds["ours, compiled, graphs"] = {"compiled": True, "graphs": True}
    if bench.upstream:
        kinds = {"upstream": {"upstream": bench.upstream, "site": bench.site}} | kinds
    yield from _compared(bench, _case(bench, stage, precision), kinds)


def sharding(bench: Bench) -> Iterator[Table]:
    """Measure steps of a process that shares its model with nobody: what gathering and cutting parameters costs."""
    for stage in ("sovits", "gpt"):
        case = _case(bench, stage, "bf16")
        yield from _compared(bench, case, {"ours": {}, "ours, fsdp of one process": {"shared": True}})


def _case(bench: Bench, stage: str, precision: str) -> dict[str, Any]:
    """Return what is trained on what, as of `Case`."""
    sizes: dict[str, Any] = {"utterances": 2, "phones": 12, "frames": 40, "preset": "tiny", "layers": 1}
    if not bench.small:
        sizes = {"utterances": 16, "phones": 60, "frames": 200}
    weights = bench.folder / "weights.pt"
    return {"stage": stage, "precision": precision, "device": bench.device, "weights": weights, **sizes}


def _compared(bench: Bench, case: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> Iterator[Table]:
    """Yield figures of steps, again and again with one kind more.

    Args:
        kinds: name, which begins with the side, to what differs. All are compared with the first one.
    """
    if next(iter(kinds)) == "upstream":  # whose weights ours writes
        with started("ours", Case(**case)):
            pass
    audio = case["utterances"] * case["frames"] / 50 * (4 if case["stage"] == "gpt" else 1)
    rows: list[tuple[Any, ...]] = []
    for name, more in kinds.items():
        with started(name.split(",")[0], Case(**case | more)) as process:
            figures = _measured(process, 2 if bench.small else ROUNDS)
        rows.append((name, *figures, figures[0] / (rows[0][1] if rows else figures[0])))
        head = ("side", "s per step", "range", "steps/s", "device busy", "peak GB", "to the first row")
        yield Table(title=f"An update of {case['stage']} of {audio:.0f} s of audio; medians", head=head, rows=rows)
        projected = [(row[0], audio / row[1], 16 * 3600 / audio * row[1] / 60) for row in rows]
        head = ("side", "s of audio per s", "an epoch of 16 hours, minutes")
        yield Table(title=f"{case['stage']}, projected", head=head, rows=projected)


def _measured(process: Process, rounds: int) -> tuple[Any, ...]:
    """Return the median time of a step, its range, steps per second, the device's busy share and peak memory in GB."""
    walls = [step(process)["wall_s"] for _ in range(rounds)]
    assert process.stdin is not None
    process.stdin.write("profile\n")
    process.stdin.flush()
    busy, median = said(process)["busy"], statistics.median(walls)
    return median, f"{min(walls):.3g} to {max(walls):.3g}", 1 / median, busy, peak(process)


def store_to_device(bench: Bench) -> list[Table]:
    """Bring batches of a store to the device, and beside it bytes that lie in pinned memory."""
    path = made_store(bench)
    opened = stores.open(path)
    config = StreamConfig(batch_frames=400 if bench.small else 20_000)
    with Stream(opened, FEATURES, np.arange(len(opened)), config, pin=bench.device == "cuda") as stream:
        brought = _bytes_per_s(stream, bench.device, 0.2 if bench.small else 20)
    copied = _copies_per_s(bench.device, 1 << (20 if bench.small else 28))
    rows = [(f"{', '.join(FEATURES)}, batch by batch", brought / 1e9, brought / copied), ("copies", copied / 1e9, 1.0)]
    return [Table(title="From the page cache to the device", head=("what", "GB/s", "to copies"), rows=rows)]


def made_store(bench: Bench) -> Path:
    """Return a store of some speech, which is built once."""
    path = bench.folder / "STORE"
    if not path.exists():
        corpus = write_corpus(bench.folder / "spoken", 12 if bench.small else 1200)
        features = ",".join((*FEATURES, "mfcc", "content", "semantic"))
        choices = ["--features", features, "--codes", "64" if bench.small else "1024", "--device", "cpu"]
        command = [sys.executable, "-m", "headrace.featurize", "build", str(corpus), "--out", str(path), *choices]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def _bytes_per_s(stream: Iterator[Any], device: str, seconds: float) -> float:
    """Return how fast batches come to the device, the one before being computed with: read once."""
    size, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        batch = next(stream).to(device)
        size += sum(tensor.nbytes for tensor in batch.tensors.values())
    wait_for(device)
    return size / (time.perf_counter() - start)


def _copies_per_s(device: str, size: int) -> float:
    """Return the rate of plain copies to the device."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device == "cuda")
    target = torch.empty(size, dtype=torch.uint8, device=device)
    start = time.perf_counter()
    for _ in range(10):
        target.copy_(source, non_blocking=True)
    wait_for(device)
    return 10 * size / (time.perf_counter() - start)


def memory(bench: Bench) -> Iterator[Table]:
    """Compare the memory that `train plan` tells of each stage with what its steps took."""
    store, rows = made_store(bench), []
    sizes: dict[str, Any] = {"preset": "tiny", "batch_frames": 200} if bench.small else {"preset": "v2"}
    for stage in ("sovits", "gpt"):
        found = forecast.measured(bench.device, store=str(store), stage=stage, **sizes)
        rows.append(forecast.row(f"{stage} {sizes['preset']}", found))
        yield Table(title="`train plan`, and what was allocated at most", head=forecast.HEAD, rows=rows)
