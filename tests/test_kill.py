"""Builds that are killed, and what the next one makes of what they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from store.verify import verify
from tests.corpora import make_tree
from tests.test_build import part_bytes


def start(corpus: Path, out: Path, workers: int) -> subprocess.Popen[str]:
    script = "from cli.featurize import main; main()"
    words = ["build", str(corpus), "--out", str(out), "--workers", str(workers), "--part-hours", "0.002"]
    command = [sys.executable, "-c", f"if __name__ == '__main__':\n    {script}", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(corpus: Path, out: Path, workers: int) -> float:
    begun = time.monotonic()
    process = start(corpus, out, workers)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return time.monotonic() - begun


def kill_and_finish(tmp_path: Path, *, kills: int, workers: int, count: int) -> None:
    """Kill a build at random moments of its life, one after the other over the same store, then let it finish."""
    corpus = make_tree(tmp_path / "corpus", count, seconds=1.5)
    took = finish(corpus, tmp_path / "whole", workers)
    whole, random = part_bytes(tmp_path / "whole"), np.random.default_rng(workers)
    killed = 0
    for number in range(kills):
        out = tmp_path / f"killed{number}"
        for moment in random.uniform(0.1, 1.0, 1 + number % 2) * took:
            process = start(corpus, out, workers)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            killed += process.returncode == -signal.SIGKILL
        finish(corpus, out, workers)
        assert part_bytes(out) == whole and not list(verify(out))
    assert killed >= kills / 2, "most moments lie before the end of a build"


def test_a_killed_build_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, kills=2, workers=1, count=40)


@pytest.mark.soak
def test_twenty_killed_builds_with_dask_workers(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, kills=20, workers=2, count=120)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("when", ["starting", "at work"])
def test_ctrl_c_ends_in_one_line_and_the_next_build_finishes(tmp_path: Path, workers: int, when: str) -> None:
    corpus = make_tree(tmp_path / "corpus", 40, seconds=3.0)
    out = tmp_path / "STORE"
    process = start(corpus, out, workers)
    begun = "zarr.json" if when == "starting" else "parts/0*"
    while not list(out.glob(begun)) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to its workers
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    said = [line for line in stderr.splitlines() if not line.startswith(("device ", "workers ", "engine "))]
    assert len(said) <= 3 and said[-1].startswith("Error: Interrupted."), stderr
    finish(corpus, out, workers)
    assert not list(verify(out))
