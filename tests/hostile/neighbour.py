"""Another user of this machine, who tries to get into a cluster: a process of its own that gives its rights up.

It imports all that it needs first, since that user might not be able to read the interpreter's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

USER = "nobody"


def require_another_user() -> None:
    """Skip the test unless this process may become another user."""
    if os.geteuid():
        pytest.skip("only root can become another user of this machine")


def become() -> None:
    """Become the other user for good."""
    user = pwd.getpwnam(USER)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """Yield a folder like /tmp: everybody may write there, and pytest's own folders are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-shared-", dir="/tmp"))
    folder.chmod(0o1777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Neighbour:
    """The other user's process. It is ready when it is made."""

    def __init__(self, friendly: str) -> None:
        """Start it.

        Args:
            friendly: address of a cluster that anybody can reach: what it connects to in order to be ready.
        """
        command = [sys.executable, "-m", __name__, friendly]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def attack(self, addresses: list[str], folders: list[Path], processes: list[int]) -> dict[str, Any]:
        """Return what came of each attempt, in words."""
        told, _ = self._process.communicate(json.dumps([addresses, [str(f) for f in folders], processes]), timeout=120)
        return dict(json.loads(told))


def run_code(address: str, security: Any = None, timeout: str = "1s") -> str:
    """Try to run code in the scheduler at this address."""
    from distributed import Client

    try:
        with Client(address, timeout=timeout, security=security) as client:
            return f"ran as {client.run_on_scheduler(os.getuid)}"
    except Exception as error:  # noqa: BLE001 - whatever keeps it out
        return f"kept out: {type(error).__name__}"


def attack_with_keys(address: str) -> None:
    """Print what comes of connecting without a key, with a key of one's own, and without encryption."""
    from distributed.security import Security

    for where, key in ((address, None), (address, Security.temporary()), (address.replace("tls", "tcp"), None)):
        print(run_code(where, key).partition(":")[0], flush=True)
    os._exit(0)


def talk(where: Any, family: int) -> str:
    """Send garbage and plain HTTP to a socket. Returns whether it was reached, and anything readable that it says."""
    said = b""
    for words in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(4096), (1 << 40).to_bytes(8, "little")):
        with socket.socket(family) as one:
            one.settimeout(0.5)
            try:
                one.connect(where)
                one.sendall(words)
                said += one.recv(4096)
            except PermissionError:
                return "kept out"
            except OSError:
                continue
    return f"answers {said!r}" if b"HTTP" in said or b"python" in said else "reached, says nothing"


def _attempt(action: Any, *arguments: Any) -> str:
    try:
        return f"done: {action(*arguments)!r}"
    except OSError as error:
        return type(error).__name__


def _main(friendly: str) -> None:
    import logging

    from headrace.featurize.scheduling import unix_sockets

    logging.disable()
    run_code(friendly, timeout="60s")
    become()
    print("ready", flush=True)
    addresses, folders, processes = json.loads(sys.stdin.read())
    found = {friendly: run_code(friendly, timeout="60s")}
    for address in addresses:
        found[address] = run_code(address)
        if address.startswith(unix_sockets.SCHEME):
            path = address.removeprefix(f"{unix_sockets.SCHEME}://").replace(":", "/")
            found[path] = talk(path, socket.AF_UNIX)
    for folder in folders:
        found[folder] = _attempt(os.listdir, folder)
    for number in processes:
        found[f"environment of {number}"] = _attempt(Path(f"/proc/{number}/environ").read_bytes)
        found[f"stopping {number}"] = _attempt(os.kill, number, 0)
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # without the clean-up of files that it cannot read any more


if __name__ == "__main__":
    _main(sys.argv[1])
