"""A cable of some length and rate between two network namespaces of this machine.

    python -m benchmarks.distributed.cable FIRST SECOND DELAY

carries the frames of two TAP devices to each other, each after DELAY seconds, until it is ended. The kernel could do
that by netem, which many are built without; `tc tbf`, which bounds the rate, is in nearly all.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MTU = 9000
"""Bytes of a frame: as large as switches of machine rooms carry them, so that few are carried."""
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_READY = "carrying"


@contextmanager
def two_nodes(rate: str, delay_s: float) -> Iterator[tuple[str, str]]:
    """Make two namespaces with a cable between them, for the duration of this context. Yields their names.

    The first has the address 10.77.0.1, the second 10.77.0.2, both on a device `cable`.

    Args:
        rate: in each direction, as tc knows it, `400mbit` say.
        delay_s: seconds that a frame takes one way.
    """
    names = tuple(f"headrace-{os.getpid()}-{number}" for number in (1, 2))
    devices = tuple(f"hr{os.getpid()}-{number}" for number in (1, 2))
    command = [sys.executable, "-m", "benchmarks.distributed.cable", *devices, str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as carrier:
        try:
            if carrier.stdout is None or carrier.stdout.readline().strip() != _READY:
                raise RuntimeError("no TAP device can be made: it needs root and /dev/net/tun")
            for number, (name, device) in enumerate(zip(names, devices, strict=True), 1):
                _run("ip", "netns", "add", name)
                _run("ip", "-n", name, "link", "set", "lo", "up")
                _run("ip", "link", "set", device, "netns", name)
                _run("ip", "-n", name, "link", "set", device, "name", "cable", "mtu", str(MTU))
                _run("ip", "-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
                _run("ip", "-n", name, "link", "set", "cable", "up")
                shape = ("tbf", "rate", rate, "burst", "256kb", "latency", "100ms")
                _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "cable", "root", *shape)
            yield names[0], names[1]
        finally:
            carrier.kill()
            for name in names:
                subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _tap(name: str) -> int:
    """Make a TAP device, and return the file that has what is sent through it, frame by frame."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return device


def carry(one: int, other: int, delay_s: float) -> None:
    """Carry frames between two TAP devices, for ever. What finds no room at the other end is lost, as on any cable."""
    under_way: dict[int, deque[tuple[float, bytes]]] = {one: deque(), other: deque()}
    while True:
        due = min((frames[0][0] for frames in under_way.values() if frames), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select((one, other), (), (), wait)
        for device in ready:
            frames = under_way[other if device == one else one]
            with suppress(OSError):  # all were read, or the device is not up yet
                while True:
                    frames.append((time.monotonic() + delay_s, os.read(device, MTU + 64)))
        for device, frames in under_way.items():
            while frames and frames[0][0] <= time.monotonic():
                with suppress(OSError):
                    os.write(device, frames.popleft()[1])


if __name__ == "__main__":
    ends = _tap(sys.argv[1]), _tap(sys.argv[2])
    print(_READY, flush=True)
    carry(*ends, float(sys.argv[3]))
