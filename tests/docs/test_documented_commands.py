"""Every fenced command of README and docs is run as a user would type it, or says why not.

One folder holds what the quickstart leaves: `corpus/`, `STORE`, and the runs of its two stages as `VOICE` and `TEXT`.
Each other page works on a copy and runs its blocks in order. `tests/helpers/documentation.py` explains the comments in
the pages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers import documentation
from tests.helpers.documentation import ROOT, Block

PAGES = documentation.pages()
EXAMPLES = [
    page
    for page in PAGES
    if any(block.language in documentation.RUN and not block.reason for block in documentation.blocks(page))
]

LONG = ("docs/tuning.md", "docs/distillation-and-pruning.md")
"""Pages whose commands train a dozen runs, and are in the soak."""
QUICKSTART = "docs/quickstart.md"
"""Its commands are run first: the other pages begin with what it leaves."""


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_known_language(page: str) -> None:
    for block in documentation.blocks(page):
        assert block.language in documentation.LANGUAGES, f"{block}: tag the block as one of {documentation.LANGUAGES}"
    assert documentation.read(page).count("\n```") % 2 == 0, f"{page}: a fence is not closed"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_and_checked_or_has_a_reason(page: str) -> None:
    for block in documentation.blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language not in documentation.RUN:
            assert block.reason is None, f"{block}: a {block.language} block is never run"
        elif block.reason is None:
            assert block.makes or block.prints, f"{block}: say what it makes or prints, or why it is not run"
        else:
            assert len(block.reason.split()) >= 2, f"{block}: the reason is too short: {block.reason!r}"


@pytest.mark.parametrize("page", PAGES)
def test_every_sh_block_is_valid_shell_and_every_python_block_valid_python(page: str) -> None:
    for block in documentation.blocks(page):
        if block.language == "sh":
            done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, f"{block}: {done.stderr}"
        elif block.language == "python":
            compile(block.text, str(block), "exec")


def test_most_commands_are_run() -> None:
    commands = [b for page in PAGES for b in documentation.blocks(page) if b.language in documentation.RUN]
    reasons = [f"{block}: {block.reason}" for block in commands if block.reason]
    print(f"{len(commands) - len(reasons)} of {len(commands)} blocks are run; not run are", *reasons, sep="\n  ")
    assert len(reasons) <= len(commands) / 2


@pytest.fixture
def _one_core() -> Iterator[None]:
    """Give each of several test processes a core of its own, so that a build starts one worker and not one per core."""
    process = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not process or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[int(process) % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the quickstart leaves, made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own in that of the session
    folder, problem = base / "documentation", base / "documentation-problem"
    with FileLock(base / "documentation.lock"):
        if not problem.exists():
            folder.mkdir()
            problem.write_text(_problem_of_quickstart(folder), encoding="utf-8")
    assert not problem.read_text(encoding="utf-8"), problem.read_text(encoding="utf-8")
    return folder


def _problem_of_quickstart(folder: Path) -> str:
    """Run the commands of the quickstart, and leave what other pages need. Returns what is wrong, or nothing."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        try:
            check_page(QUICKSTART, Path(work))
        except AssertionError as error:
            return str(error)
        left = {"corpus": "corpus", "STORE": "STORE", "VOICE/sovits": "VOICE", "VOICE/gpt": "TEXT"}
        for made, name in left.items():
            Path(work, made).rename(folder / name)
    return ""


@pytest.mark.slow
@pytest.mark.usefixtures("_one_core")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.soak) if page in LONG else page for page in EXAMPLES]
)
def test_the_commands_of(page: str, prepared: Path, tmp_path: Path) -> None:
    if page == QUICKSTART:
        return  # it has been run, and checked, for all
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    for name in documentation.starts_without(page):
        shutil.rmtree(folder / name)
    check_page(page, folder)


def check_page(page: str, folder: Path) -> None:
    """Run the blocks of a page in a folder, and check what it promises of them."""
    for block in documentation.blocks(page):
        if "file" in block.directives:
            (folder / block.directives["file"]).write_text(block.text, encoding="utf-8")
        if block.language in documentation.RUN and not block.reason:
            check(block, folder)


def check(block: Block, folder: Path) -> None:
    """Run a block, and check what the page promises of it."""
    done = execute(block.language, block.text, folder)
    assert done.returncode == 0, f"{block} exited with {done.returncode}:\n{done.stdout}"
    printed = " ".join(done.stdout.split())  # columns of a table are as wide as their words
    for text in block.prints:
        assert text in printed, f"{block} does not print {text!r}:\n{done.stdout}"
    for name in block.makes:
        path = folder / name
        assert path.exists(), f"{block} does not make {name}:\n{done.stdout}"
        assert any(path.iterdir()) if path.is_dir() else path.stat().st_size, f"{block} leaves {name} empty"


def execute(language: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block in a fresh process, with the console scripts of this environment on PATH."""
    command = ["bash", "-e", "-o", "pipefail", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    return subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _environment() -> dict[str, str]:
    """Return this environment, with its scripts first on PATH and the benchmarks of the checkout importable."""
    scripts = str(Path(sys.executable).parent)
    python_path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    return os.environ | {
        "PATH": os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(python_path),
        "MPLBACKEND": "agg",
        "COLUMNS": "120",
    }
