"""The commands' outermost edge: whatever the environment, the streams and the arguments are, and whatever goes wrong,
there is no traceback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace import store
from headrace.cli.fence import check_environment
from headrace.cli.output import make_table, printable
from headrace.store.errors import StoreError, UsageError
from headrace.store.secrets import mask_secrets
from tests.helpers.commands import build
from tests.helpers.corpus_formats import record, write

NO_UTF8 = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and its store."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("größe", "two", "three"):
        record(folder / "corpus" / "süß" / f"{name}.wav", 16_000)
        write(folder / "corpus" / "süß" / f"{name}.txt", f"Hello {name}")
    write(folder / "corpus" / "süß" / "without.txt", "no audio")
    build(folder / "corpus", folder / "STORE", "--features", "wave")
    return folder


def run(folder: Path, words: str, environment: dict[str, str] | None = None, shell: str = "{}") -> tuple[int, str, str]:
    """Run a command in a process, as a shell with a redirection would. No traceback may appear."""
    command = shell.format(f"{sys.executable} -m headrace.{words}")
    states = {"XDG_STATE_HOME": str(folder / "states")}
    process = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | states | (environment or {}),
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = (text.decode(errors="surrogateescape") for text in (process.stdout, process.stderr))
    assert "Traceback" not in out + err and "Exception ignored" not in err, err
    return process.returncode, out, err


@pytest.mark.parametrize("utterance", ["²", "9" * 5000, "-1", "1.0", "३", "$'\\xff'"])
def test_a_number_that_is_none_is_an_unknown_utterance(made: Path, utterance: str) -> None:
    opened = store.open(made / "STORE")
    name = "\udcff" if utterance.startswith("$") else utterance
    with pytest.raises(StoreError, match="holds no utterance"):
        opened.number_of(name)
    assert opened.number_of("0") == 0 and opened.number_of(str(opened.ids[1])) == 1


def test_threads_of_numba_that_it_cannot_start(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, error = run(made, "store bench STORE", {"NUMBA_NUM_THREADS": "0"})
    assert code == 2 and error.count("\n") == 1 and "NUMBA_NUM_THREADS=0" in error
    for threads in ("x", "-1", "", "²", "99999999"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        with pytest.raises(UsageError, match=f"NUMBA_NUM_THREADS={threads}:"):
            check_environment()


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "0", "LINES": "x", "TERM": "dumb", "NO_COLOR": "1"},
        {"COLUMNS": "²", "FORCE_COLOR": "", "TERM": ""},
        {"TMPDIR": "/nowhere", "HOME": "/nowhere", "MPLBACKEND": "nope", "NUMBA_CACHE_DIR": "/proc/no"},
        {"PYTHONIOENCODING": "ascii:strict", "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "x"},
        NO_UTF8,
    ],
)
def test_settings_of_others_change_nothing(made: Path, environment: dict[str, str]) -> None:
    code, out, error = run(made, "store info STORE", environment)
    assert code == 0 and "3 utterances" in out and not error


def test_any_locale_reads_and_writes_all_names(made: Path) -> None:
    code, out, _ = run(made, "store show STORE süß/größe.wav --out ü.png", NO_UTF8)
    assert code == 0 and out == "ü.png\n" and (made / "ü.png").stat().st_size > 1000


def test_json_is_ascii_where_the_output_is(made: Path) -> None:
    code, out, _ = run(made, "store info STORE --json", {"PYTHONIOENCODING": "ascii"})
    assert code == 0 and "s\\u00fc\\u00df" in out


@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("{} >&-", "store info STORE", (0, "", "")),
        ("{} 2>&-", "store info NONE", (1, "", "")),
        ("{} <&- >&- 2>&-", "store info NONE", (1, "", "")),
        ("{} > /dev/full", "store info STORE", (1, "", "No space left")),
        ("{} > /dev/full", "store info STORE --json", (1, "", "No space left")),
        ("{} > /dev/full", "store --help", (1, "", "No space left")),
        ("{} 2> /dev/full", "store info NONE", (1, "", "")),
        ("set -o pipefail; {} | true", "store info STORE --json", (1, "", "")),
        (
            "ulimit -v 900000; {}",
            "train sample --text hi --semantic 1 --sovits NONE --out x.wav",
            (1, "", "not enough mem"),
        ),
    ],
)
def test_streams_and_limits(made: Path, shell: str, words: str, expected: tuple[int, str, str]) -> None:
    code, out, error = run(made, words, shell=shell)
    assert (code, out) == expected[:2] and expected[2] in error and error.count("\n") == bool(expected[2])


def test_a_file_never_takes_the_number_of_a_closed_stream(made: Path) -> None:
    script = (
        "import os; from headrace.cli.fence import prepare_process; prepare_process(); file = open('data', 'wb');"
        "os.write(1, b'printed'); os.write(2, b'logged'); print('printed', flush=True); file.write(b'data')"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "{script}" <&- >&- 2>&-'], cwd=made, check=True, timeout=60)
    assert (made / "data").read_bytes() == b"data"


def test_messages_do_not_move_the_cursor(made: Path) -> None:
    code, _, error = run(made, "store info $'a\\nb\\x1b[31m\\xff'")
    assert code == 1 and error.startswith("Error: a\\nb\\x1b[31m\\udcff is not") and error.count("\n") == 1


BUG = """
import runpy, sys, threading
from headrace.store import summary
def summarize(store):
    {}
summary.summarize = summarize
sys.argv = ["store", "info", "STORE", "--api-key", "hunter2!"][:3]
sys.orig_argv = sys.argv
runpy.run_module("headrace.store", run_name="__main__")
"""


def run_bug(folder: Path, code: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    script = write(folder / "bug.py", BUG.format(code))
    process = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env=os.environ | {"XDG_STATE_HOME": str(folder / "states")} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in process.stdout + process.stderr and "most recent call" not in process.stderr
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    "code",
    [
        "{}['kéy']",
        "raise AssertionError('first line\\nsecond')",
        "f = lambda: f()\n    f()",
        "raise ExceptionGroup('several', [ValueError(1)])",
        "raise type('Odd', (BaseException,), {})('\\udcff \\x1b[31m')",
    ],
)
def test_a_bug_is_one_line_and_a_private_report(made: Path, code: str) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "abcdefgh", "HF_TOKEN": "tokentoken", "OMP_SCHEDULE": "user:abcdefgh"}
    exit_code, error = run_bug(made, code, secrets)
    assert exit_code == 70 and error.count("\n") == 1 and error.startswith("Error: This is a bug in Headrace: ")
    report = Path(re.search(r"Please report it with (.*)\.$", error)[1])  # type: ignore[index]
    assert report.parent == made / "states" / "headrace"
    assert report.stat().st_mode & 0o777 == 0o600 and report.parent.stat().st_mode & 0o777 == 0o700
    content = report.read_text()
    assert "Traceback" in content and "store info STORE" in content and re.search(r"numpy \d", content)
    assert "OMP_SCHEDULE=user:***" in content and "abcdefgh" not in content and "tokentoken" not in content


def test_a_bug_where_nothing_can_be_written(made: Path) -> None:
    nowhere = {"XDG_STATE_HOME": "/proc/nowhere", "TMPDIR": "/proc/nowhere", "HOME": "/proc/nowhere"}
    code, error = run_bug(made, "import tempfile; tempfile.tempdir = '/proc/nowhere'; {}['key']", nowhere)
    assert code == 70 and error.count("\n") == 1 and "No report could be written" in error


def test_a_bug_in_a_thread_is_a_line_too(made: Path) -> None:
    code, error = run_bug(
        made, "t = threading.Thread(target=lambda: {}['key']); t.start(); t.join(); raise SystemExit(5)"
    )
    assert code == 5 and error.count("\n") == 1 and "KeyError" in error


def test_ctrl_c_stays_one_line(made: Path) -> None:
    script = write(made / "bug.py", BUG.format("print('ready', flush=True); import time; time.sleep(60)"))
    with subprocess.Popen(
        [sys.executable, script], cwd=made, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and error.startswith("Error: Interrupted.") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (
            "featurize scan s3://b --scheduler tls://me:pass@host:1",
            "featurize scan s3://b --scheduler tls://***@host:1",
        ),
        ("--api-key abc --out x", "--api-key *** --out x"),
        ("--auth-token=abc x", "--auth-token=*** x"),
        ("{'aws_secret_access_key': 'abc', 'a': 1}", "{'aws_secret_access_key': *** 'a': 1}"),
        ("https://host/x?X-Amz-Signature=abc&y=1", "https://host/x?X-Amz-Signature=***"),
        ("semantic tokens of 25 Hz", "semantic tokens of 25 Hz"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_names_from_a_store_do_not_move_the_cursor(made: Path) -> None:
    table = make_table()
    table.add_row("speaker", "anna\x1b[2J\u202e")
    assert [list(column.cells) for column in table.columns] == [["speaker"], ["anna\\x1b[2J\\u202e"]]
    assert printable("größe 你好 😀") == "größe 你好 😀"
