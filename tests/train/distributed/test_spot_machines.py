"""A machine that is lost with its disk, under torchrun: the run goes on from its copies in a bucket."""

from __future__ import annotations

import re
import shutil
import urllib.request
from pathlib import Path

import pytest

from benchmarks.elastic import Job
from headrace.train.config import RunConfig
from headrace.train.trainer import loop
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import Silent, build

STEPS = 60
OPTIONS = {"preset": "tiny", "batch_frames": 300, "validate_every": 0, "checkpoint_every": 2, "max_steps": STEPS}


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_machine_is_lost_with_its_disk_after_the_bucket_was_away(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the bucket does not answer, training goes on; afterwards the copies are made up for. The same command on an
    empty disk ends with the numbers of a run that nothing disturbed."""
    pytest.importorskip("moto", reason="moto is not installed: nothing serves S3")
    from tests.helpers.s3_server import BUCKET, Proxy, environment, server

    store, place = build(tmp_path / "store").path, f"s3://{BUCKET}/place"
    config = RunConfig.from_options(store=store, out=tmp_path / "undisturbed", device="cpu", **OPTIONS)
    loop.start(config, Silent())
    words = [w for name, value in OPTIONS.items() for w in (f"--{name.replace('_', '-')}", str(value))]
    with server() as port:
        proxy = Proxy(port)
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)

        def copied() -> int:
            """Return the newest step of which the bucket has a whole copy, past the proxy."""
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/{BUCKET}?list-type=2&prefix=place/checkpoints"
            ) as listed:
                return max(map(int, re.findall(r"step-0*([0-9]+)\.pt\.sha256", listed.read().decode())), default=0)

        with Job(Path(str(store)), tmp_path / "job", [*words, "--checkpoint-to", place]) as job:
            machine = job.join()
            job.watch(lambda: job.step >= 8 and copied() >= 4)
            proxy.fault = lambda method, path, number: fault
            away_from = job.step
            job.watch(lambda: job.step >= away_from + 12)
            proxy.fault = lambda method, path, number: ""
            job.watch(lambda: copied() > away_from + 4, limit=120)
            machine.end()
            lost_at = job.step
            assert lost_at < STEPS, "the machine was lost too late"
            shutil.rmtree(job.out)
            again = job.join()
            job.watch(lambda: not again.running, limit=300)
            assert again.process.returncode == 0, again.text[-3000:]
            assert f"restored from {place}: the checkpoint of step " in again.text
        assert_same_run(job.out, config.out, steps=STEPS)
        assert copied() == STEPS
        print(f"bucket away from step {away_from}, lost at {lost_at}")
