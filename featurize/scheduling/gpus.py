"""Find the GPUs that a build may use."""

from __future__ import annotations

import os
import re
import subprocess

from headrace.store.errors import UsageError


def visible_gpus() -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each device. An instance of a partitioned GPU (MIG) is a device.

    Raises:
        UsageError: `nvidia-smi` fails.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"nvidia-smi -L does not list the GPUs ({error}): set CUDA_VISIBLE_DEVICES.") from error
    return parse_gpu_list(listing)


def parse_gpu_list(listing: str) -> list[str]:
    """Return the UUIDs in the output of `nvidia-smi -L`: of each GPU, or of its MIG instances if it has any."""
    cards = re.split(r"^(?=GPU )", listing, flags=re.MULTILINE)
    uuids = [re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", card) for card in cards]
    return [uuid for found in uuids for uuid in (found[1:] or found)]
