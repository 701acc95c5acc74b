"""What a run chooses by itself when nobody asked for anything else. Each choice comes with its reason."""

from __future__ import annotations

import torch

from headrace.store.errors import UsageError
from headrace.train import distributed

CPU_BATCH_FRAMES = 1600
CUDA_BATCH_FRAMES_PER_GIB = 125
"""One utterance of 5 s for every 2 GiB: what upstream's default batch sizes come to."""
SHORTEST_COUNTED = 128
"""Frames that an utterance counts at least. However short it is, a whole segment is decoded and judged."""


def choose_device(asked: str) -> tuple[torch.device, str]:
    """
    Raises:
        UsageError: CUDA was asked for and there is none.
    """
    there, number = torch.cuda.is_available(), distributed.local()
    if asked == "cuda" and not there:
        raise UsageError("device cuda was asked for, but torch sees no CUDA device here: use --device cpu.")
    on_cuda = asked == "cuda" or (asked == "auto" and there)
    if on_cuda and number >= torch.cuda.device_count():
        raise UsageError(f"Process {number} of this machine has no CUDA device: start {torch.cuda.device_count()}.")
    if on_cuda:
        torch.cuda.set_device(number)
    device = torch.device("cuda", number) if on_cuda else torch.device("cpu")
    return device, f"{'a' if there else 'no'} CUDA device is there" if asked == "auto" else "asked for"


def choose_batch_frames(asked: int, device: torch.device) -> tuple[int, str]:
    """Most padded frames of a batch; 0 is no wish."""
    if asked:
        return asked, "asked for"
    if device.type == "cpu":
        return CPU_BATCH_FRAMES, "steps of about a second on a CPU"
    gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    return max(1, round(gib)) * CUDA_BATCH_FRAMES_PER_GIB, f"{CUDA_BATCH_FRAMES_PER_GIB} per GiB of {gib:.0f} GiB"


def choose_max_utterances(asked: int, batch_frames: int) -> tuple[int, str]:
    """Most utterances of a batch; 0 is no wish."""
    if asked:
        return asked, "asked for"
    chosen = max(1, batch_frames // SHORTEST_COUNTED)
    return chosen, f"an utterance costs as much as {SHORTEST_COUNTED} frames at least"
