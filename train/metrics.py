"""The record of a run: one JSON line a step, a picture of them, and what they add up to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

Record = dict[str, Any]
"""One line. `split` is `train` or `validation`."""

WINDOW = 20
"""Steps that the first and the last loss of a summary are averaged over."""


class MetricsLog:
    """metrics.jsonl of a run: the lines up to a step stay, those after it go, new ones are appended.

    So the file of a run that was killed and resumed reads as if nothing had happened.
    """

    def __init__(self, path: Path, *, upto: int) -> None:
        """
        Args:
            upto: the step of the checkpoint that the run goes on from; 0 for a new run.
        """
        kept = [record for record in read(path) if record["step"] <= upto]
        draft = path.with_suffix(".tmp")
        draft.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(draft, path)
        self._file = path.open("a", buffering=1)

    def write(self, record: Record) -> None:
        """Append a line. JSON has no word for what is not finite: null."""
        strict = {key: None if isinstance(v, float) and not isfinite(v) else v for key, v in record.items()}
        self._file.write(json.dumps(strict, allow_nan=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def read(path: Path) -> list[Record]:
    """The lines of a metrics file; none if it is not there. What a killed run left of a last line is not one."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def to_floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    """0-d tensors of one device as numbers: the device is waited for once."""
    return dict(zip(terms, torch.stack([term.float() for term in terms.values()]).tolist(), strict=True))


def summarise(records: Iterable[Record]) -> dict[str, Any]:
    """What a run's lines add up to.

    Returns:
        steps, epochs, loss_mel_first and loss_mel_last (means of 20 finite ones), loss_mel_validation (the last one;
        each None where there is none), step_s (median), wait_share (of the time of all steps), utterances_per_s,
        frames_per_s, padding.
    """
    records = list(records)
    steps = [record for record in records if record["split"] == "train"]
    validations = [record["loss_mel"] for record in records if record["split"] == "validation"]
    losses = [record["loss_mel"] for record in steps if record["loss_mel"] is not None]
    seconds = sum(record["step_s"] for record in steps)
    frames = sum(record["frames"] for record in steps)
    padded = sum(record["frames"] / (1 - record["padding"]) for record in steps)
    return {
        "steps": len(steps),
        "epochs": steps[-1]["epoch"],
        "loss_mel_first": fmean(losses[:WINDOW]) if losses else None,
        "loss_mel_last": fmean(losses[-WINDOW:]) if losses else None,
        "loss_mel_validation": validations[-1] if validations else None,
        "step_s": median(record["step_s"] for record in steps),
        "wait_share": sum(record["wait_s"] for record in steps) / seconds,
        "utterances_per_s": sum(record["utterances"] for record in steps) / seconds,
        "frames_per_s": frames / seconds,
        "padding": 1 - frames / padded,
    }


def draw_curves(records: Iterable[Record], path: Path) -> None:
    """Losses over steps, and where the time of a step went, as a PNG."""
    from matplotlib.figure import Figure  # a second to import, needed once

    records = list(records)
    steps = [record for record in records if record["split"] == "train"]
    held = [record for record in records if record["split"] == "validation"]
    at = [record["step"] for record in steps]
    figure = Figure(figsize=(11, 8), layout="constrained")
    mel, others, seconds = figure.subplots(3, 1, sharex=True)

    mel.plot(at, [record["loss_mel"] for record in steps], linewidth=0.8, label="loss_mel")
    mel.plot([record["step"] for record in held], [record["loss_mel"] for record in held], "o-", label="validation")
    for name in sorted(name for name in steps[0] if name.startswith("loss_") and name not in _DRAWN_APART):
        others.plot(at, [record[name] for record in steps], linewidth=0.8, label=name)
    others.set_yscale("log")
    wait = [record["wait_s"] for record in steps]
    compute = [record["step_s"] - record["wait_s"] for record in steps]
    seconds.stackplot(at, wait, compute, labels=["waiting for data", "computing"])

    for axes, unit in ((mel, "loss"), (others, "loss"), (seconds, "s per step")):
        axes.set_ylabel(unit)
        axes.legend(loc="upper right", fontsize="small")
    seconds.set_xlabel("step")
    figure.savefig(path, dpi=110)


_DRAWN_APART = ("loss_mel", "loss_gen_all", "loss_scale")
