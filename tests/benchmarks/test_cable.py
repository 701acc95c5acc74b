"""The cable between two namespaces is as long as it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.bind(("10.77.0.2", 7))
    print("bound", flush=True)
    for _ in range(4):
        here.sendto(*here.recvfrom(9))
"""
ASK = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.settimeout(5)
    for _ in range(4):
        start = time.perf_counter()
        here.sendto(b"?", ("10.77.0.2", 7))
        here.recvfrom(9)
        print(time.perf_counter() - start)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
    reason="network namespaces need root, ip and tc",
)
def test_an_answer_takes_twice_the_delay() -> None:
    from benchmarks.distributed.cable import two_nodes

    with ExitStack() as stack:
        try:
            one, other = stack.enter_context(two_nodes("100mbit", 0.03))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no namespaces or TAP devices may be made here: {error}")
        command = ["ip", "netns", "exec", other, sys.executable, "-c", ECHO]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
            assert echo.stdout is not None and echo.stdout.readline() == "bound\n"
            command = ["ip", "netns", "exec", one, sys.executable, "-c", ASK]
            asked = subprocess.run(command, capture_output=True, text=True, check=True)
        times = [float(line) for line in asked.stdout.split()]
    assert len(times) == 4 and min(times) >= 0.06
    assert not any(
        name in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout for name in (one, other)
    )
