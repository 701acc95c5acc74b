"""A run from start to end, what it writes, and what it refuses."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.featurize.pipeline.presets import PRESETS
from headrace.store.errors import NotAStore, RecipeMismatch, RunError, StoreError, UsageError
from headrace.store.integrity import checksummed_metadata
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig, resumed
from headrace.train.monitoring import metrics
from headrace.train.monitoring.metrics import DelayedValues, MetricsLog
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import auto_settings, loop
from headrace.train.trainer.run import Run
from tests.helpers.full_disk import full_disk
from tests.helpers.runs import untimed
from tests.helpers.training_store import Silent, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("train") / "store").path


@pytest.fixture(scope="module")
def config(corpus) -> RunConfig:
    return RunConfig.from_options(
        store=corpus,
        out=Path("nowhere"),
        preset="tiny",
        batch_frames=300,
        max_utterances=3,
        max_steps=16,
        checkpoint_every=4,
        validate_every=5,
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> tuple[Path, Silent, dict[str, Any]]:
    """A run that nothing disturbed."""
    out, observer = tmp_path_factory.mktemp("train") / "run", Silent()
    return out, observer, loop.start(config.with_options(out=out), observer)


def test_the_model_learns(trained):
    losses = [record["loss_mel"] for record in untimed(trained[1].records)]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:2])


def test_every_step_writes_a_line(trained):
    out, observer, _ = trained
    lines = metrics.read(out / "metrics.jsonl")
    assert lines == observer.records
    steps = [record for record in lines if record["split"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 17))
    assert [record["step"] for record in lines if record["split"] == "validation"] == [5, 10, 15, 16]
    named = {
        "loss_disc",
        "loss_gen",
        "loss_fm",
        "loss_mel",
        "loss_kl",
        "lr",
        "loss_scale",
        "grad_norm_g",
        "grad_norm_d",
    }
    for record in steps:
        assert named <= record.keys()
        assert 0 <= record["wait_s"] < record["step_s"]
        assert 0 <= record["padding"] < 0.5
        assert 0 < record["frames"] <= 300
        assert 0 < record["utterances"] <= 3


def test_values_that_are_read_late_are_recorded_alike(trained, config, tmp_path, monkeypatch):
    """After the next update is submitted; before a validation or a checkpoint, which know of all updates."""
    events = []
    step, read = SovitsStage.step, DelayedValues.read
    monkeypatch.setattr(Run, "settles_late", True)
    monkeypatch.setattr(SovitsStage, "step", lambda *given: events.append("step") or step(*given))
    monkeypatch.setattr(DelayedValues, "read", lambda values: events.append("read") or read(values))
    observer = Silent()
    loop.start(config.with_options(out=tmp_path / "run"), observer)
    assert untimed(observer.records) == untimed(trained[1].records)
    assert metrics.read(tmp_path / "run" / "metrics.jsonl") == observer.records
    first, second = (Checkpoints(out / "checkpoints").load_newest()[0] for out in (tmp_path / "run", trained[0]))
    for network in ("generator", "discriminator"):
        for name, value in first["stage"][network].items():
            assert torch.equal(value, second["stage"][network][name]), name
    assert events[:3] == ["step", "step", "read"]


def test_epochs_visit_all_training_utterances(trained):
    steps = untimed(trained[1].records)
    per_epoch = [sum(r["utterances"] for r in group) for _, group in itertools.groupby(steps, lambda r: r["epoch"])]
    assert len(per_epoch) > 1
    assert set(per_epoch[:-1]) == {19}


def test_the_learning_rate_falls_once_an_epoch(trained):
    steps = untimed(trained[1].records)
    rates = [{record["lr"] for record in group} for _, group in itertools.groupby(steps, lambda r: r["epoch"])]
    assert all(len(rate) == 1 for rate in rates)
    assert all(a > b for (a,), (b,) in itertools.pairwise(rates))


def test_files_of_a_run(trained):
    out, observer, summary = trained
    assert Checkpoints(out / "checkpoints").steps() == [8, 12, 16]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.tmp"))
    saved = json.loads((out / "config.json").read_text())
    assert saved["compute"]["precision"] == "fp32"
    assert summary["steps"] == 16
    assert summary["loss_mel_first"] == pytest.approx(
        np.mean([r["loss_mel"] for r in untimed(observer.records)][:8])
    ), "not the steps that the last loss is of"
    assert 0 <= summary["wait_share"] < 0.5
    assert observer.begun == (0, 16, ("loss_mel",))


def test_settings_are_logged_with_their_reason(trained):
    messages = trained[1].messages
    for choice in ("device cpu: ", "precision fp32: ", "batch_frames 300: asked for", "max_utterances 3: asked for"):
        assert any(line.startswith(choice) for line in messages), choice


def test_validating_does_not_change_training(trained, config, tmp_path):
    observer = Silent()
    loop.start(config.with_options(out=tmp_path / "run", max_steps=7, validate_every=0), observer)
    assert untimed(observer.records) == untimed(trained[1].records)[:7]


def test_a_run_can_be_extended(trained, config, tmp_path):
    """A run that reached its end, and is given more steps, is the run that was given them at once."""
    out, observer = tmp_path / "run", Silent()
    loop.start(config.with_options(out=out, max_steps=6), observer)
    loop.resume(out, {"max_steps": 12}, observer)
    assert untimed(metrics.read(out / "metrics.jsonl")) == untimed(trained[1].records)[:12]


def test_stopping_after_epochs(config, tmp_path):
    observer = Silent()
    summary = loop.start(config.with_options(out=tmp_path / "run", max_steps=0, max_epochs=1), observer)
    assert sum(record["utterances"] for record in untimed(observer.records)) == 19
    assert summary["epochs"] == 1


def test_a_run_that_diverges_is_stopped(config, tmp_path, monkeypatch):
    names = ("loss_mel", "loss_disc", "loss_kl", "loss_gen", "loss_fm", "grad_norm_g")
    terms = dict.fromkeys(names, torch.tensor(float("nan"))) | {"skipped": torch.tensor(1.0)}
    monkeypatch.setattr(SovitsStage, "step", lambda self, batches: terms)
    with pytest.raises(RunError, match="diverged: the gradients of 50 steps up to step 50"):
        loop.start(config.with_options(out=tmp_path / "run", max_steps=99, checkpoint_every=99), Silent())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-2], parse_constant=pytest.fail)["loss_mel"] is None


class TestRefusals:
    """One clear line each."""

    def test_a_run_is_not_overwritten(self, trained, config):
        with pytest.raises(RunError, match="holds a run: continue it with --resume"):
            loop.start(config.with_options(out=trained[0]), Silent())

    def test_a_run_keeps_what_makes_it_that_run(self, trained):
        with pytest.raises(RunError, match="started with another --preset and --seed") as caught:
            resumed(trained[0], {"preset": "v2", "seed": 9, "batch_frames": 300})
        assert caught.value.details[0].startswith("--preset: tiny in")

    def test_nothing_to_resume(self, tmp_path):
        with pytest.raises(RunError, match="holds no run to resume"):
            loop.resume(tmp_path, {}, Silent())

    def test_a_damaged_config(self, tmp_path):
        (tmp_path / "config.json").write_text('{"store": "st')
        with pytest.raises(RunError, match=r"config\.json is damaged"):
            loop.resume(tmp_path, {}, Silent())

    def test_another_store(self, trained, tmp_path):
        other = build(tmp_path / "other", frames=range(30, 50))
        with pytest.raises(RunError, match="is not the store that this run was trained on"):
            loop.resume(trained[0], {"store": other.path, "max_steps": 20}, Silent())

    def test_not_a_store(self, config, tmp_path):
        with pytest.raises(NotAStore):
            loop.start(config.with_options(store=tmp_path, out=tmp_path / "run"), Silent())
        assert not (tmp_path / "run").exists()

    def test_another_recipe(self, config, tmp_path):
        other = build(tmp_path / "store", preset=PRESETS["hifigan-22k"])
        with pytest.raises(
            RecipeMismatch, match="made with sample_rate=22050 hop=256, but this model expects"
        ) as caught:
            loop.start(config.with_options(store=other.path, out=tmp_path / "run"), Silent())
        assert [line.split() for line in caught.value.details] == [
            ["in", "store", "expected"],
            ["sample_rate", "22050", "32000", "differs"],
            ["hop", "256", "640", "differs"],
        ]

    def test_a_missing_feature(self, config, tmp_path):
        other = build(tmp_path / "store")
        attributes = json.loads((other.path / "zarr.json").read_text())
        attributes["attributes"]["features"].pop(1)
        (other.path / "zarr.json").write_bytes(checksummed_metadata.with_checksum(attributes))
        with pytest.raises(StoreError, match="but this stage reads mfcc too: build a store with featurize build"):
            loop.start(config.with_options(store=other.path, out=tmp_path / "run"), Silent())

    def test_an_unfinished_store(self, config, tmp_path):
        other = build(tmp_path / "store")
        attributes = json.loads((other.path / "zarr.json").read_text())
        attributes["attributes"]["plan"]["parts"] = 3
        (other.path / "zarr.json").write_bytes(checksummed_metadata.with_checksum(attributes))
        with pytest.raises(StoreError, match="is not complete: run featurize build again"):
            loop.start(config.with_options(store=other.path, out=tmp_path / "run"), Silent())

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_a_device_that_is_not_there(self, config, tmp_path):
        with pytest.raises(UsageError, match="no CUDA device here"):
            loop.start(config.with_options(device="cuda", out=tmp_path / "run"), Silent())

    @pytest.mark.parametrize("field", [{"preset": "huge"}, {"seed": -1}, {"checkpoint_every": 0}])
    def test_values_that_cannot_be(self, config, field):
        with pytest.raises(UsageError, match=next(iter(field))):
            config.with_options(**field)


class Payload:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


WEIGHTS = {"weights": torch.arange(100_000.0)}


class TestCheckpoints:
    def checkpoints(self, folder: Path, steps: int = 3) -> Checkpoints:
        checkpoints = Checkpoints(folder / "checkpoints")
        for step in range(1, steps + 1):
            checkpoints.save(step, WEIGHTS)
        return checkpoints

    def test_the_newest_three_stay(self, tmp_path):
        checkpoints = self.checkpoints(tmp_path, steps=5)
        assert checkpoints.steps() == [3, 4, 5]
        state, damaged = checkpoints.load_newest()
        assert (state["step"], damaged) == (5, [])
        assert torch.equal(state["weights"], WEIGHTS["weights"])

    @pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
    def test_a_damaged_checkpoint_is_reported_and_skipped(self, tmp_path, damage):
        checkpoints = self.checkpoints(tmp_path)
        path = checkpoints.path(3)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        broken = {"flip": bytes(content), "cut": bytes(content[:-100]), "empty": b"", "foreign": b"hello" * 99}
        path.write_bytes(broken[damage])
        state, damaged = checkpoints.load_newest()
        assert state["step"] == 2
        assert len(damaged) == 1
        assert f"{path} is damaged" in damaged[0]

    def test_nothing_in_one_is_executed(self, tmp_path):
        checkpoints = self.checkpoints(tmp_path)
        torch.save({"format": 2, "step": 3, "payload": Payload(tmp_path / "executed")}, checkpoints.path(3))
        assert checkpoints.load_newest()[0]["step"] == 2
        assert not (tmp_path / "executed").exists()

    def test_no_usable_checkpoint_is_an_error(self, tmp_path):
        checkpoints = self.checkpoints(tmp_path, steps=1)
        checkpoints.path(1).write_bytes(b"")
        with pytest.raises(RunError, match="No checkpoint in"):
            checkpoints.load_newest()

    def test_another_format(self, tmp_path):
        checkpoints = self.checkpoints(tmp_path, steps=1)
        checkpoints.save(2, WEIGHTS | {"format": 99})
        with pytest.raises(RunError, match="has format 99, this version reads 2"):
            checkpoints.load_newest()

    def test_a_full_disk_keeps_saved_checkpoints(self, tmp_path):
        checkpoints = self.checkpoints(tmp_path)
        with full_disk(), pytest.raises(RunError, match=r"File too large\. .* step 3 is the newest") as caught:
            checkpoints.save(4, WEIGHTS | {"config": {"store": "my store"}})
        assert caught.value.message.endswith(f"make room and run train run 'my store' --out {tmp_path} --resume.")
        assert checkpoints.steps() == [1, 2, 3]
        assert checkpoints.load_newest()[0]["step"] == 3
        assert len(os.listdir(checkpoints.folder)) == 3


class TestMetrics:
    def test_lines_after_the_checkpoint_are_dropped(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        with MetricsLog(path, last_step=0) as log:
            for step in range(1, 6):
                log.write({"split": "train", "step": step})
        with path.open("a") as file:
            file.write('{"split": "train", "st')
        with MetricsLog(path, last_step=3) as log:
            log.write({"split": "train", "step": 4, "again": True})
        assert [(r["step"], r.get("again", False)) for r in metrics.read(path)] == [
            (1, False),
            (2, False),
            (3, False),
            (4, True),
        ]

    @pytest.mark.parametrize(("steps", "first", "last"), [(1, 1, 1), (2, 1, 2), (5, 1.5, 4.5), (30, 8, 23)])
    def test_a_short_run_compares_two_windows_that_do_not_overlap(self, steps: int, first: float, last: float):
        step = {"split": "train", "epoch": 1, "frames": 90, "padding": 0.1, "utterances": 3, "wait_s": 0.5, "step_s": 2}
        records = [step | {"step": n, "loss_mel": float(n), "skipped": 0.0} for n in range(1, steps + 1)]
        summary = metrics.summarise(records, ["loss_mel"])
        assert (summary["loss_mel_first"], summary["loss_mel_last"]) == (first, last)

    def test_a_run_without_finite_losses_is_summarised(self):
        step = {"split": "train", "epoch": 1, "frames": 90, "padding": 0.1, "utterances": 3, "wait_s": 0.5, "step_s": 2}
        summary = metrics.summarise([step | {"step": 1, "loss_mel": None, "skipped": 1.0}], ["loss_mel"])
        assert summary["loss_mel_first"] is None and summary["loss_mel_last"] is None

    def test_a_summary_adds_up(self):
        record = {
            "split": "train",
            "epoch": 1,
            "frames": 90,
            "padding": 0.1,
            "utterances": 3,
            "wait_s": 0.5,
            "skipped": 0.0,
        }
        steps = [record | {"step": n, "loss_mel": float(n), "step_s": 2.0} for n in range(1, 41)]
        validations = [{"split": "validation", "step": 20, "loss_mel": 7.0}]
        summary = metrics.summarise(steps + validations, ["loss_mel"])
        assert summary["loss_mel_first"] == 10.5
        assert summary["loss_mel_last"] == 30.5
        assert summary["loss_mel_validation"] == 7.0
        assert summary["wait_share"] == pytest.approx(0.25)
        assert summary["frames_per_s"] == pytest.approx(45)
        assert summary["padding"] == pytest.approx(0.1)


def test_automatic_choices():
    device, reason = auto_settings.choose_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "CUDA" in reason
    frames, _ = auto_settings.choose_batch_frames(0, torch.device("cpu"))
    most, _ = auto_settings.choose_max_utterances(0, frames)
    assert 1 < most <= frames // 100


class TestCommand:
    def invoke(self, *arguments: Any) -> Any:
        return CliRunner().invoke(main, ["run", *map(str, arguments)])

    def test_json_is_all_there_is_on_stdout(self, corpus, tmp_path):
        options = ("--preset", "tiny", "--batch-frames", 300, "--max-steps", 2, "--json")
        result = self.invoke(corpus, "--out", tmp_path / "run", *options)
        assert result.exit_code == 0
        assert json.loads(result.stdout)["steps"] == 2

    def test_text_output_has_reasons_and_a_table(self, corpus, tmp_path):
        out = tmp_path / "run"
        result = self.invoke(corpus, "--out", out, "--preset", "tiny", "--batch-frames", 300, "--max-steps", 2)
        assert result.exit_code == 0
        assert "waiting for data" in result.stdout
        assert "batch_frames 300: asked for" in result.stderr
        again = self.invoke(corpus, "--out", out, "--resume", "--max-steps", 3)
        assert again.exit_code == 0
        assert "continuing after step 2" in again.stderr

    def test_errors_are_one_line_and_an_exit_code(self, corpus, tmp_path):
        result = self.invoke(tmp_path, "--out", tmp_path / "run")
        assert result.exit_code == 1
        assert "is not a Headrace store" in result.stderr
        assert len(result.stderr.splitlines()) <= 5
        assert self.invoke(corpus, "--out", tmp_path / "run", "--stage", "bard").exit_code == 2
        if not torch.cuda.is_available():
            assert self.invoke(corpus, "--out", tmp_path / "run", "--device", "cuda").exit_code == 2


def test_a_run_is_not_written_to_a_url(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(tmp_path), "--out", "s3://bucket/run"])
    assert done.exit_code == 2 and "s3://bucket/run is a URL" in done.output
