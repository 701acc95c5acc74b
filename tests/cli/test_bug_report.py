"""Reports of bugs, and the fence that writes them, within this process."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path

import pytest

from headrace.cli import bug_report, fence
from headrace.cli.bug_report import write_bug_report
from headrace.store.errors import UsageError


def report(error: BaseException) -> tuple[Path, str]:
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever it is
        file = write_bug_report(raised)
    return file, file.read_text()


@pytest.mark.skipif(os.name == "nt", reason="Windows has another folder for states, and no modes of files")
def test_a_report_lies_in_the_folder_for_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "elsewhere"))  # counts on Windows alone
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = tmp_path / "home" / ".local" / "state" / "headrace"
    for given, folder in (("", own), ("here", own), (str(tmp_path / "s"), tmp_path / "s" / "headrace")):
        monkeypatch.setenv("XDG_STATE_HOME", given)
        for _ in range(2):
            file, _ = report(KeyError("x"))
            assert file.parent == folder and re.fullmatch(r"bug-\d{8}-\d{6}-\w+\.txt", file.name)
            assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    monkeypatch.delenv("XDG_STATE_HOME")
    assert report(KeyError("x"))[0].parent == own
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert report(KeyError("x"))[0].parent == tmp_path


def test_a_report_says_what_ran_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(bug_report, "LIBRARIES", ("numpy", "no-such-library"))
    monkeypatch.setattr("sys.argv", ["store", "info", "--api-key", "hunter2!"])
    shown = {
        "OMP_SCHEDULE": "a",
        "LC_ALL": "b",
        "LANG": "c",
        "CUDA_VISIBLE_DEVICES": "d",
        "PYTHONPATH": "e",
        "TERM": "f",
    }
    hidden = {"MY_LANG": "g", "LANGUAGE": "h", "XOMP_X": "i", "COLUMNS2": "j", "AWS_REGION": "k", "omp_x": "l"}
    for name, value in (shown | hidden).items():
        monkeypatch.setenv(name, value)
    _, content = report(ValueError("bad \udcff"))
    lines = content.splitlines()
    assert all(f"{name}={value}" in lines for name, value in shown.items())
    assert not any(line.startswith(f"{name}=") for line in lines for name in hidden)
    assert "no-such-library is not installed" in lines and any(
        re.fullmatch(r"numpy \d+\.\d+\S*", line) for line in lines
    )
    assert "hunter2!" not in content and "store info --api-key ***" in lines
    assert lines[-1] == "ValueError: bad \\udcff" and "Traceback (most recent call last):" in lines
    assert "Python 3" in lines[0] and lines.index("") == 3, "the machine, two libraries, and the command after them"


@pytest.mark.parametrize(
    ("text", "positive"),
    [("1", True), ("999999", True), ("010", True)]
    + [(text, False) for text in ("0", "000", "", "-1", "+1", "1000000", "²", "३", "1.0", " 1")],
)  # fmt: skip
def test_a_number_of_threads_is_a_positive_number(text: str, positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", text)
    if positive:
        fence.check_environment()
        return
    with pytest.raises(UsageError, match=f"NUMBA_NUM_THREADS={re.escape(text)}: set it to a number"):
        fence.check_environment()


def test_without_a_number_of_threads_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    fence.check_environment()


def test_a_bug_is_told_in_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert fence.report_bug(ValueError("x" * 199 + "yz\nsecond")) == fence.BUG_EXIT == 70
    error = " ".join(capsys.readouterr().err.split())
    assert "ValueError: " + "x" * 199 + "y. Please report it with" in error and "second" not in error
    assert fence.report_bug(KeyError()) == 70
    assert "Headrace: KeyError: . Please report" in " ".join(capsys.readouterr().err.split())


def test_what_a_thread_raises_is_told_unless_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(fence, "report_bug", told.append)
    writer = type("Writer", (threading.Thread,), {"__module__": "tensorboard.summary"})()
    other = type("Writer", (threading.Thread,), {"__module__": "tensorboardlike"})()
    bug, full, end = ValueError(), OSError(), SystemExit()

    def raised(error: BaseException | None, thread: threading.Thread | None) -> list[BaseException]:
        told.clear()
        kind = type(error) if error is not None else ValueError
        fence._report_in_thread(threading.ExceptHookArgs((kind, error, None, thread)))
        return list(told)

    assert raised(bug, None) == raised(bug, writer) == raised(bug, other) == [bug]
    assert raised(full, other) == raised(full, None) == [full] and raised(full, writer) == []
    assert raised(end, None) == raised(None, None) == []


def test_an_unhandled_error_is_a_bug_only_if_nothing_else_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(fence, "report_bug", told.append)
    known, bug = UsageError("known"), KeyError("bug")
    for error in (known, bug):
        fence._report_unhandled(type(error), error, None)
    assert told == [bug]


def test_a_reader_that_has_gone_is_the_exit_code_of_what_is_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, whole in ((os.devnull, True), ("/dev/full", False)):
        if not os.path.exists(target):
            pytest.skip("there is no device that is always full")
        with open(target, "w") as out, open(os.devnull, "w") as err:
            monkeypatch.setattr("sys.stdout", out)
            monkeypatch.setattr("sys.stderr", err)
            out.write("x")
            assert (fence._flush() == 0) is whole
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        monkeypatch.undo()
