"""Which checkpoints of a run stay, which one is the best, and how a run is told to learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.featurize.files import run_checkpoints
from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints.checkpoint import KEEP_NEWEST, Checkpoints
from headrace.train.config import RunConfig
from headrace.train.config_sections import parse_save_every
from headrace.train.stages.gpt_optimizer import GptOptimConfig, describe_new_end
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.trainer import loop
from tests.helpers.training_store import Silent, build

STEPS, KEEP = 50, 2


class Counting(Silent):
    """Remembers the most checkpoints that there were at any step."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out, self.most = out, 0

    def recorded(self, record: dict[str, Any]) -> None:
        super().recorded(record)
        self.most = max(self.most, len(Checkpoints(self.out / "checkpoints").steps()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counting]:
    """Fifty checkpoints, with a validation at every fifth."""
    folder = tmp_path_factory.mktemp("kept")
    store, out = build(folder / "store", range(20, 30)).path, folder / "run"
    config = RunConfig.from_options(
        store=store, out=out, stage="gpt", preset="tiny", device="cpu", batch_frames=120, max_steps=STEPS,
        checkpoint_every=1, validate_every=5, save_every="7", keep=KEEP,
    )  # fmt: skip
    observer = Counting(out)
    loop.start(config, observer)
    return out, observer


def test_the_disk_that_checkpoints_take_is_bounded(run: tuple[Path, Counting]) -> None:
    out, observer = run
    steps, losses = Checkpoints(out / "checkpoints").steps(), validations(observer)
    best = min(losses, key=lambda step: (losses[step], step))
    assert set(steps) == {42, 49, best, 48, 50}
    bound = KEEP_NEWEST + 1 + KEEP
    assert len(steps) <= observer.most <= bound + 1, "the one that is written comes before the one that goes"
    assert any(line.startswith(f"checkpoints: at most {bound} are kept, of ") for line in observer.messages)


def validations(observer: Silent) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in observer.records if record["split"] == "validation"}


def test_the_best_is_chosen_unless_another_is_named(run: tuple[Path, Counting]) -> None:
    out, observer = run
    steps, losses = Checkpoints(out / "checkpoints").steps(), validations(observer)
    best = min(losses, key=lambda step: (losses[step], step))
    assert run_checkpoints.choices(out)[0].step == run_checkpoints.choices(out, "best")[0].step == best
    assert [choice.step for choice in run_checkpoints.choices(out, "newest")] == steps[::-1]
    assert [choice.step for choice in run_checkpoints.choices(out, "49")] == [49]
    assert sorted(choice.step for choice in run_checkpoints.choices(out)) == steps
    with pytest.raises(RunError, match="has no checkpoint of step 1: it has those of"):
        run_checkpoints.choices(out, "1")


def test_lines_of_metrics_that_are_no_validations_choose_nothing(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        Checkpoints(tmp_path / "checkpoints").save(step, {})
    lines = [
        '{"split": "validation", "step": 1, "loss": null}', '{"split": "validation", "step": 2}', "[1]", "{",
        '{"split": "train", "step": 1, "loss": 0.1, "x": "validation"}',
        '{"split": "validation", "step": 9, "loss": 0}',
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [choice.step for choice in run_checkpoints.choices(tmp_path)] == [3, 2, 1]
    with pytest.raises(RunError, match="was validated: give --at newest"):
        run_checkpoints.choices(tmp_path, "best")


def test_checkpoints_are_listed(run: tuple[Path, Counting]) -> None:
    out, observer = run
    found = json.loads(CliRunner().invoke(main, ["list", str(out), "--json"]).stdout)
    assert [one["step"] for one in found] == Checkpoints(out / "checkpoints").steps()
    (best,) = (one for one in found if one["best"])
    assert best["loss"] == validations(observer)[best["step"]] and best["bytes"] > 1000 and best["age_s"] >= 0
    shown = CliRunner().invoke(main, ["list", str(out)]).stdout
    assert "gpt step 50" in shown and "not validated" in shown and "best" in shown and "newest" in shown


def test_a_checkpoint_of_every_epoch(tmp_path: Path) -> None:
    store, out = build(tmp_path / "store", range(20, 26)).path, tmp_path / "run"
    options = {"stage": "gpt", "preset": "tiny", "device": "cpu", "batch_frames": 80, "validate_every": 0}
    config = RunConfig.from_options(store=store, out=out, max_epochs=5, save_every="1epoch", keep=4, **options)
    observer = Silent()
    loop.start(config, observer)
    ends = [
        now["step"]
        for now, then in zip(observer.records, [*observer.records[1:], {"epoch": 6}], strict=True)
        if now["epoch"] != then["epoch"]
    ]
    assert len(ends) == 5 and Checkpoints(out / "checkpoints").steps() == ends[1:]


@pytest.mark.parametrize("text", ["0", "x", "-1", "2 weeks", "1e9", "epochs"])
def test_what_is_no_number_of_steps_or_epochs(text: str) -> None:
    with pytest.raises(UsageError, match="give a number of steps, such as 1000, or of epochs"):
        parse_save_every(text)


def test_learning_rates_are_options() -> None:
    given = {"store": Path("S"), "out": Path("R"), "learning_rate": 5e-5}
    sovits = SovitsOptimConfig.from_config(RunConfig.from_options(text_rate_factor=1.0, lr_decay=0.5, **given))
    assert (sovits.rate(1, 0), sovits.text_rate_factor) == (2.5e-5, 1.0)
    plain = SovitsOptimConfig.from_config(RunConfig.from_options(store=Path("S"), out=Path("R")))
    assert (plain.learning_rate, plain.text_rate_factor, plain.decay_per_epoch) == (1e-4, 0.4, 0.999875)
    published = GptOptimConfig.from_config(RunConfig.from_options(stage="gpt", **given))
    assert published.rate(0) == pytest.approx(2.5e-4) and published.rate(9) == pytest.approx(5e-5)
    warm = GptOptimConfig.from_config(RunConfig.from_options(stage="gpt", warmup_steps=10, max_steps=20, **given))
    assert max(map(warm.rate, range(21))) == pytest.approx(5e-5) and warm.rate(20) == pytest.approx(5e-7)
    with pytest.raises(UsageError, match="text_rate_factor: only for the stage sovits"):
        RunConfig.from_options(stage="gpt", text_rate_factor=0.2, **given)


def test_another_end_of_a_run_says_what_it_does_to_the_rate() -> None:
    saved = RunConfig.from_options(store=Path("S"), out=Path("R"), stage="gpt", warmup_steps=10, max_steps=20)
    told = describe_new_end(saved, saved.with_options(max_steps=1000), 20)
    assert told == (
        "the learning rate falls until step 1,000, and no longer until 20: it is 0.01 now, and would have been 0.0001"
    )
    assert not describe_new_end(saved, saved, 20)
    published = RunConfig.from_options(store=Path("S"), out=Path("R"), stage="gpt", max_steps=20)
    assert not describe_new_end(published, published.with_options(max_steps=40), 20)


class TestEndOfTheRate:
    """A cosine falls until the run ends, by steps or by epochs; another end on resuming is told, and followed."""

    def begin(self, folder: Path, **end: int) -> tuple[Path, Silent]:
        store, out, observer = build(folder / "store", range(20, 26)).path, folder / "run", Silent()
        options = {"stage": "gpt", "preset": "tiny", "device": "cpu", "batch_frames": 80, "validate_every": 0}
        loop.start(RunConfig.from_options(store=store, out=out, warmup_steps=2, **options, **end), observer)
        return out, observer

    def test_a_run_that_epochs_alone_bound_falls_over_them(self, tmp_path: Path) -> None:
        out, observer = self.begin(tmp_path, max_epochs=4)
        rates = [record["lr"] for record in observer.records]
        config = json.loads((out / "config.json").read_text())
        total = 4 * config["schedule"]["epoch_steps"]
        assert total == len(rates) and observer.begun is not None and observer.begun[1] == total
        assert f"the learning rate falls until step {total}, in 4 epochs" in observer.messages
        expected = GptOptimConfig(schedule="warmup_cosine", warmup_steps=2, total_steps=total)
        assert rates == pytest.approx([expected.rate(update) for update in range(total)])
        assert rates[-1] < 0.1 * max(rates)
        longer = Silent()
        loop.resume(out, {"max_epochs": 8}, longer)
        (told,) = (line for line in longer.messages if "no longer until" in line)
        assert told.startswith(f"the learning rate falls until step {2 * total}, and no longer until {total}: it is ")
        falls = replace(expected, total_steps=2 * total)
        assert [record["lr"] for record in longer.records] == pytest.approx(
            [falls.rate(update) for update in range(total, 2 * total)]
        )

    def test_other_steps_on_resuming_are_told_and_followed(self, tmp_path: Path) -> None:
        out, observer = self.begin(tmp_path, max_steps=6)
        assert json.loads((out / "config.json").read_text())["schedule"]["epoch_steps"] == 0
        resumed = Silent()
        loop.resume(out, {"max_steps": 12}, resumed)
        falls = GptOptimConfig(schedule="warmup_cosine", warmup_steps=2, total_steps=12)
        told = f"the learning rate falls until step 12, and no longer until 6: it is {falls.rate(6):.3g} now, and would"
        assert any(line.startswith(told) for line in resumed.messages)
        rates = [record["lr"] for record in (*observer.records, *resumed.records)]
        assert rates[6:] == pytest.approx([falls.rate(update) for update in range(6, 12)]) and rates[5] < rates[6]
