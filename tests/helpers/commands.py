"""The commands, run inside the test's process: quick, and open to the debugger."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from click.testing import CliRunner, Result
from distributed import LocalCluster

from headrace.cli.featurize import main as featurize
from headrace.cli.output import report_error
from headrace.store.storage import StoragePath


@cache
def scheduler() -> str:
    """Address of a Dask cluster with one worker, a thread of this process. Ends with it."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it ends after the streams that pytest captures
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    return str(cluster.scheduler_address)


def call(command: object, *words: object) -> Result:
    """A traceback fails the test."""
    result = CliRunner().invoke(command, [str(word) for word in words])  # type: ignore[arg-type]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def fenced(command: object, *words: object) -> int:
    """Run a command and return its exit code. What its fence would report as a bug is raised."""
    result = CliRunner().invoke(command, [str(word) for word in words])  # type: ignore[arg-type]
    error = result.exception
    if error is not None and not isinstance(error, SystemExit) and not report_error(error):
        raise error
    return result.exit_code


def build(corpus: Path, out: Path, *words: object) -> Result:
    """Go on however much is rejected: of small corpora with faults that is often most of it."""
    options = ("--scheduler", scheduler(), "--max-rejects", 100)
    return call(featurize, "build", corpus, "--out", out, *options, *words)


def add(root: StoragePath, features: str, *words: object) -> Result:
    return call(featurize, "add", root, features, "--scheduler", scheduler(), *words)


def part_bytes(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted((root / "parts").rglob("*")) if p.is_file()}
