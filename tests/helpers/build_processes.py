"""Builds in processes of their own, for tests that kill or measure them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

SMALL_PARTS = ("--part-hours", "0.002")


def start_build(corpus: Path, out: Path, *words: object) -> subprocess.Popen[str]:
    """Start `featurize build` with small parts and return its process."""
    command = [sys.executable, "-m", "headrace.featurize", "build", str(corpus), "--out", str(out)]
    command += [*SMALL_PARTS, *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def worker_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the worker processes of a build that exist by now."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    return [child for child in descendants if any("spawn_main" in word for word in _command_line(child))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
