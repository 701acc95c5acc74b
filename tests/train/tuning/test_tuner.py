"""Tunings of simulated runs: killed and continued, in several jobs, with runs that fail; and what they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.train import main as train
from headrace.store.errors import RunError, UsageError
from headrace.train.config import RunConfig, read_options
from headrace.train.tuning.study import RUNGS
from headrace.train.tuning.tuner import tune
from headrace.train.tuning.tuning_config import TuneConfig
from tests.helpers import training_store
from tests.helpers.commands import call
from tests.train.tuning.simulated_runs import Killed, SimulatedRuns, rows_of

BASE = {"stage": "gpt", "preset": "tiny", "device": "cpu", "max_steps": 90, "batch_frames": 400}


class Listener:
    """A `TuneObserver` that remembers."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def log(self, line: str) -> None:
        pass

    def ended(self, row: Any, done: int, of: int) -> None:
        self.rows.append((row, done, of))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(training_store.build(tmp_path_factory.mktemp("tuning") / "STORE", training_store.FRAMES[:6]).path)


def config(store: Path, out: Path, **changes: Any) -> TuneConfig:
    options = BASE | changes.pop("options", {})
    return TuneConfig(store=store, out=out, options=options, **changes)


def checkpoints(out: Path) -> set[str]:
    return {path.parent.parent.parent.name for path in out.rglob("*.pt")}


def test_a_search_finds_better_options_and_leaves_them_for_train_run(store: Path, tmp_path: Path) -> None:
    listener, runs = Listener(), SimulatedRuns()
    result = tune(config(store, tmp_path / "T", trials=12), listener, runs)
    rows = rows_of(tmp_path / "T")
    best = min((row for row in rows if row["state"] == "complete"), key=lambda row: row["loss"])
    assert result["best"] == best["trial"] and result["value"] == best["loss"] < result["default"] == rows[0]["loss"]
    assert {row["state"] for row in rows} == {"complete", "pruned"} and len(rows) == 12 == result["trials"]
    assert [(row, done, of) for row, done, of in listener.rows] == [(row, n + 1, 12) for n, row in enumerate(rows)]
    assert checkpoints(tmp_path / "T") == {f"{best['trial']:04d}"}, "only those of the best one stay"
    options = read_options(tmp_path / "T" / "best.toml")
    assert options.items() >= {**best["options"], "stage": "gpt", "preset": "tiny"}.items()
    assert (tmp_path / "T" / "tuning.png").read_bytes().startswith(b"\x89PNG")
    saved = RunConfig.from_options(store=store, out=Path(result["run"]), **options)
    assert saved.schedule.max_steps == RUNGS * saved.schedule.validate_every
    read = saved.schedule.max_steps * saved.data.batch_frames
    assert read == pytest.approx(90 * 400, rel=0.12), "as much as the defaults, in batches of another size"


@pytest.mark.parametrize("killed_at", [1, 9, 10, 11, 14, 17])
def test_a_search_that_is_killed_and_continued_is_as_undisturbed(store: Path, tmp_path: Path, killed_at: int) -> None:
    tune(config(store, tmp_path / "one", trials=7), Listener(), SimulatedRuns())
    killed = config(store, tmp_path / "killed", trials=7)
    with pytest.raises(Killed):
        tune(killed, Listener(), SimulatedRuns(killed_at))
    tune(killed, Listener(), SimulatedRuns())
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "one")
    assert checkpoints(tmp_path / "killed") == checkpoints(tmp_path / "one")


def test_runs_that_fail_are_told_and_end_nothing(store: Path, tmp_path: Path) -> None:
    runs = SimulatedRuns(fails=lambda run: "out of memory" if run.data.batch_frames > 400 else "")
    result = tune(config(store, tmp_path / "T", trials=8), Listener(), runs)
    failed = [row for row in rows_of(tmp_path / "T") if row["options"]["batch_frames"] > 400]
    assert failed and result["failed"] == len(failed)
    assert all((row["state"], row["reason"], row["loss"]) == ("failed", "out of memory", None) for row in failed)
    with pytest.raises(RunError, match=r"No trial of .* was completed") as caught:
        tune(config(store, tmp_path / "none", trials=3), Listener(), SimulatedRuns(fails=lambda _: "not finite"))
    assert caught.value.details == ("not finite",)
    with pytest.raises(UsageError, match="no codes"):
        tune(config(store, tmp_path / "refused", trials=3), Listener(), SimulatedRuns(refused="no codes"))


def test_jobs_share_the_trials(store: Path, tmp_path: Path) -> None:
    runs = SimulatedRuns()
    tune(config(store, tmp_path / "T", trials=9, jobs=3), Listener(), runs)
    assert [row["trial"] for row in rows_of(tmp_path / "T")] == list(range(9)) and len(runs.environments) == 9
    assert all(row["state"] in ("complete", "pruned") for row in rows_of(tmp_path / "T"))


def test_more_trials_continue_a_search_and_other_options_do_not(store: Path, tmp_path: Path) -> None:
    tune(config(store, tmp_path / "T", trials=2), Listener(), SimulatedRuns())
    before = (tmp_path / "T" / "journal.log").read_bytes()
    for changes, name in (
        ({"options": {"seed": 1}}, "seed"), ({"metric": "accuracy"}, "metric"), ({"search": "dropout"}, "range of"),
        ({"options": {"max_steps": 99}}, "max_steps"), ({"population": 2, "trials": 4}, "population"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=f"was begun with another .*{name}.*: leave that as it was"):
            tune(config(store, tmp_path / "T", **{"trials": 3, **changes}), Listener(), SimulatedRuns())
    assert (tmp_path / "T" / "journal.log").read_bytes() == before
    tune(config(store, tmp_path / "T", trials=3), Listener(), SimulatedRuns())
    assert len(rows_of(tmp_path / "T")) == 3


@pytest.mark.parametrize("killed_at", [0, 1, 3, 4, 5, 7, 8, 11])
def test_a_population_that_is_killed_and_continued_is_as_undisturbed(
    store: Path, tmp_path: Path, killed_at: int
) -> None:
    given = {"trials": 12, "population": 4}
    result = tune(config(store, tmp_path / "one", **given), Listener(), SimulatedRuns())
    if killed_at:
        killed = config(store, tmp_path / "killed", **given)
        with pytest.raises(Killed):
            tune(killed, Listener(), SimulatedRuns(killed_at))
        assert tune(killed, Listener(), SimulatedRuns())["value"] == result["value"]
        assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "one")
        assert [p.read_text() for p in (tmp_path / "killed").rglob("*.pt")] == [
            p.read_text() for p in (tmp_path / "one").rglob("*.pt")
        ]
        return
    rows = rows_of(tmp_path / "one")
    assert result["copies"] == sum(row["state"] == "copied" for row in rows) == 2
    copied = [row for row in rows if row["state"] == "copied"]
    for row in copied:
        before = [other for other in rows if other["generation"] == row["generation"] - 1]
        assert row["parent"] == min(before, key=lambda other: other["loss"])["member"]
        assert row["member"] == max(before, key=lambda other: other["loss"])["member"]
    assert (tmp_path / "one" / "lineage.png").read_bytes().startswith(b"\x89PNG")
    assert read_options(tmp_path / "one" / "best.toml")["max_steps"] == 90


def test_a_copy_has_the_checkpoint_of_its_parent_and_options_of_its_own(store: Path, tmp_path: Path) -> None:
    """Member 1 fails in the first generation, whatever it began with."""
    lost = SimulatedRuns(fails=lambda run: "lost" if run.out.parent.parent.name == "1" else "")
    out = tmp_path / "T"
    tune(config(store, out, trials=4, population=2, search="dropout"), Listener(), lost)
    _, lost_one, *_ = rows_of(out)
    (second,) = [row for row in rows_of(out) if (row["generation"], row["member"]) == (1, 1)]
    assert lost_one["state"] == "failed" and (second["parent"], second["reason"]) == (0, "lost")
    saved = json.loads((out / "members" / "1" / "0001" / "run" / "config.json").read_text())
    assert saved["model"]["dropout"] == second["options"]["dropout"] and saved["schedule"]["max_steps"] == 90
    shutil.rmtree(out)
    tune(config(store, out, trials=4, population=2, search="dropout=0:0.9"), Listener(), SimulatedRuns())
    rows = rows_of(out)
    assert rows[0]["loss"] < rows[1]["loss"], "no dropout is better here"
    copy = next(row for row in rows if row["state"] == "copied")
    assert (copy["parent"], copy["member"]) == (0, 1)
    kept = sorted(path.read_text() for path in out.rglob("*.pt") if path.name == "step-00000090.pt")
    assert kept == ["0/0000 0/0001 "] or kept == ["0/0000 1/0001 "]


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "max_steps is 0; a run of a tuning needs at least 9"),
        (("--max-steps", 8), "max_steps is 8"),
        (("--max-steps", 9, "--metric", "mos"), "metric is 'mos'; validations of the stage sovits have loss_mel"),
        (("--max-steps", 9, "--trials", 6, "--population", 4), "trials is 6; with a population of 4"),
        (("--max-steps", 9, "--trials", 4, "--population", 4), "trials is 4; with a population of 4"),
        (("--max-steps", 9, "--trials", 4, "--population", 1), "population is 1; it must be at least 2"),
        (("--max-steps", 9, "--search", "seed"), "'seed' cannot be searched"),
        (("--max-steps", 9, "--population", 2, "--search", "batch_frames"), "batch_frames cannot change"),
        (("--max-steps", 9, "--config", "epochs.toml"), "max_epochs, patience and grow_batch: leave them out"),
        (("--max-steps", 9, "--config", "none.toml"), "The config none.toml cannot be read"),
        (("--max-steps", 9, "--config", "warm.toml", "--population", 2), "make the learning rate of gpt fall"),
        (("--max-steps", 9, "--out", "used"), "used is not empty and holds no tuning ('notes' is there)"),
        (("--max-steps", 9, "--out", "epochs.toml"), "epochs.toml is a file"),
    ],
)
def test_a_mistake_is_told_in_a_line_before_anything_is_trained(
    words: tuple[object, ...], says: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epochs.toml").write_text("max_epochs = 3")
    (tmp_path / "warm.toml").write_text("stage = 'gpt'\nwarmup_steps = 3")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes").touch()
    done = call(train, "tune", store, "--out", "T", "--preset", "tiny", "--device", "cpu", *words)
    assert done.exit_code == 2 and not (tmp_path / "T").exists()
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error")]
    assert says in line
