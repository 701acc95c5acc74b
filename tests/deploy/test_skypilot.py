"""The recipe for SkyPilot: its commands, on machines that lose their disks, and its schema."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import yaml

from headrace.train.checkpoints.checkpoint import Checkpoints
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import build

RECIPE = Path(__file__).parents[2] / "deploy/skypilot/train.yaml"
SKYPILOT = "skypilot==0.14.1"
STEPS = 60
WAIT_S = 600


def machine(home: Path, bucket: Path, options: str) -> subprocess.Popen[str]:
    """Start what the recipe runs, on a machine with this home."""
    task = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    scripts = str(Path(sys.executable).parent)
    environment = {"HOME": str(home), "PATH": f"{scripts}:{os.environ['PATH']}", "SKYPILOT_NUM_GPUS_PER_NODE": "1"}
    return subprocess.Popen(
        ["bash", "-c", task["run"]],
        env={**os.environ, **task["envs"], **environment, "CHECKPOINTS": str(bucket), "OPTIONS": options},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.soak
def test_a_machine_continues_what_one_has_left_that_lost_its_disk(tmp_path: Path) -> None:
    bucket, first, second = tmp_path / "bucket", tmp_path / "first", tmp_path / "second"
    for home in (first, second):
        build(home / "STORE")
    # A run keeps the place of its store for life: both machines have the same home.
    home = first.rename(tmp_path / "home")
    options = f"--stage gpt --preset tiny --device cpu --max-steps {STEPS} --validate-every 0"
    taken = machine(home, bucket, f"{options} --checkpoint-every 10")
    deadline = time.monotonic() + WAIT_S
    while not (bucket.exists() and any(bucket.rglob("step-*.pt"))):
        assert taken.poll() is None and time.monotonic() < deadline, taken.communicate()
        time.sleep(0.1)
    os.killpg(taken.pid, signal.SIGTERM)
    said, _ = taken.communicate()
    assert "SIGTERM came: stopped after step" in said
    shutil.rmtree(home)
    second.rename(home)

    continued = machine(home, bucket, f"{options} --checkpoint-every 10")
    said, _ = continued.communicate()
    assert continued.returncode == 0, said
    assert "continuing after step" in said
    assert Checkpoints(home / "RUN/checkpoints").steps()[-1] == STEPS

    undisturbed = ["train", "run", home / "STORE", "--out", tmp_path / "ALONE", *options.split()]
    subprocess.run([sys.executable, "-m", f"headrace.{undisturbed[0]}", *undisturbed[1:]], check=True)
    assert_same_run(home / "RUN", tmp_path / "ALONE", steps=STEPS)


VALIDATE = """
import sys, sky
task = sky.Task.from_yaml(sys.argv[1])
print("valid:", task.name, task.num_nodes, sorted(r.use_spot for r in task.resources))
"""


@pytest.mark.soak
def test_skypilot_reads_it(tmp_path: Path) -> None:
    """SkyPilot needs an older click than Headrace, and so an environment of its own."""
    venv.create(tmp_path / "sky", with_pip=True)
    python = tmp_path / "sky/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", SKYPILOT], check=True)
    secrets = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    environment = {**os.environ, **secrets, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    for name in ("train.yaml", "damaged.yaml"):
        text = RECIPE.read_text(encoding="utf-8")
        (tmp_path / name).write_text(text if name == "train.yaml" else text.replace("use_spot", "use_spots"))
        command = [python, "-c", VALIDATE, tmp_path / name]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        if name == "train.yaml":
            assert "valid: headrace-train 1 [True, True, True]" in done.stdout, done.stderr
        else:
            assert done.returncode and "use_spots" in done.stderr
