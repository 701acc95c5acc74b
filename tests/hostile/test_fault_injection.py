"""A call that writes fails, or the process ends at it.

Nothing half counts as whole then, nothing else is lost, and the repeated command ends well.

It needs a C compiler, and Linux.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.faults import injection
from tests.hostile.faults.scenarios import SCENARIOS

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD is a Linux mechanism"),
    pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler"),
]
ROOT = Path(__file__).parents[2]


def test_faults_in_every_command(tmp_path: Path) -> None:
    lines = faults(tmp_path, 2, *SCENARIOS)
    assert {line["scenario"] for line in lines} == set(SCENARIOS)


@pytest.mark.soak
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_fault_in(scenario: str, tmp_path: Path) -> None:
    calls, *trials = faults(tmp_path, 0, scenario)
    assert len(trials) == calls["calls"]


def faults(folder: Path, count: int, *scenarios: str) -> list[dict[str, Any]]:
    """Inject faults, assert that they happened and did no harm, and return the lines about them."""
    command = [sys.executable, "-m", "tests.hostile.faults.scenarios", str(folder / "work"), str(count), *scenarios]
    environment = injection.environment(folder)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    print(*lines, sep="\n")
    problems = [line for line in lines if line.get("problem")]
    assert not problems, "\n".join("{scenario}: {error} at {number}, {call}: {problem}".format(**p) for p in problems)
    assert done.returncode == 0, done.stderr
    assert all(line["call"] for line in lines if "error" in line), "a fault did not happen"
    return lines
