"""Starts the processes of a run on one machine, and starts them again after a failure; and what the processes of a run
tell the launcher that started them.

Variables and files are those of torchrun, so a process need not know which of both started it. No torch is loaded here:
the launcher itself is there at once, and takes no memory of a device.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headrace.store.errors import HeadraceError
from headrace.store.storage.local import atomic_file
from headrace.store.storage.temporary import temporary_folder

FRUITLESS_STARTS = 3
"""Starts in a row that may fail without progress; after the last one the launcher gives up."""
GRACE_S = 10.0
"""Seconds that processes have to end by themselves after one of them has failed: they cannot go on without it."""
POLL_S = 0.1
_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def launched_elastically() -> bool:
    """Return whether a launcher started this process that starts processes again, as torchrun and `launch` do."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_launcher() -> None:
    """Let Linux send SIGTERM to this process when its launcher is killed, so that it does not train on alone."""
    if launched_elastically() and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGTERM), 0, 0, 0)


@contextmanager
def refusals() -> Iterator[None]:
    """Tell the launcher of an error in this context that would come again, whatever is started again."""
    try:
        yield
    except HeadraceError as error:
        if not error.restart_helps:
            refuse(error.exit_code, error.message)
        raise


def refuse(code: int, message: str = "") -> None:
    """Tell the launcher, if there is one, that this process would end with this exit code whenever it is started.

    torchrun starts every process again that failed; one that finds such a note ends at once (`refusal`).
    """
    note = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}, "refused": code}
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(OSError, HeadraceError), atomic_file(Path(file)) as target:
            target.write(json.dumps(note).encode())


def refusal() -> int:
    """Return the exit code that an earlier start of a process of this launcher has noted, 0 if none has."""
    above = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).parents
    return _refusal_in(above[2]) if len(above) > 2 and launched_elastically() else 0


def _refusal_in(folder: Path) -> int:
    """Return the exit code of a refusal below FOLDER/attempt_N/LOCAL_RANK/error.json, as torchrun names them."""
    for path in sorted(folder.glob("attempt_*/*/error.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(path.read_bytes())["refused"])
    return 0


def launch(command: Sequence[str], processes: int, progress: Callable[[], object], log: Callable[[str], None]) -> int:
    """Run a command in several processes that train together, until they are done.

    When one fails, all are started again, and continue from the newest checkpoint. SIGINT and SIGTERM are passed on to
    the processes, which save a checkpoint; nothing is started again after that.

    Args:
        command: program and arguments.
        progress: returns what differs once something was saved.
        log: receives a message for the user.
    Returns:
        The exit code: 0, that of a refusal, or that of the process that failed.
    """
    with temporary_folder() as notes, _Signals() as signals:
        fruitless = attempt = 0
        while True:
            before = progress()
            group = _Group(command, processes, notes / f"attempt_{attempt}", attempt)
            code, cause = group.wait(signals)
            code = _refusal_in(notes) or code
            if not code or signals.caught or _refusal_in(notes):
                return code
            fruitless = 0 if progress() != before else fruitless + 1
            if fruitless == FRUITLESS_STARTS:
                log(f"{cause}: {fruitless} starts in a row have saved nothing, giving up")
                return code
            log(f"{cause}: all processes are started again and continue from the newest checkpoint")
            attempt += 1


class _Signals:
    """Passes SIGINT and SIGTERM on to the processes of a group while the context lasts; the third one kills them."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._waiting: deque[int] = deque()
        """Signals that came before there were processes to receive them."""
        self._receivers: Sequence[subprocess.Popen[bytes]] = ()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def send_to(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Pass signals on to these processes from now on, and what has come before; to none keeps them waiting."""
        self._receivers = processes
        self._pass_on()

    def _catch(self, number: int, _: object) -> None:
        self.caught.append(number)
        self._waiting.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        """Send each signal once: a handler may interrupt this at any line, and then has sent the rest."""
        with suppress(IndexError):
            while self._receivers:
                number = self._waiting.popleft()
                for process in self._receivers:
                    process.send_signal(number if len(self.caught) < 3 else signal.SIGKILL)


class _Group:
    """One start of the processes."""

    def __init__(self, command: Sequence[str], processes: int, notes: Path, attempt: int) -> None:
        """
        Args:
            notes: folder for what the processes tell: LOCAL_RANK/error.json.
            attempt: how often they were started before.
        """
        shared = {
            "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "TORCHELASTIC_RUN_ID": f"headrace-{os.getpid()}",
            "TORCHELASTIC_RESTART_COUNT": str(attempt),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(_threads(processes)),
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(processes):
            (notes / str(rank)).mkdir(parents=True)
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            own["TORCHELASTIC_ERROR_FILE"] = str(notes / str(rank) / "error.json")
            # A session of its own: Ctrl-C on a terminal reaches the launcher alone, which passes it on once.
            self._processes.append(
                subprocess.Popen(command, env={**os.environ, **shared, **own}, start_new_session=True)
            )

    def wait(self, signals: _Signals) -> tuple[int, str]:
        """Wait until all have ended. Returns the exit code of the first that failed, and what to say of it."""
        signals.send_to(self._processes)
        running, failed = dict(enumerate(self._processes)), dict[int, int]()
        deadline = float("inf")
        while running:
            time.sleep(POLL_S)
            for rank in [rank for rank, process in running.items() if process.poll() is not None]:
                code = running.pop(rank).returncode
                if code and not failed and not signals.caught:
                    deadline = time.monotonic() + GRACE_S
                if code:
                    failed[rank] = code
            if time.monotonic() > deadline and not signals.caught:
                for process in self._processes:
                    process.kill()
        signals.send_to(())
        rank, code = next(iter(failed.items()), (0, 0))
        return (128 - code if code < 0 else code), f"rank {rank} ended with {_describe(code)}"


def _describe(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _threads(processes: int) -> int:
    """Return the CPU threads of each process: together as many as there are cores."""
    return max(1, (os.cpu_count() or 1) // processes)


def process_rank() -> int:
    """Return the rank of this process among those that train together, 0 if it is alone."""
    return int((os.environ | slurm_group(os.environ)).get("RANK", "0"))


def local_rank() -> int:
    """Return the rank of this process among those of its machine."""
    return int((os.environ | slurm_group(os.environ)).get("LOCAL_RANK", "0"))


def slurm_group(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of torch for a process that `srun` started as one of several tasks; none for any other.

    The first host of the step is where the processes meet, at a port that follows from the numbers of job and step.
    """
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    if "RANK" in environment or "SLURM_STEP_ID" not in environment or tasks == 1:
        return {}
    number = int(environment.get("SLURM_JOB_ID", "0")) * 31 + int(environment["SLURM_STEP_ID"])
    return {
        "RANK": environment["SLURM_PROCID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or _first_host(environment),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(20000 + number % 10000),
    }


def _first_host(environment: Mapping[str, str]) -> str:
    """Return the first host of a list such as `node[07-09,12],other`, in Slurm's own notation."""
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    head, bracket, rest = hosts.partition("[")
    if not bracket or "," in head:
        return head.partition(",")[0]
    inside, _, after = rest.partition("]")
    return head + inside.replace("-", ",").partition(",")[0] + after.partition(",")[0]
