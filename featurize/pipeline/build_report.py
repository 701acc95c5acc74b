"""Finish a build: write the index and the list of rejects, then the report."""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from headrace.featurize.pipeline.part_worker import PartReport
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store import index, layout, rejects
from headrace.store.root_attributes import read_attributes
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import write_error


def write_derived(out: StoragePath) -> None:
    """Write what is derived from the seals of all parts, unless it is there: `index/` and `rejects.jsonl`.

    Raises:
        StoreError: it cannot be written.
    """
    if not (out / "index" / "zarr.json").exists():
        index.write(out, index.derive(out))
    try:
        rejects.write_derived(out)
    except OSError as error:
        raise write_error(error, str(out / rejects.FILE)) from error


def finish_store(out: StoragePath, account: dict[str, Any], spectral: SpectralRecipe) -> dict[str, Any]:
    """Write `build.json`.

    Args:
        account: further content of it.
    Returns:
        The content of `build.json`.
    """
    columns = index.read(out)
    attributes, stored = read_attributes(out), int(columns.bounds[-1])
    samples = int(columns.columns["frames"].sum(dtype=np.int64)) * spectral.hop
    account |= {
        "utterances": stored,
        "rejects": rejects.count(out, attributes, columns.parts.tolist(), stored),
        "reject_kinds": [asdict(kind) for kind in rejects.group(rejects.read(out)[0])],
        **{
            name: int(np.count_nonzero(index.recording_counts(out, columns.parts.tolist(), name)))
            for name in layout.RECORDING_COUNTS
        },
        "hours": samples / spectral.sample_rate / 3600,
    }
    write(out, "build.json", json.dumps(account, indent=2) + "\n")
    storage_of(out).clear_temporary(out)
    return account


def write(out: StoragePath, name: str, text: str) -> None:
    """Write or replace a file of the store.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        storage_of(out).write_atomic(out, name, text.encode())
    except OSError as error:
        raise write_error(error, str(out / name)) from error


def summarize(reports: Sequence[PartReport], seconds: float) -> dict[str, Any]:
    """Parts, hours, rate and seconds by stage of what was built in so many seconds, and with which versions."""
    stages: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        for stage, spent in report.seconds.items():
            stages[stage] += spent
    built = sum(report.audio_seconds for report in reports) / 3600
    return {
        "parts_built": len(reports),
        "hours_built": built,
        "seconds": seconds,
        "hours_per_second": built / seconds,
        "seconds_by_stage": dict(stages),
        "cpu_seconds": sum(report.cpu_seconds for report in reports),
        "versions": _versions(),
    }


_LIBRARIES = (
    "headrace", "torch", "zarr", "numpy", "numba", "soundfile", "soxr", "praat-parselmouth", "nvidia-dali-cuda130"
)  # fmt: skip


def _versions() -> dict[str, str]:
    """Of what has a say in the numbers, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
