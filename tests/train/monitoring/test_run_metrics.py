"""Metrics of a run: what lines of metrics.jsonl become, and what is read from the phases of the process."""

from __future__ import annotations

import os
import time
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from headrace.train.config import RunConfig
from headrace.train.distributed.phases import COMPUTING, PHASES, READING, STEP_BOUNDS, Phases
from headrace.train.monitoring.observer import CompositeObserver
from headrace.train.monitoring.run_metrics import RunMetrics
from headrace.train.trainer import loop
from tests.helpers.metrics.scrapes import page_of, value, values
from tests.helpers.training_store import Silent, build

STEP: dict[str, Any] = {
    "split": "train", "step": 11, "epoch": 2, "loss_mel": 20.5, "loss_kl": 1.5, "grad_norm_g": 5.0, "grad_norm_d": 2.0,
    "skipped": 0.0, "exploded": 0.0, "lr": 1e-4, "loss_scale": 1024.0, "precision": "fp16", "step_s": 0.5,
    "wait_s": 0.1, "plan_s": 0.01, "read_s": 0.2, "copy_s": 0.03, "frames": 900, "utterances": 3, "padding": 0.25,
    "quarantined": 2,
}  # fmt: skip


@pytest.fixture
def metrics(tmp_path: Path) -> RunMetrics:
    return RunMetrics(tmp_path / "run", {"out": "run"}, rank=0)


def test_lines_become_sums_and_gauges(metrics: RunMetrics) -> None:
    metrics.started(10, 20, ["loss_mel"])
    metrics.recorded(STEP)
    metrics.recorded({**STEP, "step": 12, "skipped": 1.0, "exploded": 1.0, "frames": 100, "step_s": 1.5})
    text = page_of([metrics])
    expected = {
        "frames_total": 1000, "utterances_total": 6, "updates_left_out_total": 1, "updates_scaled_down_total": 1,
        "epoch": 2, "learning_rate": 1e-4, "loss_scale": 1024, "padding_ratio": 0.25, "quarantined_utterances": 2,
        "planned_steps": 20, "remaining_seconds": 8,
    }  # fmt: skip
    assert {name: value(text, f"headrace_train_{name}") for name in expected} == pytest.approx(expected)
    stages = {dict(k)["stage"]: v for k, v in values(text, "headrace_train_stream_seconds_total").items()}
    assert stages == pytest.approx({"planned": 0.02, "read": 0.4, "copied": 0.06, "waited": 0.2})


def test_losses_of_steps_and_validations_are_apart(metrics: RunMetrics) -> None:
    metrics.recorded(STEP)
    metrics.recorded({"split": "validation", "step": 11, "loss_mel": 21.0, "mos": 3.1, "seconds": 2.0})
    text = page_of([metrics])
    assert values(text, "headrace_train_loss") == {
        (("loss", "mel"), ("split", "train")): 20.5,
        (("loss", "kl"), ("split", "train")): 1.5,
        (("loss", "mel"), ("split", "validation")): 21.0,
    }
    assert values(text, "headrace_train_gradient_norm") == {(("network", "g"),): 5.0, (("network", "d"),): 2.0}
    assert value(text, "headrace_train_opinion_score") == 3.1


def test_gpt_has_one_loss_one_norm_and_an_accuracy(metrics: RunMetrics) -> None:
    metrics.recorded({**STEP, "loss": 3.0, "accuracy": 0.5, "grad_norm": 7.0})
    text = page_of([metrics])
    assert value(text, "headrace_train_loss", loss="loss") == 3.0
    assert value(text, "headrace_train_gradient_norm", network="gpt") == 7.0
    assert value(text, "headrace_train_accuracy_ratio", split="train") == 0.5


def test_a_loss_that_is_not_a_number_stays_one_that_is_not(metrics: RunMetrics) -> None:
    metrics.recorded({**STEP, "loss_mel": float("nan")})
    assert isnan(value(page_of([metrics]), "headrace_train_loss", loss="mel") or 0)


def test_before_the_first_step_there_is_a_page(metrics: RunMetrics) -> None:
    text = page_of([metrics])
    assert value(text, "headrace_train_frames_total") == 0
    assert value(text, "headrace_train_epoch") is None and value(text, "headrace_train_remaining_seconds") is None


def test_other_ranks_have_only_what_is_theirs(tmp_path: Path) -> None:
    text = page_of([RunMetrics(tmp_path, {"out": "run"}, rank=3)])
    assert 'rank="3"' in text and "frames_total" not in text and "checkpoint" not in text


def test_the_newest_checkpoint_is_the_one_on_disk(metrics: RunMetrics, tmp_path: Path) -> None:
    started = value(page_of([metrics]), "headrace_train_checkpoint_timestamp_seconds")
    assert started == pytest.approx(time.time(), abs=60)
    assert value(page_of([metrics]), "headrace_train_checkpoint_step") == 0
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for step, at in ((5, 1000), (10, 2000)):
        (folder / f"step-{step:08d}.pt").touch()
        os.utime(folder / f"step-{step:08d}.pt", (at, at))
    (folder / "step-00000099.pt.draft").touch()
    text = page_of([metrics])
    assert value(text, "headrace_train_checkpoint_step") == 10
    assert value(text, "headrace_train_checkpoint_timestamp_seconds") == 2000


def test_the_page_follows_the_phases_of_the_process(metrics: RunMetrics) -> None:
    before = page_of([metrics])

    def grown(name: str, **labels: str) -> float:
        after = value(page_of([metrics]), f"headrace_train_{name}", **labels) or 0
        return after - (value(before, f"headrace_train_{name}", **labels) or 0)

    with PHASES.enter(READING):
        time.sleep(0.05)
        assert grown("wait_seconds_total") >= 0.05, "a phase that lasts counts too"
    PHASES.finish_step(7, 0.3)
    assert value(page_of([metrics]), "headrace_train_step") == 7
    assert grown("progress_total") == 3
    assert grown("step_seconds_count") == 1 and grown("step_seconds_sum") == pytest.approx(0.3)
    assert grown("step_seconds_bucket", le="0.25") == 0 and grown("step_seconds_bucket", le="0.5") == 1
    assert grown("phase_seconds_total", phase=READING) == pytest.approx(grown("wait_seconds_total"))


@pytest.mark.slow
def test_a_resumed_run_counts_anew_and_goes_on_with_its_steps(tmp_path: Path) -> None:
    store, out = build(tmp_path / "store", frames=range(30, 42)).path, tmp_path / "run"
    config = RunConfig.from_options(store=store, out=out, preset="tiny", batch_frames=100, max_steps=2)
    frames = []
    for steps in (2, 3):
        metrics, watched = RunMetrics(out, {"out": "run"}, rank=0), Silent()
        both = CompositeObserver(metrics, watched)
        if steps == 2:
            loop.start(config, both)
        else:
            loop.resume(out, {"max_steps": 3}, both)
        text = page_of([metrics])
        assert value(text, "headrace_train_step") == value(text, "headrace_train_checkpoint_step") == steps
        assert value(text, "headrace_train_planned_steps") == steps
        trained = [record["frames"] for record in watched.records if record["split"] == "train"]
        frames.append(value(text, "headrace_train_frames_total"))
        assert frames[-1] == sum(trained) and len(trained) == (2 if steps == 2 else 1)
    assert frames[1] < frames[0]


class TestPhases:
    def test_seconds_count_for_the_innermost_phase(self) -> None:
        phases = Phases()
        with phases.enter(COMPUTING):
            with phases.enter(READING):
                time.sleep(0.05)
            time.sleep(0.02)
        seconds = phases.seconds()
        assert seconds[READING] >= 0.05 and 0.02 <= seconds[COMPUTING] < seconds[READING]

    def test_seconds_never_fall(self) -> None:
        phases, last = Phases(), dict[str, float]()
        for _ in range(50):
            for phase in (READING, COMPUTING):
                phases.move(phase)
                now = phases.seconds()
                assert all(now[name] >= spent for name, spent in last.items())
                last = now

    @pytest.mark.parametrize("seconds, bound", [(0.005, 0.01), (0.01, 0.01), (0.011, 0.025), (300.0, 300.0)])
    def test_steps_are_counted_up_to_their_bound(self, seconds: float, bound: float) -> None:
        phases = Phases()
        phases.finish_step(1, seconds)
        assert phases.step_counts[STEP_BOUNDS.index(bound)] == 1 == sum(phases.step_counts)

    def test_longer_steps_are_beyond_all_bounds(self) -> None:
        phases = Phases()
        phases.finish_step(1, 301)
        assert phases.step_counts[-1] == 1
