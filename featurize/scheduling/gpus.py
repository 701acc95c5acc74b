"""Which GPUs a build has."""

from __future__ import annotations

import os
import re
import subprocess

from headrace.store.errors import UsageError


def visible_gpus() -> list[str]:
    """Values of CUDA_VISIBLE_DEVICES that show one device each; an instance of a divided GPU (MIG) is a device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"nvidia-smi -L does not list the GPUs ({error}): set CUDA_VISIBLE_DEVICES.") from error
    return parse_gpu_list(listing)


def parse_gpu_list(listing: str) -> list[str]:
    """UUIDs in the output of `nvidia-smi -L`: of every GPU, or of its MIG instances where it has any."""
    cards = re.split(r"^(?=GPU )", listing, flags=re.MULTILINE)
    uuids = [re.findall(r"\(UUID: ((?:GPU|MIG)-[^)]+)\)", card) for card in cards]
    return [uuid for found in uuids for uuid in (found[1:] or found)]
