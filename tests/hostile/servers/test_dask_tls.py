"""A Dask cluster over TLS, as the documentation sets it up: it computes, and lets nobody in without a certificate."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
from distributed import LocalCluster
from distributed.security import Security

from headrace.featurize.scheduling import dask_cluster
from headrace.featurize.scheduling.dask_cluster import executor
from headrace.featurize.scheduling.task_queue import Task
from headrace.store.errors import HeadraceError

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes the certificates, is missing")
CERTIFICATES = """
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dask-authority -keyout ca-key.pem -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=dask -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -out cert.pem
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Task):
    n: int


def square(task: Number, threads: int) -> int:
    return task.n**2


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)

    def workers(self, count: int) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls"))


def certificates(folder: Path) -> Path:
    """An authority of its own, and a certificate that it signed."""
    subprocess.run(["sh", "-ec", CERTIFICATES], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def security(folder: Path) -> Security:
    roles = ("scheduler", "worker", "client")
    names = {f"tls_{role}_{kind}": str(folder / f"{kind}.pem") for role in roles for kind in ("cert", "key")}
    return Security(require_encryption=True, tls_ca_file=str(folder / "ca.pem"), **names)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Of the scheduler of a cluster whose processes have the certificates."""
    options = {"protocol": "tls://", "dashboard_address": None, "processes": False, "threads_per_worker": 1}
    with LocalCluster(n_workers=1, security=security(folder), host="127.0.0.1", **options) as cluster:
        yield str(cluster.scheduler_address)


def told(folder: Path) -> dict[str, object]:
    """Dask's settings with the variables that docs/scaling.md names."""
    files = {"CA_FILE": "ca.pem", "CLIENT__CERT": "cert.pem", "CLIENT__KEY": "key.pem"}
    variables = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(folder / file) for name, file in files.items()}
    settings: dict[str, object] = dask.config.merge(dask.config.config, dask.config.collect_env(variables))
    return settings


def test_it_computes_over_tls(address: str, folder: Path) -> None:
    notes = Notes()
    with dask.config.set(told(folder)), executor(1, address, "cpu", notes) as workers:
        assert address.startswith("tls://127.0.0.1:")
        assert sorted(workers.map(square, [Number(n=n) for n in range(30)])) == [n * n for n in range(30)]
    assert not [line for line in notes.lines if "not protected" in line]


def test_whoever_has_no_certificate_stays_outside(address: str) -> None:
    """Neither without one, nor with one that another authority signed, nor without encryption."""
    code = "import sys; from tests.hostile import neighbour; neighbour.attack_with_keys(sys.argv[1])"
    command = [sys.executable, "-c", code, address]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.splitlines() == ["kept out"] * 3


def test_a_scheduler_of_another_authority_is_told_in_a_line(address: str, tmp_path: Path) -> None:
    """At once, and before anything is sent to it."""
    foreign = told(certificates(tmp_path))
    started = time.monotonic()
    with dask.config.set(foreign), pytest.raises(HeadraceError) as caught, executor(1, address, "cpu", Notes()):
        pass
    assert f"No Dask scheduler answers at {address} (TLS certificate does not match" in caught.value.message
    assert "\n" not in caught.value.message and time.monotonic() - started < 60


def test_a_server_that_never_speaks_tls_is_told_in_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute, dask.config.set(told(folder)):
        address = f"tls://127.0.0.1:{mute.getsockname()[1]}"
        with (
            pytest.raises(HeadraceError, match=f"No Dask scheduler answers at {address}"),
            executor(1, address, "cpu", Notes()),
        ):
            pass


def test_a_cluster_without_tls_is_warned_of() -> None:
    """Also on loopback: other users of the machine reach it there."""
    notes = Notes()
    options = {"dashboard_address": None, "processes": False, "threads_per_worker": 1}
    with (
        LocalCluster(n_workers=1, protocol="tcp://", host="127.0.0.1", **options) as cluster,
        executor(1, cluster.scheduler_address, "cpu", notes),
    ):
        (line,) = [line for line in notes.lines if "not protected" in line]
    assert line.startswith(f"warning: {cluster.scheduler_address} is not protected") and "tls://" in line
