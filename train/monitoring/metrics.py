"""Metrics of a run: a JSON line for each step and validation, their summary, and curves of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean, median
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from headrace.store.errors import RunError
from headrace.store.storage import read_file
from headrace.store.storage.local import atomic_file
from headrace.store.storage.output_files import output_file

Record = dict[str, Any]
"""One line. `split` is `train` or `validation`."""

_NUMBERS = ("step", "epoch", "step_s", "wait_s", "frames", "padding", "utterances", "skipped")
"""Fields that summaries and curves compute with."""
_NOT_DRAWN = ("loss_gen_all", "loss_scale")
WINDOW = 20
"""Number of steps that the first and the last loss of a summary are averaged over."""


class MetricsLog:
    """Appends lines to metrics.jsonl of a run. Lines after the last step of a resumed run are dropped.

    The file of a run that was killed and resumed is therefore the same as if it had not stopped.
    """

    def __init__(self, path: Path, *, last_step: int) -> None:
        """
        Args:
            last_step: the step of the checkpoint that the run continues from; 0 for a new run.
        """
        records, self.damage = read_lines(path)
        """A message for each line that was damaged, and is dropped."""
        with atomic_file(path) as file:
            file.writelines(json.dumps(r).encode() + b"\n" for r in records if last_step and r["step"] <= last_step)
        self._file = path.open("a", buffering=1)

    def write(self, record: Record) -> None:
        """Append a line. Numbers that are not finite become null, since JSON has none."""
        strict = {key: None if isinstance(v, float) and not isfinite(v) else v for key, v in record.items()}
        self._file.write(json.dumps(strict, allow_nan=False) + "\n")

    def sync(self) -> None:
        """Flush what was written to disk, for a checkpoint never to know more steps than this file."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """Read the lines of a metrics file that are whole; none if it does not exist."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[Record], list[str]]:
    """Read the whole lines of a metrics file, and name the damaged ones. An incomplete last line is ignored.

    Returns:
        The lines, and a message for each damaged one.
    Raises:
        RunError: it cannot be read, or is a folder, a pipe or a device.
    """
    if not path.exists():
        return [], []
    try:
        *lines, _ = read_file(path).split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): move it away, and run the command again.") from error
    records = [_parse(line) for line in lines]
    damage = [
        f"line {number} of {path} is damaged: it is left out"
        for number, record in enumerate(records, 1)
        if record is None
    ]
    return [record for record in records if record is not None], damage


def _parse(line: bytes) -> Record | None:
    """Return a line of a metrics file; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("split") not in ("train", "validation"):
        return None
    if type(record.get("step")) is not int or not all(_is_number(record.get(name, 0)) for name in _NUMBERS):
        return None
    return record


class DelayedValues:
    """Values of 0-d tensors of one device, which are copied to the host while the device computes what comes next."""

    def __init__(self, terms: Mapping[str, Tensor]) -> None:
        """Begin to copy. Does not synchronise with the device."""
        self._names = list(terms)
        self._values = torch.stack([term.float() for term in terms.values()])
        self._copied: torch.cuda.Event | None = None
        if self._values.device.type == "cuda":
            on_host = torch.empty(self._values.shape, pin_memory=True)
            self._values = on_host.copy_(self._values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> dict[str, float]:
        """Return the values. Waits for what was submitted to the device before them, and not for what came after."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))


def to_floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """Return 0-d tensors of one device as numbers. Synchronises with the device once."""
    return DelayedValues(terms).read()


def summarise(records: Iterable[Record], tracked: Sequence[str]) -> dict[str, Any]:
    """Summarise the lines of a run.

    Args:
        tracked: names of the metrics to summarise.
    Returns:
        steps, epochs; for each tracked metric NAME_first and NAME_last (means of 20 finite values, or of
        half of them where there are fewer than 40) and NAME_validation
        (the last one), None where there is none; skipped (updates without finite gradients), step_s
        (median), wait_share (of the time of all steps), utterances_per_s, frames_per_s, padding.
    """
    steps, validations = _split(records)
    if not steps:  # of a run that was resumed at its end, with no line left
        steps = [dict.fromkeys(_NUMBERS, 0)]
    seconds = sum(record["step_s"] for record in steps) or 1.0
    frames = sum(record["frames"] for record in steps)
    padded = sum(record["frames"] / (1 - record["padding"]) for record in steps) or 1.0
    terms: dict[str, float | None] = {}
    for name in tracked:
        values = [record[name] for record in steps if _is_number(record.get(name))]
        window = min(WINDOW, max(1, len(values) // 2))
        terms[f"{name}_first"] = fmean(values[:window]) if values else None
        terms[f"{name}_last"] = fmean(values[-window:]) if values else None
        terms[f"{name}_validation"] = validations[-1].get(name) if validations else None
    return {
        "steps": sum(record["step"] > 0 for record in steps),
        "epochs": steps[-1]["epoch"],
        **terms,
        "skipped": sum(bool(record["skipped"]) for record in steps),
        "step_s": median(record["step_s"] for record in steps),
        "wait_share": sum(record["wait_s"] for record in steps) / seconds,
        "utterances_per_s": sum(record["utterances"] for record in steps) / seconds,
        "frames_per_s": frames / seconds,
        "padding": 1 - frames / padded,
    }


def draw_curves(records: Iterable[Record], tracked: Sequence[str], path: Path) -> None:
    """Draw the tracked metrics over steps, the other losses, and the time of steps, as a PNG."""
    from matplotlib.figure import Figure  # takes a second to import

    steps, validations = _split(records)
    if not steps:
        return
    at, validation_at = [record["step"] for record in steps], [record["step"] for record in validations]
    losses = {name for name in steps[0] if name.startswith("loss_")} - {*tracked, *_NOT_DRAWN}
    others = sorted(name for name in losses if any(record.get(name) for record in steps))
    figure = Figure(figsize=(11, 2.7 * (len(tracked) + 1 + bool(others))), layout="constrained")
    *panels, seconds = figure.subplots(len(tracked) + 1 + bool(others), 1, sharex=True)

    for name, axes in zip(tracked, panels, strict=False):
        axes.plot(at, _drawable(steps, name), linewidth=0.8, label=name)
        axes.plot(validation_at, _drawable(validations, name), "o-", label="validation")
        axes.set_ylabel(name)
    for name in others:
        panels[-1].plot(at, _drawable(steps, name), linewidth=0.8, label=name)
        panels[-1].set(yscale="log", ylabel="loss")
    wait = [record["wait_s"] for record in steps]
    compute = [record["step_s"] - record["wait_s"] for record in steps]
    seconds.stackplot(at, wait, compute, labels=["waiting for data", "computing"])
    seconds.set(xlabel="step", ylabel="s per step")
    for axes in (*panels, seconds):
        axes.legend(loc="upper right", fontsize="small")
    with output_file(path) as draft:
        figure.savefig(draft, dpi=110)


def _drawable(records: Sequence[Record], name: str) -> list[float]:
    """Return the values of a metric; those that are not finite leave a gap."""
    return [record[name] if _is_number(record.get(name)) else nan for record in records]


def _split(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """Return the lines of steps, without those that lack a number, and the lines of validations."""
    records = list(records)
    steps = [r for r in records if r["split"] == "train" and r.keys() >= set(_NUMBERS) and r["padding"] < 1]
    return steps, [record for record in records if record["split"] == "validation"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300
