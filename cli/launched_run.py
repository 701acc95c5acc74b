"""A run that several processes of this machine train: each is a `train run` of its own, and this one their launcher."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.cli import output
from headrace.store.errors import UsageError
from headrace.store.storage import StoragePath
from headrace.store.storage.temporary import temporary_folder


def run_on_gpus(
    gpus: int, store: StoragePath, out: Path, options: Mapping[str, Any], metrics: Mapping[str, Any], *, quiet: bool
) -> dict[str, Any]:
    """Train a run in one process for each GPU, or continue it, and return its summary.

    Args:
        gpus: how many; 0 for all of this machine.
        options: of the run, by name. The processes read them from a file.
        metrics: those that say where its metrics can be read.
        quiet: show no progress.
    Raises:
        UsageError: there are not so many, or a launcher started this process already.
        SystemExit: it failed or was stopped. One of the processes has said why.
    """
    from headrace.train.config import RunConfig, write_options
    from headrace.train.launcher import launch

    RunConfig.from_options(store=store, out=out, **options)  # what is wrong with them is said once, and at once
    processes = _count(gpus, options.get("device", "auto"))
    with temporary_folder() as folder:
        summary, config = folder / "summary.json", folder / "config.toml"
        write_options(options, config)
        command = [sys.executable, "-P", "-m", "headrace.train", "run", "--out", str(out), "--summary", str(summary)]
        command += ["--config", str(config), *_words(metrics), *(["--json"] if quiet else []), "--", str(store)]
        code = launch(command, processes, lambda: _checkpoints(out), output.log)
        if code:
            sys.exit(code)
        return dict(json.loads(summary.read_bytes()))


def _count(gpus: int, device: str) -> int:
    """Return the number of processes to start. Raises UsageError if there are not so many GPUs."""
    if "RANK" in os.environ:
        raise UsageError("--gpus starts processes itself: leave it out under torchrun, and give torchrun their number.")
    if device == "cpu":
        if not gpus:
            raise UsageError("--gpus all counts GPUs: with --device cpu give a number of processes.")
        return gpus
    import torch

    there = torch.cuda.device_count()
    if not there or gpus > there:
        raise UsageError(
            f"--gpus {gpus or 'all'}: torch sees {there} GPUs here. To train on the CPU, give --device cpu too, and a "
            "number of processes."
        )
    return gpus or there


def _words(options: Mapping[str, Any]) -> list[str]:
    """Return options that take a value as words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _checkpoints(out: Path) -> list[str]:
    folder = out / "checkpoints"
    return sorted(os.listdir(folder)) if folder.is_dir() else []
