"""Profiles of steps: a trace for chrome://tracing or ui.perfetto.dev, and a table of the slowest operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from headrace.store.storage.output_files import output_file

SKIPPED = 3
"""Number of first steps that are not profiled: they allocate memory and try algorithms."""
ROWS = 25


@contextmanager
def profile_steps(out: Path, steps: int, log: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Profile some steps and write trace.json and profile.txt; 0 profiles none.

    Args:
        out: folder of the run.
    Yields:
        A function to call after each step.
    """
    if not steps:
        yield lambda: None
        return
    cuda = torch.cuda.is_available()

    def write(profiler: profile) -> None:
        order = "self_device_time_total" if cuda else "self_cpu_time_total"
        with output_file(out / "profile.txt") as table:
            table.write_text(profiler.key_averages().table(sort_by=order, row_limit=ROWS))
        with output_file(out / "trace.json") as trace:
            profiler.export_chrome_trace(str(trace))
        log(f"profile of {steps} steps: {out / 'profile.txt'}, {out / 'trace.json'}")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    plan = schedule(wait=SKIPPED - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
