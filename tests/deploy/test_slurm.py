"""The recipes for Slurm, on a Slurm of one node: submitted, told of the end, queued again, finished."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.store.integrity.verify import verify
from headrace.train.checkpoints.checkpoint import Checkpoints
from tests.deploy.one_node_slurm import Slurm, missing, one_node_slurm
from tests.helpers.commands import part_bytes
from tests.helpers.corpora import make_tree
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import build

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "deploy/slurm"
STEPS = 60
WAIT_S = 600


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="slurm") as folder, one_node_slurm(Path(folder)) as running:
        scripts = str(Path(sys.executable).parent)
        yield Slurm(running.folder, {**running.environment, "PATH": f"{scripts}:{os.environ['PATH']}"})


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPES.iterdir()))
def test_recipes_are_valid_shell(recipe: str) -> None:
    done = subprocess.run(["bash", "-n", RECIPES / recipe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.soak
def test_training_is_queued_again_and_ends_with_the_losses_of_an_undisturbed_run(slurm: Slurm, tmp_path: Path) -> None:
    build(tmp_path / "STORE")
    options = ("--stage", "gpt", "--preset", "tiny", "--device", "cpu", "--max-steps", STEPS, "--validate-every", 0)
    job, run = Job(slurm, tmp_path), tmp_path / "RUN"
    words = ("STORE", "--out", "RUN", *options, "--checkpoint-every", 10)
    job.submit("train.sbatch", *words, limits=("--nodes=1", "--gpus-per-node=1"))
    checkpoints = Checkpoints(run / "checkpoints")
    job.wait("its first checkpoint", lambda: bool(checkpoints.steps()))
    job.announce_end()
    job.wait("the end of its first start", lambda: job.restarts() == 1)
    saved = max(checkpoints.steps())
    assert 0 < saved < STEPS
    assert f"SIGTERM came: stopped after step {saved}, saved" in job.log()
    job.start_now()
    job.wait("its end", lambda: job.state() == "COMPLETED")
    assert "is queued again, and continues from the newest checkpoint" in job.log()
    assert f"continuing after step {saved}" in job.log()

    command = [sys.executable, "-m", "headrace.train", "run", "STORE", "--out", "ALONE", *map(str, options)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert_same_run(run, tmp_path / "ALONE", steps=STEPS)


@pytest.mark.soak
def test_a_build_is_queued_again_and_makes_the_store_of_an_undisturbed_one(slurm: Slurm, tmp_path: Path) -> None:
    make_tree(tmp_path / "corpus")
    job, store = Job(slurm, tmp_path), tmp_path / "STORE"
    words = ("corpus", "--out", "STORE", "--features", "wave,mel,mfcc,phones")
    job.submit("build.sbatch", *words, limits=("--nodes=1", "--ntasks-per-node=1", "--mem-per-cpu=0"))
    job.wait("its store", lambda: (store / "zarr.json").exists())
    job.announce_end()
    job.wait("the end of its first start", lambda: job.restarts() == 1)
    job.start_now()
    job.wait("its end", lambda: job.state() == "COMPLETED")
    assert "is queued again, and continues from the parts that are sealed" in job.log()

    command = [sys.executable, "-m", "headrace.featurize", "build", "corpus", "--out", "ALONE", *words[3:]]
    subprocess.run([*command, "--workers", "1"], cwd=tmp_path, check=True, capture_output=True)
    assert not list(verify(store))
    assert part_bytes(store) == part_bytes(tmp_path / "ALONE")


class Job:
    """A job of a recipe, which runs in a folder."""

    def __init__(self, slurm: Slurm, folder: Path) -> None:
        self._slurm, self._folder, self._number = slurm, folder, ""

    def submit(self, recipe: str, *words: object, limits: tuple[str, ...]) -> None:
        """Submit the recipe with arguments of its own.

        Args:
            limits: options of sbatch that replace those of the recipe.
        """
        options = ("--parsable", "--output=job.log", *limits)
        printed = self._slurm.call("sbatch", *options, RECIPES / recipe, *words, cwd=self._folder)
        self._number = printed.strip()

    def announce_end(self) -> None:
        """Send the signal that Slurm sends before the time limit, by the line `#SBATCH --signal=B:TERM@120`."""
        self._slurm.call("scancel", "--signal=TERM", "--batch", self._number)

    def start_now(self) -> None:
        """Start a job that is queued again without the two minutes that Slurm waits first.

        A node kills a job that is started in the second in which it ended.
        """
        self.wait("the queue", lambda: self.state() == "PENDING" and self._slurm.is_idle())
        time.sleep(2)
        self._slurm.call("scontrol", "update", f"JobId={self._number}", "StartTime=now")

    def state(self) -> str:
        return self._slurm.job(self._number)["JobState"]

    def restarts(self) -> int:
        return int(self._slurm.job(self._number)["Restarts"])

    def log(self) -> str:
        path = self._folder / "job.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until something has happened to the job."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.state() not in ("FAILED", "CANCELLED", "TIMEOUT"), (what, self.log(), self._slurm.logs())
            assert time.monotonic() < deadline, (what, self.state(), self.log(), self._slurm.logs())
            time.sleep(0.2)
