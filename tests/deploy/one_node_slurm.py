"""A Slurm of one node on this machine: munge, a controller and a node daemon with everything in a folder of their own.

It needs Debian's package slurm-wlm, or another Slurm of 22.05 or newer, and root.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "srun")
START_S, STOP_S = 60, 30

CONFIG = """
ClusterName=headrace
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
GresTypes=gpu
KillWait=30
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why there can be no Slurm here; empty if there can be one."""
    lacking = [name for name in PROGRAMS if _program(name) is None]
    if lacking:
        return f"Slurm is not installed: there is no {', '.join(lacking)}"
    return "" if os.geteuid() == 0 else "munge and slurmd need root here"


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs."""

    folder: Path
    environment: Mapping[str, str]

    def call(self, *words: object, cwd: Path | None = None) -> str:
        """Run one of Slurm's commands and return what it prints."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr, self.logs())
        return done.stdout

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm knows of a job, by name of the field."""
        fields = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)

    def is_idle(self) -> bool:
        """Return whether the node has ended all that it had to do for its last job."""
        return self.call("sinfo", "--noheader", "--format=%T").strip() == "idle"

    def logs(self) -> str:
        """Return the ends of the logs of controller and node."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-25:])
            for path in sorted(self.folder.glob("*.log"))
        )


@contextmanager
def one_node_slurm(folder: Path, gpus: int = 1) -> Iterator[Slurm]:
    """Run a Slurm with one node, this machine, for the duration of the context.

    Args:
        folder: empty, with a short path, since a socket will lie in it.
        gpus: that the node claims to have. They are /dev/null: programs have to be told to use the CPU.
    """
    host = socket.gethostname().partition(".")[0]
    controller, node = _free_port(), _free_port()
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    (folder / "slurm.conf").write_text(
        CONFIG.format(host=host, folder=folder, controller=controller, node=node, cpus=os.cpu_count(), gpus=gpus)
    )
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu Count={gpus} File=/dev/null\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    slurm = Slurm(folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
    sock = folder / "munge.socket"
    munge = (
        "--socket",
        sock,
        "--key-file",
        key,
        "--pid-file",
        folder / "munge.pid",
        "--log-file",
        folder / "munge.log",
    )
    with ExitStack() as stack:
        seed = ("--seed-file", folder / "munge.seed", "--force")
        stack.enter_context(_daemon(slurm, "munged", "--foreground", *munge, *seed))
        _await(sock.exists, slurm)
        stack.enter_context(_daemon(slurm, "slurmctld", "-D"))
        stack.enter_context(_daemon(slurm, "slurmd", "-D", "-N", host))
        _await(lambda: "idle" in _ask(slurm, "sinfo", "--noheader", "--format=%T"), slurm)
        try:
            yield slurm
        finally:  # jobs outlive the daemons
            for job in _ask(slurm, "squeue", "--noheader", "--format=%i").split():
                _ask(slurm, "scancel", job)
            _await(lambda: not _ask(slurm, "squeue", "--noheader"), slurm)


def _ask(slurm: Slurm, *words: str) -> str:
    """Run a command that may fail as long as the daemons start."""
    done = subprocess.run(words, env=slurm.environment, capture_output=True, text=True, check=False)
    return done.stdout


@contextmanager
def _daemon(slurm: Slurm, name: str, *words: object) -> Iterator[None]:
    program = _program(name)
    assert program is not None
    with open(slurm.folder / f"{name}.out.log", "wb") as log:
        process = subprocess.Popen(
            [program, *map(str, words)], env=slurm.environment, cwd=slurm.folder, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(condition: Callable[[], bool], slurm: Slurm) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, slurm.logs()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
