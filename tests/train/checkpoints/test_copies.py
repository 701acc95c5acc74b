"""Checkpoints that are copied to a second place: what is there is whole, and a run goes on from it on an empty disk."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.store.errors import RunError, StorageError, UsageError
from headrace.store.storage import parse_path, read_file, storage_of
from headrace.train.checkpoints.copies import CheckpointCopies
from headrace.train.config import RunConfig, read_config
from headrace.train.trainer import loop
from tests.helpers.runs import assert_same_run
from tests.helpers.training_store import Silent, build

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    """Of a run of six steps, that has not been copied."""
    config = RunConfig.from_options(
        store=build(folder / "store").path,
        out=folder / "undisturbed",
        stage="gpt",
        preset="tiny",
        batch_frames=300,
        max_steps=STEPS,
        checkpoint_every=1,
        validate_every=0,
    )
    loop.start(config, Silent())
    return config


@pytest.fixture(scope="module")
def place(config: RunConfig, folder: Path) -> Path:
    """What is left of a run of four steps."""
    vanish(config, folder, str(folder / "place"))
    return folder / "place"


@pytest.fixture
def copied(config: RunConfig, place: Path, tmp_path: Path) -> RunConfig:
    """Of a run of four steps, whose disk has vanished, and whose copies are a folder."""
    shutil.copytree(place, tmp_path / "place")
    return config.with_options(out=tmp_path / "run", max_steps=4, checkpoint_to=str(tmp_path / "place"))


def vanish(config: RunConfig, tmp_path: Path, place: str) -> RunConfig:
    four = config.with_options(out=tmp_path / "run", max_steps=4, checkpoint_to=place)
    loop.start(four, Silent())
    copies = CheckpointCopies(four.out, parse_path(place))
    assert copies.steps() == [2, 3, 4]  # as in the folder of the run
    shutil.rmtree(four.out)
    return four


def go_on(config: RunConfig) -> list[str]:
    """Resume a run for the other steps. Returns its messages."""
    observer = Silent()
    given = {"checkpoint_to": config.schedule.checkpoint_to, "max_steps": STEPS, "store": config.store}
    loop.resume(config.out, given, observer)
    return observer.messages


def test_a_run_goes_on_from_a_folder(config: RunConfig, copied: RunConfig) -> None:
    place = Path(copied.schedule.checkpoint_to)
    for step in (2, 3, 4):
        file = place / "checkpoints" / f"step-{step:08d}.pt"
        line = f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        assert file.with_name(f"{file.name}.sha256").read_text() == line
    messages = go_on(copied)
    assert f"restored from {place}: the checkpoint of step 4" in messages
    assert_same_run(copied.out, config.out, steps=STEPS)
    assert CheckpointCopies(copied.out, place).steps() == [4, 5, 6]
    assert sorted(path.name for path in place.iterdir()) == ["checkpoints", "config.json", "metrics.jsonl"]
    assert (place / "metrics.jsonl").read_bytes() == (copied.out / "metrics.jsonl").read_bytes()


def test_under_a_launcher_the_same_command_goes_on(config: RunConfig, copied: RunConfig) -> None:
    observer = Silent()
    loop.start_or_resume(
        copied.with_options(max_steps=STEPS), {"checkpoint_to": copied.schedule.checkpoint_to}, observer
    )
    assert "continuing after step 4" in observer.messages
    with pytest.raises(RunError, match="holds copies of a run: continue it with --resume"):
        loop.start(copied.with_options(out=copied.out.with_name("other")), Silent())


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    pytest.importorskip("moto", reason="moto is not installed: nothing serves S3")
    from tests.helpers.s3_server import BUCKET, environment, server

    with server() as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(port).items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/place"


def test_a_run_goes_on_from_a_bucket(config: RunConfig, tmp_path: Path, bucket: str) -> None:
    four = vanish(config, tmp_path, bucket)
    assert f"restored from {bucket}: the checkpoint of step 4" in go_on(four)
    assert_same_run(four.out, config.out, steps=STEPS)
    assert CheckpointCopies(four.out, parse_path(bucket)).steps() == [4, 5, 6]


def test_copies_that_are_damaged_or_not_whole_are_left_out(config: RunConfig, copied: RunConfig) -> None:
    folder = Path(copied.schedule.checkpoint_to) / "checkpoints"
    (folder / "step-00000004.pt.sha256").unlink()
    damaged = folder / "step-00000003.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    messages = go_on(copied)
    assert f"{damaged} is damaged (it does not have its digest), and left out" in messages
    assert "continuing after step 2" in messages
    assert_same_run(copied.out, config.out, steps=STEPS)


def test_where_no_copy_is_whole_nothing_begins(copied: RunConfig) -> None:
    for file in (Path(copied.schedule.checkpoint_to) / "checkpoints").glob("*.pt"):
        file.write_bytes(b"")
    with pytest.raises(RunError, match="has no whole copy of a checkpoint"):
        go_on(copied)
    for digest in (Path(copied.schedule.checkpoint_to) / "checkpoints").glob("*.sha256"):
        digest.unlink()
    shutil.rmtree(copied.out)
    with pytest.raises(RunError, match="holds no run to resume"):
        go_on(copied)


def test_what_fails_later_is_told_and_made_up_for(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the place does not answer, training goes on."""
    place, update, failed = tmp_path / "place", CheckpointCopies.update, list[int]()

    def fail(self: CheckpointCopies, step: int, best: int) -> None:
        if step < STEPS:
            failed.append(step)
            raise StorageError("no answer") if step % 2 else OSError(5, "Input/output error")
        update(self, step, best)

    monkeypatch.setattr(CheckpointCopies, "update", fail)
    observer = Silent()
    assert loop.start(config.with_options(out=tmp_path / "run", checkpoint_to=str(place)), observer) is not None
    told = [line for line in observer.messages if line.startswith(f"checkpoints are not copied to {place} (")]
    assert failed and len(told) == len(failed) and all(line.endswith("tried again with the next one") for line in told)
    assert {"(no answer)" in line or "(Input/output error)" in line for line in told} == {True}
    assert CheckpointCopies(tmp_path / "run", place).steps() == [4, 5, 6]


def test_a_copy_of_a_later_attempt_does_not_count_before_its_digest(
    copied: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(copied.schedule.checkpoint_to)
    go_on(copied)
    storage = type(storage_of(place))
    write = storage.write_whole

    def fail(self: Any, file: Path, chunks: Any) -> None:
        if file.name.endswith(".sha256"):
            raise OSError(28, "No space left on device")
        write(self, file, chunks)

    monkeypatch.setattr(storage, "write_whole", fail)
    copies = CheckpointCopies(copied.out, place)
    with pytest.raises(OSError, match="No space left"):
        copies.update(STEPS, 0)
    assert copies.steps() == [4, 5]
    monkeypatch.undo()
    copies.update(STEPS, 4)
    assert copies.steps() == [4, 5, 6]


def test_the_best_is_kept_and_old_ones_are_deleted(copied: RunConfig) -> None:
    place = Path(copied.schedule.checkpoint_to)
    folder = copied.out / "checkpoints"
    folder.mkdir(parents=True)
    (copied.out / "metrics.jsonl").touch()
    (folder / "step-00000005.pt").write_bytes(b"five")
    (folder / "step-00000009.pt").write_bytes(b"nine")
    copies = CheckpointCopies(copied.out, place)
    copies.update(5, [2])
    assert copies.steps() == [2, 3, 4, 5]
    copies.update(9, [3])
    assert copies.steps() == [3, 4, 5, 9] and len(list((place / "checkpoints").iterdir())) == 8


def test_places_that_are_not_for_this_run_are_refused(config: RunConfig, copied: RunConfig, tmp_path: Path) -> None:
    place = Path(copied.schedule.checkpoint_to)
    at = lambda where: config.with_options(out=tmp_path / "new", checkpoint_to=str(where))  # noqa: E731
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    for where, error, message in (
        (tmp_path / "new" / "copies", UsageError, "lies in the folder of the run"),
        (tmp_path / "file", UsageError, "is a file: name a folder"),
        (tmp_path / "full", UsageError, "'letter.txt' is there"),
        (tmp_path / "file" / "below", RunError, r"cannot be copied to .* \(Not a directory\)"),
        ("s3://x", UsageError, "is not a valid S3 URL"),
    ):
        with pytest.raises(error, match=message):
            loop.start(at(where), Silent())
        assert not (tmp_path / "new" / "checkpoints").exists()
    with pytest.raises(RunError, match="holds copies of a run with another --seed: name another place"):
        CheckpointCopies(config.out, place).begin(read_config(config.out).with_options(seed=5))
    assert (tmp_path / "full" / "letter.txt").exists()


def test_what_killed_runs_left_at_the_place_is_cleared(config: RunConfig, copied: RunConfig) -> None:
    place = Path(copied.schedule.checkpoint_to)
    drafts = [at / f".headrace-{'0' * 32}.tmp" for at in (place, place / "checkpoints")]
    for draft in drafts:
        draft.touch()
    (place / "config.json").write_text("{")
    CheckpointCopies(config.out, place).begin(config)
    assert not any(draft.exists() for draft in drafts)
    assert read_file(place / "config.json") == (config.out / "config.json").read_bytes()
