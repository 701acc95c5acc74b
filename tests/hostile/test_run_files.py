"""Damaged files of a training run: it resumes from what is whole, and one line names what is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.cli.store import main as store_command
from headrace.cli.train import main
from headrace.store.errors import RunError
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.train.checkpoints.checkpoint import Checkpoints, CorruptCheckpoint, load
from headrace.train.config import RunConfig, read_config
from headrace.train.monitoring import metrics
from headrace.train.trainer import loop
from tests.helpers.commands import call, fenced
from tests.helpers.fuzzing import COMMAND_COUNTS, FUZZ_COUNTS, fuzz, named, parted
from tests.helpers.training_store import Silent, build


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, with a checkpoint of each, beside its store."""
    folder = tmp_path_factory.mktemp("run-files")
    store = build(folder / "store", frames=(20, 24, 30, 33), parts=1).path
    options: dict[str, Any] = {"stage": "gpt", "preset": "tiny", "batch_frames": 300, "max_steps": 3}
    options |= {"checkpoint_every": 1, "validate_every": 0}
    loop.start(RunConfig.from_options(store=store, out=folder / "run", **options), Silent())
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


BAD_LINES = [b"\xff\xfe\x00", b"{", b"[1]", b"null", b'{"step": 1}', b'{"split": "train", "step": "1"}', b"[" * 9999]


def test_damaged_lines_of_metrics_are_named_and_the_others_kept(run: Path) -> None:
    path = run / "metrics.jsonl"
    good = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([good[0], *BAD_LINES, *good[1:], b'{"split": "tra']))
    observer = Silent()
    loop.resume(run, {"max_steps": 4}, observer)
    named = [line for line in observer.messages if "metrics.jsonl is damaged" in line]
    assert [line.split()[1] for line in named] == [str(n) for n in range(2, 2 + len(BAD_LINES))]
    assert path.read_bytes().splitlines()[:3] == good and len(metrics.read(path)) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"store": 5, "out": []}', '{"hidden_size": 768}', "[" * 9999])
def test_a_damaged_config_is_replaced_by_what_the_checkpoint_says(run: Path, content: str) -> None:
    (run / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json is damaged") as caught:
        read_config(run)
    assert "\n" not in caught.value.message and len(caught.value.message) < 500
    observer = Silent()
    loop.resume(run, {"max_steps": 4}, observer)
    assert any("config.json is missing or damaged" in line for line in observer.messages)
    assert read_config(run).model.stage == "gpt"


@pytest.mark.parametrize("lost", ["stage", "stream", "random", "plateau", "store"])
def test_a_checkpoint_without_a_part_is_told_in_a_line(run: Path, lost: str) -> None:
    path = Checkpoints(run / "checkpoints").path(3)
    state = load(path)
    del state[lost]
    torch.save(state, path)
    result = call(main, "run", run.parent / "absent", "--out", run, "--resume")
    assert result.exit_code == 1
    with pytest.raises(RunError, match=r"step-00000003\.pt does not fit this run .*: move it away"):
        loop.resume(run, {"max_steps": 4}, Silent())


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/step-00000003.pt"])
def test_nothing_of_another_kind_in_a_run_blocks_it(run: Path, name: str, make: Callable[[Path], object]) -> None:
    (run / name).unlink()
    make(run / name)
    observer = Silent()
    with suppress(RunError, IsADirectoryError):
        loop.resume(run, {"max_steps": 3}, observer)
    if name == "metrics.jsonl":
        with pytest.raises(RunError, match=r"is not a regular file.*move it away"):
            metrics.read(run / name)


def test_damaged_checkpoints_of_later_steps_never_displace_whole_ones(run: Path) -> None:
    checkpoints = Checkpoints(run / "checkpoints")
    for step in (7, 8, 9):
        checkpoints.path(step).write_bytes(b"PK damaged")
    observer = Silent()
    loop.resume(run, {"max_steps": 5, "checkpoint_every": 1}, observer)
    assert [line.split("step-0000000")[1][0] for line in observer.messages if "is damaged" in line] == ["9", "8", "7"]
    assert checkpoints.steps() == [3, 4, 5, 7, 8, 9]
    assert checkpoints.load_newest()[0]["step"] == 5


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_checkpoints(run: Path, count: int) -> None:
    checkpoints = Checkpoints(run / "checkpoints")
    path = checkpoints.path(3)
    small = load(path) | {"stage": {"weight": torch.arange(6.0)}}
    torch.save(small, path)
    seed = path.read_bytes()

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        try:
            load(path)
        except CorruptCheckpoint:
            return

    fuzz(attempt, [seed], folder=run, count=count, memory=2 << 30)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_configs(run: Path, count: int) -> None:
    path = run / "config.json"
    sections = json.loads(path.read_bytes())
    flat = {"store": "STORE", "out": "RUN", **{k: v for name in ("model", "optim") for k, v in sections[name].items()}}

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        read_config(run)

    fuzz(attempt, [path.read_bytes(), json.dumps(flat).encode()], folder=run, count=count)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_metrics(run: Path, count: int) -> None:
    path = run / "metrics.jsonl"
    seed = path.read_bytes()

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        metrics.MetricsLog(path, last_step=3)
        records = metrics.read(path)
        metrics.summarise(records, ("loss", "accuracy"))

    fuzz(attempt, [seed], folder=run, count=count)


@pytest.mark.parametrize("count", COMMAND_COUNTS)
@pytest.mark.parametrize("words", ["info STORE", "verify STORE", "repair STORE"])
def test_commands_on_a_damaged_store(trained: Path, tmp_path: Path, words: str, count: int) -> None:
    fuzz_command(store_command, words, trained.parent / "store", tmp_path / "fuzzed" / "STORE", count)


@pytest.mark.soak
@pytest.mark.parametrize("count", [1_000])
@pytest.mark.parametrize("words", ["show STORE 0 --out OUT", "report STORE --mos 0 --out OUT"])
def test_pictures_of_a_damaged_store(trained: Path, tmp_path: Path, words: str, count: int) -> None:
    fuzz_command(store_command, words, trained.parent / "store", tmp_path / "fuzzed" / "STORE", count)


@pytest.mark.soak
@pytest.mark.parametrize("count", [200])  # each measures a few steps
def test_a_plan_for_a_damaged_store(trained: Path, tmp_path: Path, count: int) -> None:
    words = "plan STORE --stage gpt --preset tiny --batch-frames 100 --device cpu"
    fuzz_command(main, words, trained.parent / "store", tmp_path / "fuzzed" / "STORE", count)


@pytest.mark.parametrize("count", COMMAND_COUNTS)
@pytest.mark.parametrize("words", ["export STORE --out OUT", "run STORE/../../absent --out STORE --resume"])
def test_commands_on_a_damaged_run(trained: Path, tmp_path: Path, words: str, count: int) -> None:
    fuzz_command(main, words, trained, tmp_path / "fuzzed" / "STORE", count)


MUTATED = (
    *("zarr.json", "parts/00000/zarr.json", "parts/00000/wave/zarr.json", "parts/00000/wave/c/0/0"),
    *("index/zarr.json", "index/bounds/c/0", "index/id/c/0"),
    *("config.json", "metrics.jsonl", "checkpoints/step-00000003.pt"),
)
"""Files of a store and of a run."""


def fuzz_command(command: object, words: str, original: Path, root: Path, count: int) -> None:
    """Mutate a file of a folder, and run a command on a copy of it. Metadata get checksums that hold, now and then.

    Args:
        words: of the command; STORE stands for the copy, OUT for a file beside it.
        original: the folder.
        root: of the copy, in a folder of its own.
        count: of the mutations.
    """
    root.parent.mkdir()
    files = {name: (original / name).read_bytes() for name in MUTATED if (original / name).is_file()}
    arguments = [word.replace("STORE", str(root)).replace("OUT", str(root.parent / "out")) for word in words.split()]

    def attempt(data: bytes) -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(original, root)
        name, content = parted(data, files)
        if name.endswith("zarr.json") and len(data) % 2:
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                content = with_checksum(json.loads(content))
        (root / name).write_bytes(content)
        fenced(command, *arguments)

    fuzz(attempt, named(files), folder=root.parent, count=count, seconds=20.0, memory=2 << 30)
