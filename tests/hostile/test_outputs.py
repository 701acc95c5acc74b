"""What commands write outside stores: two at once, full disks, kills, and places that hold something else."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import pytest
from click import Group

from headrace.cli.featurize import main as featurize
from headrace.cli.store import main
from headrace.cli.train import main as train
from headrace.featurize.exchange import export_gpt_sovits, export_lhotse, export_textgrid
from headrace.featurize.report import write_report
from headrace.featurize.report.utterance_plot import draw_utterance
from headrace.store.errors import HeadraceError, StoreError, UsageError
from headrace.store.reader import Store
from headrace.store.storage.output_files import check_output_file, output_file, output_folder
from tests.helpers import training_store
from tests.helpers.commands import call

EXPORTS = {
    "gpt-sovits": export_gpt_sovits.export_directory,
    "lhotse": export_lhotse.export_cuts,
    "textgrid": export_textgrid.export_textgrids,
}
FRAMES = (20, 24, 30, 33)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return training_store.build(tmp_path_factory.mktemp("store") / "STORE", FRAMES)


@pytest.mark.parametrize("form", EXPORTS)
def test_a_second_export_into_one_place_is_refused_and_the_first_is_whole(
    corpus: Store, tmp_path: Path, form: str
) -> None:
    EXPORTS[form](corpus, tmp_path / "alone", lambda done: None)
    refused = []

    def again(done: int) -> None:
        if done == 2:
            result = call(main, "export", corpus.path, "--to", form, "--out", tmp_path / "out")
            refused.append((result.exit_code, result.stderr))

    EXPORTS[form](corpus, tmp_path / "out", again)
    assert refused == [(1, f"Error: Another command is writing {tmp_path / 'out'}: wait until it is done.\n")]
    assert names(tmp_path / "out") == {name.replace("alone", "out") for name in names(tmp_path / "alone")}
    assert sorted(os.listdir(tmp_path)) == ["alone", "out"]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_of_many_exports_at_once_exactly_one_succeeds(corpus: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.store", "export", corpus.path, "--to", "textgrid", "--out", "out"]
    started = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert [code for _, code in ends].count(0) == 1
    assert all("is writing" in line or "is there already" in line for line, code in ends if code)
    assert len(list((tmp_path / "out").rglob("*.TextGrid"))) == len(FRAMES) and os.listdir(tmp_path) == ["out"]


def test_locks_that_come_and_go_never_let_two_in(tmp_path: Path) -> None:
    inside, most, entered = [0], [0], [0]

    def write() -> None:
        for _ in range(60):
            try:
                with output_file(tmp_path / "x") as draft:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    draft.write_text("x")
                    inside[0] -= 1
                entered[0] += 1
            except StoreError as error:
                assert "Another command" in error.message

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(write) for _ in range(6)]:
            future.result()
    assert most == [1] and entered[0] > 0 and os.listdir(tmp_path) == ["x"]


def test_a_folder_that_comes_and_goes_while_it_is_locked_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([FileExistsError(17, "File exists"), FileNotFoundError(2, "No such file")])
    acquire = filelock.FileLock.acquire

    def acquired(lock: filelock.FileLock) -> Any:
        for fault in faults:
            raise fault
        return acquire(lock)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquired)
    with output_file(tmp_path / "x") as draft:
        draft.write_text("x")
    assert os.listdir(tmp_path) == ["x"] and not list(faults)


def test_what_a_killed_command_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from headrace.store.storage.output_files import output_folder
with output_folder(Path({str(tmp_path / "out")!r})) as draft:
    (draft / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    work = tmp_path / ".out.unfinished"
    assert not (tmp_path / "out").exists() and list(work.glob("draft-*/half"))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (work / f"draft-{'0' * 32}").symlink_to(tmp_path / "precious")
    (work / "draft-mine").mkdir()
    with output_folder(tmp_path / "out") as draft:
        (draft / "whole").touch()
    assert os.listdir(tmp_path / "out") == ["whole"] and (tmp_path / "precious" / "file").exists()
    assert sorted(os.listdir(work)) == [f"draft-{'0' * 32}", "draft-mine"]


def test_a_link_in_the_place_of_drafts_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim" / f"draft-{'0' * 32}"
    victim.mkdir(parents=True)
    (tmp_path / ".out.unfinished").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="is a link"), output_folder(tmp_path / "out"):
        pass
    assert victim.is_dir()


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("there", ["file", "folder", "mount", "here", "parts", "root"])
def test_nothing_that_is_there_is_overwritten(
    corpus: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, there: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    root = corpus.path
    assert isinstance(root, Path)
    out = {"file": tmp_path / "file", "folder": tmp_path / "folder", "mount": Path("/proc"), "here": Path()}
    out |= {"parts": root / "parts" / "00007", "root": root}
    done = call(main, "export", root, "--to", form, "--out", out[there])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "file").exists() and (tmp_path / "folder" / "deep").exists()


def test_an_empty_folder_may_be_a_link(corpus: Store, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert call(main, "export", corpus.path, "--to", "textgrid", "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out").is_symlink() and len(list((tmp_path / "disk").iterdir())) == len(FRAMES)


WRITERS = {
    "report": lambda corpus, file: write_report(corpus, file, max_mos=0),
    "plot": lambda corpus, file: draw_utterance(corpus, 0, file.with_suffix(".png")),
    "samples": lambda corpus, file: write_sample(file),
    "weights": lambda corpus, file: write_weights(file),
    "chart": lambda corpus, file: draw_chart(file),
}


def write_sample(file: Path) -> None:
    import numpy as np

    from headrace.train.models.wave_output import write_wave

    write_wave(file, np.zeros(32_000, np.float32), 32_000)


def write_weights(file: Path) -> None:
    import torch

    from headrace.train.checkpoints import upstream_files

    upstream_files.write(file, {"a": torch.zeros(50_000)}, {}, "")


def test_weights_that_two_commands_write_at_once_are_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from headrace.train.checkpoints import upstream_files

    file, save, refused = tmp_path / "voice.pth", torch.save, []

    def save_twice(content: object, draft: object) -> None:
        monkeypatch.setattr(torch, "save", save)
        try:
            upstream_files.write(file, {"a": torch.zeros(3)}, {}, "second")
        except HeadraceError as error:
            refused.append(error.message)
        save(content, draft)

    monkeypatch.setattr(torch, "save", save_twice)
    upstream_files.write(file, {"a": torch.ones(3)}, {}, "first")
    assert refused == [f"Another command is writing {file}: wait until it is done."]
    assert upstream_files.read(file).info == "first" and os.listdir(tmp_path) == [file.name]


def draw_chart(file: Path) -> None:
    from headrace.train.measure.charts import draw_rates

    rates = {"gb_per_s": 1.0}
    draw_rates({"warm": rates, "cold": None, "utterances": 1, "features": ["wave"], "copy_gb_per_s": 2.0}, file)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 4 kB, as on a disk that is full after that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_the_last_file(corpus: Store, tmp_path: Path, writer: str) -> None:
    file = tmp_path / ("x.png" if writer == "plot" else "x")
    file.write_text("the last one")
    with pytest.raises((HeadraceError, OSError)) as caught:
        WRITERS[writer](corpus, file)
    assert file.read_bytes() == b"the last one" and os.listdir(tmp_path) == [file.name]
    assert isinstance(caught.value, HeadraceError)
    assert "\n" not in caught.value.message and str(file) in caught.value.message


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.usefixtures("small_files")
def test_a_full_disk_leaves_no_half_export(corpus: Store, tmp_path: Path, form: str) -> None:
    if form == "textgrid":  # its files are smaller
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    done = call(main, "export", corpus.path, "--to", form, "--out", tmp_path / "out")
    assert done.exit_code == 1 and "Cannot write" in done.stderr and not os.listdir(tmp_path)


def test_files_keep_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    with output_file(tmp_path / "link") as draft:
        draft.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    with pytest.raises(UsageError, match="is a folder"), output_file(tmp_path):
        pass


def test_devices_and_pipes_are_written_to_not_replaced(corpus: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    with output_file(tmp_path / "pipe") as draft:
        draft.write_bytes(b"page")
    reader.join(10)
    assert read == [b"page"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["zarr.json", "parts/00000/x.html", "index/x.html"])
def test_no_output_damages_a_store(corpus: Store, name: str) -> None:
    root = corpus.path
    assert isinstance(root, Path)
    before = (root / "zarr.json").read_bytes()
    done = call(main, "report", root, "--mos", 0, "--out", root / name)
    assert done.exit_code == 2 and "would damage the store" in done.stderr
    assert (root / "zarr.json").read_bytes() == before


def test_an_incomplete_store_is_not_exported_by_mistake(tmp_path: Path) -> None:
    corpus = training_store.build(tmp_path / "S", FRAMES)
    shutil.rmtree(tmp_path / "S" / "parts" / "00001")
    shutil.rmtree(tmp_path / "S" / "index")
    del corpus
    for form in EXPORTS:
        done = call(main, "export", tmp_path / "S", "--to", form, "--out", tmp_path / form)
        assert done.exit_code == 1 and "is not complete: run featurize build again" in done.stderr
        assert "1 of 2 parts" in done.stderr and not (tmp_path / form).exists()
        done = call(main, "export", tmp_path / "S", "--to", form, "--out", tmp_path / form, "--incomplete")
        assert done.exit_code == 0 and "2 utterances" in done.stdout and "1 of its 2 parts" in done.stderr
    done = call(main, "report", tmp_path / "S", "--mos", 0, "--out", tmp_path / "r.html", "--json")
    assert not json.loads(done.stdout)["complete"] and "1 of its 2 parts" in done.stderr
    assert "build of this store is not finished" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_everything_is_flushed_before_it_appears(corpus: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.store", "export", str(corpus.path), "--to", "gpt-sovits", "--out", "out"]
    trace = ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", "trace", *command]
    subprocess.run(trace, cwd=tmp_path, check=True, capture_output=True)
    lines = [line for line in (tmp_path / "trace").read_text().splitlines() if str(tmp_path) in line]
    appears = next(n for n, line in enumerate(lines) if "rename" in line and f'"{tmp_path}/out"' in line)
    flushed = "\n".join(line for line in lines[:appears] if "fsync" in line)
    for name in names(tmp_path / "out"):
        assert f"/{name}>" in flushed, name
    assert any("fsync" in line and f"<{tmp_path}>" in line for line in lines[appears + 1 :])


LONG_WORK: dict[str, tuple[Group, tuple[str, ...], str]] = {
    "store bench": (main, ("{store}", "--png", "{out}"), "headrace.train.measure.throughput.bench"),
    "store report": (main, ("{store}", "--out", "{out}"), "headrace.featurize.report.report.compute_statistics"),
    "store export": (main, ("{store}", "--to", "textgrid", "--out", "{out}"), "headrace.store.reader.Store.read"),
    "train bench": (train, ("{store}", "--png", "{out}"), "headrace.train.measure.bottleneck.bench"),
    "train sample": (
        train,
        ("--text", "x", "--sovits", "{store}", "--out", "{out}"),
        "headrace.train.inference.synthesis.synthesize_speech",
    ),
    "featurize build": (featurize, ("{store}", "--out", "{out}"), "headrace.featurize.pipeline.build.scan"),
}
"""Commands, their arguments, and the function that takes long."""


@pytest.mark.parametrize("fault", ["in a file", "read-only"])
@pytest.mark.parametrize("name", LONG_WORK)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    corpus: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str
) -> None:
    command, arguments, work = LONG_WORK[name]
    begun: list[str] = []
    monkeypatch.setattr(work, lambda *_, **__: begun.append(work) or pytest.fail("the work is begun"))
    out, there = tmp_path / "there" / "x.out", tmp_path / "there"
    if fault == "in a file":
        there.touch()
    elif name in ("store export", "featurize build"):
        there.mkdir()
        monkeypatch.setattr(
            os, "access", lambda path, mode: not mode & os.W_OK or Path(path) != there
        )  # root may write everywhere
        monkeypatch.setattr(os, "mkdir", deny)
    else:
        there.mkdir()
        out.touch()
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK or Path(path) != out)
    words = [word.format(store=corpus.path, out=out) for word in arguments]
    done = call(command, name.split()[1], *words)
    assert (done.exit_code, begun) == (1, []), done.output
    assert done.stderr.splitlines()[-1].startswith(f"Error: Cannot write {out}: "), done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) in (["there"], ["there", "x.out"])


def deny(path: object, *_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_device_that_may_not_be_written_to_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_output_file(tmp_path / "pipe")  # nobody reads it, and it is not opened
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for refuse in (check_output_file, lambda file: output_file(file).__enter__()):
        with pytest.raises(StoreError, match="Permission denied"):
            refuse(tmp_path / "pipe")


ODD_FILES = ("/proc/x.png", "/proc/self/x.png", "/proc/version", "/proc/self/fd/99", "/sys/x.png", "/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there are no such file systems")
@pytest.mark.parametrize("out", ODD_FILES)
def test_where_no_file_can_be_made_it_is_told_at_once(out: str) -> None:
    with pytest.raises(StoreError, match=f"^(Cannot write|No space left on the device while writing) {out}"):  # noqa: SIM117
        with output_file(Path(out)) as draft:
            draft.write_text("x")
    if out != "/dev/full":
        with pytest.raises((StoreError, UsageError)), output_folder(Path(out)) as folder:
            (folder / "x").write_text("x")


def test_a_file_needs_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "absent" / "x.wav"
    with pytest.raises(StoreError, match=f"Cannot write {file}: No such file or directory"), output_file(file):
        pass
    assert not os.listdir(tmp_path)
