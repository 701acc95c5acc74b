"""Benchmarks of training on several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def run_pair(module: str, arguments: Sequence[str], address: str, port: int, prefixes: Sequence[Sequence[str]]) -> None:
    """Run a module in two processes, as `run_processes` does, on a machine each."""
    run_processes(module, arguments, address, port, prefixes, of_machine=1)


def run_processes(
    module: str,
    arguments: Sequence[str],
    address: str,
    port: int,
    prefixes: Sequence[Sequence[str]],
    *,
    of_machine: int,
) -> None:
    """Run a module in several processes, with the environment that torchrun gives them, until all have ended well.

    Args:
        prefixes: of the command of each process, such as the one that enters a network namespace.
        of_machine: processes of each machine.
    """
    common = os.environ | {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(len(prefixes))}
    common |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(of_machine)}
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    processes = [
        subprocess.Popen([*prefix, *command], env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank % of_machine)})
        for rank, prefix in enumerate(prefixes)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"the processes ended with {codes}")
