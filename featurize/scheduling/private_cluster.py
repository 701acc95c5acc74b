"""A Dask cluster of this machine that only its own processes can reach.

Whoever can connect to a Dask scheduler or worker can run code there. So they listen at Unix sockets, in a folder that
only this user may enter. Where Python has none (Windows), they listen on loopback, and talk to those alone who have the
key that was made for this cluster and is nowhere but in their memory. Nothing else listens: Dask's HTTP servers, which
show tasks and logs to whoever asks, are not started.

Workers load this module before anything else: it makes the scheme of the sockets known to Dask there too.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, Nanny, Scheduler, SpecCluster, Worker
from distributed.security import Security

from headrace.store.storage.temporary import PREFIX, remove_abandoned, temporary_folder

HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
if HAS_UNIX_SOCKETS:
    from headrace.featurize.scheduling import unix_sockets

SHORT_TEMPORARY = "/tmp"
"""Used where the path of the folder for temporary files is too long for a socket in it."""


class _Scheduler(Scheduler):
    """A scheduler that serves no HTTP."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


class _Worker(Worker):
    """A worker that serves no HTTP."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


@contextmanager
def private_client(workers: Sequence[Mapping[str, Any]], preload: str) -> Iterator[Client]:
    """Start a cluster for the duration of a `with` block, and yield its client.

    Args:
        workers: what Dask's Nanny is told of each, beyond what all are told.
        preload: name of the module whose `dask_setup` prepares each worker process.
    """
    logging.getLogger("distributed.diskutils").setLevel(logging.CRITICAL + 1)  # at exit: its folder, ours, is gone
    where = _temporary()
    for shared in {where, tempfile.gettempdir()}:
        remove_abandoned(shared)
    with temporary_folder(where) as path:
        folder = str(path)
        # Dask makes its scratch folders here, and has their modules imported before all others: in the shared folder
        # for temporary files they have a name that anybody could have taken.
        common = {"security": _security(), "local_directory": os.path.join(folder, "dask-scratch-space")}
        common |= {"host": folder, "protocol": "unix://"} if HAS_UNIX_SOCKETS else _LOOPBACK
        each = common | {"worker_class": _Worker, "dashboard": False, "preload": [preload]}
        # The budget of memory is ours: Dask would pause a worker at a share of it, and for good.
        each |= {"memory_limit": 0, "silence_logs": logging.CRITICAL}
        # No allowed failures: the death of a worker is told at once, and the task's next attempt knows of it.
        scheduling = common | {"port": 0, "allowed_failures": 0, "dashboard": False}
        with (
            SpecCluster(
                scheduler={"cls": _Scheduler, "options": scheduling},
                workers={number: {"cls": Nanny, "options": each | dict(own)} for number, own in enumerate(workers)},
                security=common["security"],
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


_LOOPBACK = {"host": "127.0.0.1", "protocol": "tls://"}


def _security() -> Security:
    """Return the key of a new cluster; none where sockets are private."""
    return Security() if HAS_UNIX_SOCKETS else Security.temporary()


def _temporary() -> str:
    """Return the folder to make the cluster's own folder in."""
    folder = tempfile.gettempdir()
    needed = len(os.fsencode(Path(folder, f"{PREFIX}________", str(1 << 31))))
    return SHORT_TEMPORARY if HAS_UNIX_SOCKETS and needed > unix_sockets.LONGEST_PATH else folder
