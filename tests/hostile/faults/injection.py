"""Fault injection: a command is run again and again, and each time another of its calls that write fails.

`injection.c` is compiled into a library that LD_PRELOAD puts before the C library. It counts the system calls
that change files under one folder, in all processes of the command. The call with a given number fails with an errno,
or kills its process. A call that writes data and fails writes the first half of it.

The process that LD_PRELOAD is set for imports what commands need once, and forks for each trial.
"""

from __future__ import annotations

import ctypes
import errno
import filecmp
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.fuzzing import snapshot

SOURCE = Path(__file__).with_suffix(".c")
KILL = 0
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EACCES": errno.EACCES, "KILL": KILL}
SECONDS = 120
"""After which a trial counts as hanging."""


class Control(ctypes.Structure):
    """What the library shares with the process that directs it; injection.c explains the fields."""

    _fields_ = (
        ("armed", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("target", ctypes.c_int64),
        ("error", ctypes.c_int64),
        ("folder", ctypes.c_char * 4096),
        ("call", ctypes.c_char * 4096),
    )


def environment(folder: Path) -> dict[str, str]:
    """Compile the library in `folder`, and return the environment of a process whose calls it counts."""
    library, control = folder / "injection.so", folder / "control"
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(["cc", *flags], check=True, timeout=60)
    control.write_bytes(bytes(ctypes.sizeof(Control)))
    return os.environ | {"LD_PRELOAD": str(library), "FAULT_CONTROL": str(control), "OMP_NUM_THREADS": "1"}


def control() -> Control:
    """Map the control of this process, which `environment` was made for."""
    with open(os.environ["FAULT_CONTROL"], "r+b") as file:
        return Control.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Control)))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A command, and what must hold after it failed."""

    prepare: Callable[[Path], None]
    """Makes `inputs`, which the command only reads, and what else it needs, in a folder."""
    command: Callable[[Path], int]
    """Runs the command in that folder and returns its exit code."""
    check: Callable[[Path], None]
    """Raises if something half is taken as whole, after a run that failed."""
    result: Callable[[Path], object]
    """Returns what a run that ended well leaves, without what differs from run to run."""


@dataclass(frozen=True)
class Fault:
    """A failure of the call with this number."""

    number: int
    error: str


def injected(scenario: Scenario, folder: Path, faults: Callable[[int], Sequence[Fault]]) -> Iterator[dict[str, object]]:
    """Run a command once undisturbed, and then for each fault; yield what went wrong, or None, for each.

    Args:
        faults: chooses the faults, given the number of calls of the undisturbed run.
    """
    shared = control()
    pristine, whole, trial = (folder / "trees" / name for name in ("pristine", "whole", "trial"))
    pristine.mkdir(parents=True)
    log = folder / "log"
    assert _forked(lambda: scenario.prepare(pristine), log) == 0, log.read_text()
    shutil.copytree(pristine, whole, symlinks=True)
    with _armed(shared, whole, Fault(0, "KILL")):
        code = _forked(lambda: scenario.command(whole), log)
    assert code == 0, log.read_text()
    calls, expected = int(shared.count), scenario.result(whole)
    yield {"calls": calls}
    for fault in faults(calls):
        shutil.copytree(pristine, trial, symlinks=True)
        problem = _trial(scenario, trial, shared, fault, expected, log)
        call = shared.call.decode(errors="replace").replace(str(trial), "")
        yield {"number": fault.number, "error": fault.error, "call": call, "problem": problem}
        shutil.rmtree(trial)


def _trial(scenario: Scenario, trial: Path, shared: Control, fault: Fault, expected: object, log: Path) -> str | None:
    """Run a command with one fault, and again without; return what is wrong."""
    around = snapshot(trial.parent, trial)
    inputs = trial.parent / "pristine" / "inputs"
    with _armed(shared, trial, fault):
        code = _forked(lambda: scenario.command(trial), log)
    said = log.read_text(errors="replace")
    ends = (-signal.SIGKILL, 0, 1) if fault.error == "KILL" else (0, 1)  # a worker that is killed is replaced
    if code not in ends:
        return f"it ends with {code}: {said}"
    if "Traceback" in said or ("report" in said and "bug" in said):
        return f"it has a traceback: {said}"
    if code == 1 and "Error: " not in said:
        return f"it fails without a word: {said}"
    if inputs.exists() and _differs(filecmp.dircmp(inputs, trial / "inputs")):
        return "it changed its inputs"
    if _forked(lambda: scenario.check(trial), log):
        return f"something half is taken as whole: {log.read_text(errors='replace')}"
    failed = _forked(lambda: scenario.command(trial), log)
    left = scenario.result(trial)
    if failed and not (left == expected and "is there already" in log.read_text()):  # killed when all was done
        return f"run again, it fails: {log.read_text(errors='replace')}"
    if left != expected:
        return f"run again, it leaves {_difference(left, expected)}"
    return None if snapshot(trial.parent, trial) == around else "it changed files beside its folder"


@contextmanager
def _armed(shared: Control, folder: Path, fault: Fault) -> Iterator[None]:
    shared.folder, shared.call = os.fsencode(folder), b""
    shared.count, shared.target, shared.error = 0, fault.number, ERRORS[fault.error]
    shared.armed = 1
    yield
    shared.armed = 0


def _forked(work: Callable[[], object], log: Path) -> int:
    """Run in a forked process, with a session of its own; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(SECONDS)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 99
        try:
            code = int(work() or 0)
        except BaseException:  # noqa: BLE001 (it is for the log)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it started, and a kill left behind
    return os.waitstatus_to_exitcode(status)


def _differs(comparison: filecmp.dircmp[str]) -> bool:
    """Return whether two trees differ in names or contents."""
    _, changed, odd = filecmp.cmpfiles(comparison.left, comparison.right, comparison.common_files, shallow=False)
    names = comparison.left_only + comparison.right_only + comparison.funny_files + changed + odd
    return bool(names) or any(_differs(below) for below in comparison.subdirs.values())


def _difference(left: object, expected: object) -> str:
    if isinstance(left, dict) and isinstance(expected, dict):
        names = [name for name in left.keys() | expected.keys() if left.get(name) != expected.get(name)]
        return f"other {sorted(map(str, names))[:8]}"
    return f"{left!r:.500}, not {expected!r:.500}"


def every(calls: int) -> list[Fault]:
    """Return a fault of every call, of one error after the other."""
    return [Fault(number, ("ENOSPC", "KILL", "EIO")[number % 3]) for number in range(1, calls + 1)]


def some(calls: int, count: int, seed: int = 0) -> list[Fault]:
    """Return `count` faults, spread over the calls, with the last call among them."""
    chance = random.Random(seed)
    numbers = [1 + (calls - 1) * n // max(1, count - 1) for n in range(count)]
    return [Fault(number, chance.choice(["ENOSPC", "KILL", "EIO"])) for number in numbers]
