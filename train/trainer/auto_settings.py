"""Automatic settings: what a run chooses where no value is given, each with its reason."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

import torch

from headrace.store.arrays.shard import CACHE_BYTES
from headrace.store.errors import UsageError
from headrace.store.reader import Store
from headrace.train import distributed
from headrace.train.data.stream import decoded_bytes

CPU_BATCH_FRAMES = 1600
CUDA_BATCH_FRAMES_PER_GIB = 125
"""One utterance of 5 s for every 2 GiB: about upstream's default batch sizes."""
CHUNK_LOCALITY = 64
"""Steps of similar length in a row where chunks do not stay in memory: each is then decoded 1.1 times an epoch instead
of 4.9 times."""
DECODING_THREADS, REMOTE_THREADS = 4, 8
"""Threads that decode chunks of this machine, and that wait for chunks of a bucket."""
MIN_FRAMES_COUNTED = 128
"""The least number of frames that an utterance counts for: a whole segment of it is decoded and discriminated."""


def choose_device(requested: str) -> tuple[torch.device, str]:
    """Return the device to train or to speak on, and why.

    Args:
        requested: auto, cpu, cuda, or for speaking mps, which is Apple's.
    Raises:
        UsageError: CUDA or Apple's was requested and there is none; or two processes have the same device.
    """
    if requested == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("device mps was asked for, but torch sees no device of Apple's here: use --device cpu.")
        return torch.device("mps"), "asked for"
    available, number = torch.cuda.is_available(), distributed.cuda_device()
    if requested == "cuda" and not available:
        raise UsageError("device cuda was asked for, but torch sees no CUDA device here: use --device cpu.")
    on_cuda = requested == "cuda" or (requested == "auto" and available)
    if on_cuda:
        torch.cuda.set_device(number)
        _check_own_device(number)
    device = torch.device("cuda", number) if on_cuda else torch.device("cpu")
    return device, f"{'a' if available else 'no'} CUDA device is there" if requested == "auto" else "asked for"


def _check_own_device(number: int) -> None:
    """Raise UsageError on every rank if two have the same CUDA device: NCCL cannot connect them."""
    here = socket.gethostname(), str(torch.cuda.get_device_properties(number).uuid)
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, device in enumerate(distributed.all_gather(here)):
        ranks.setdefault(device, []).append(rank)
    for (host, _), sharing in ranks.items():
        if len(sharing) > 1:
            raise UsageError(
                f"Ranks {' and '.join(map(str, sharing))} have the same GPU of {host}: start as many processes on a "
                "machine as it has GPUs."
            )


def choose_batch_frames(requested: int, device: torch.device) -> tuple[int, str]:
    """Return the upper limit of padded frames in a batch, and why. `requested` is 0 if the user gave no value."""
    if requested:
        return requested, "asked for"
    if device.type == "cpu":
        return CPU_BATCH_FRAMES, "steps of about a second on a CPU"
    memory = distributed.all_gather(torch.cuda.get_device_properties(device).total_memory)
    gib = min(memory) / 2**30  # all ranks plan with one number
    where = f"{gib:.0f} GiB, the least of all GPUs" if min(memory) < max(memory) else f"{gib:.0f} GiB"
    return max(1, round(gib)) * CUDA_BATCH_FRAMES_PER_GIB, f"{CUDA_BATCH_FRAMES_PER_GIB} per GiB of {where}"


class Reading(NamedTuple):
    """How a run reads its store."""

    threads: int
    prefetch: int
    """Batches read ahead."""
    chunk_locality: int
    reason: str


def choose_reading(store: Store, features: Sequence[str], chunk_locality: int) -> Reading:
    """Return how to read features of a store. The order of batches depends on the store alone, not on the machine.

    Args:
        chunk_locality: as the user gave it; 0 if he gave none.
    """
    if store.is_mapped:
        return Reading(1, 4, chunk_locality or 1, "it is mapped into memory")
    fits = decoded_bytes(store, features) <= CACHE_BYTES
    threads = REMOTE_THREADS if store.is_remote else min(DECODING_THREADS, os.cpu_count() or 1)
    why = "it lies in a bucket" if store.is_remote else "it is compressed"
    locality = chunk_locality or (1 if fits else CHUNK_LOCALITY)
    return Reading(
        threads, 2 * threads, locality, f"{why}, and its chunks {'fit' if fits else 'do not fit'} into memory"
    )


def choose_max_utterances(requested: int, batch_frames: int) -> tuple[int, str]:
    """Return the upper limit of utterances in a batch, and why. `requested` is 0 if the user gave no value."""
    if requested:
        return requested, "asked for"
    chosen = max(1, batch_frames // MIN_FRAMES_COUNTED)
    return chosen, f"an utterance costs as much as {MIN_FRAMES_COUNTED} frames at least"
