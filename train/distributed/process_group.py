"""The group of processes that train together, one per device, and the place of this process in it."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from headrace.store.errors import RankFailed
from headrace.store.secrets import without_secrets
from headrace.train.distributed.phases import PHASES
from headrace.train.distributed.rank_errors import exit_code, settle
from headrace.train.distributed.side_channel import SideChannel
from headrace.train.distributed.watchdog import Watchdog, print_line
from headrace.train.launcher import slurm_group

GROUP_TIMEOUT = timedelta(minutes=30)
"""Longest wait in a collective operation. It is the last resort: the watchdog knows who waits for a rank that works,
and ends the job long before where one stands still."""
ABORT_S = 10.0
"""Seconds in which connections must be closed after an error."""
_watchdog: Watchdog | None = None


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that a launcher started into a group for the duration of this context.

    The launcher is that of `train run --gpus`, torchrun, or srun with several tasks. Without one there is one process.
    An error of one of several ends all of them within seconds: the others raise `RankFailed`.
    """
    os.environ |= slurm_group(os.environ)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=GROUP_TIMEOUT)
    with _watched():
        yield


def watch(timeout_s: float, folder: Path, device: torch.device) -> None:
    """Set after how many seconds without progress a process stands still, and where stacks are written then.

    Args:
        device: of this process, to be named.
    """
    PHASES.device = str(device) if device.index is not None else device.type.upper()
    if _watchdog is not None:
        _watchdog.set_limits(timeout_s, folder)


@contextmanager
def _watched() -> Iterator[None]:
    """Watch the group for the duration of this context, and take it apart then."""
    global _watchdog
    name = f"rank {rank()} of {world_size()} on {socket.gethostname()}"
    told: list[tuple[str, str]] = [("", "")] * world_size()
    dist.all_gather_object(told, (name, uuid.uuid4().hex))
    _watchdog = watchdog = _make_watchdog([other for other, _ in told], key=told[0][1])
    PHASES.restart()
    watchdog.start()
    try:
        yield
    except BaseException as error:
        settled = settle(error, watchdog, name)
        _abort(settled, name)
        if settled is error:
            raise
        raise settled from error
    else:
        dist.destroy_process_group()
    finally:
        watchdog.stop()
        _watchdog = None


def _make_watchdog(names: list[str], key: str) -> Watchdog:
    """Make the watchdog of this process, with a connection of its own to the store of the group.

    Args:
        names: of all ranks.
        key: of this start of the job, since a launcher uses its store for all of them.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(minutes=1))
    channel = SideChannel(dist.PrefixStore(f"watchdog/{key}", store), rank(), world_size())
    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Watchdog(channel, names, rank(), PHASES, keeper=None if of_launcher else 0)


def _abort(error: BaseException, name: str) -> None:
    """Close the connections to the others after an error. If NCCL does not come back from that, leave at once.

    Args:
        name: of this rank.
    """

    def take_apart() -> None:
        group = dist.group.WORLD
        assert group is not None
        group.abort()
        dist.destroy_process_group()

    thread = threading.Thread(target=take_apart, daemon=True)
    thread.start()
    thread.join(ABORT_S)
    if thread.is_alive():
        if not isinstance(error, RankFailed):
            print_line(f"Error ({name}): {without_secrets(str(error))}")
        os._exit(exit_code(error))


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def cuda_device() -> int:
    """Return the number of this process's CUDA device, among those that it sees.

    A launcher shows each process all devices of the machine, or as `srun --gpus-per-task=1` only its own.
    """
    number = int(os.environ.get("LOCAL_RANK", "0")) if dist.is_initialized() else 0
    return number % max(1, torch.cuda.device_count())
