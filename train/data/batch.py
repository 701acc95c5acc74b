"""Batches as a model reads them: named padded tensors, and the true lengths.

Shapes: B utterances, T frames of the longest, P phones of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from headrace.train.data.batch_plan import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Ragged:
    """A feature that is padded on the device: the rows of all utterances, concatenated."""

    rows: Tensor
    """(sum of lengths, *row_shape)."""
    lengths: np.ndarray
    """(B,) int64, at least 1."""
    longest: int
    """Rows to pad to."""

    def select(self, which: np.ndarray | slice) -> Ragged:
        """Return some of its utterances; those of a slice share its memory."""
        ends = np.cumsum(self.lengths)
        lengths, starts = self.lengths[which], (ends - self.lengths)[which]
        if isinstance(which, slice):
            rows = self.rows[starts[0] : ends[which][-1]]
        else:
            spans = zip(starts.tolist(), lengths.tolist(), strict=True)
            rows = torch.cat([self.rows[start : start + length] for start, length in spans])
        return replace(self, rows=rows, lengths=lengths)

    def padded(self, device: torch.device | str) -> Tensor:
        """Return (B, longest, *row_shape) on a device, without synchronising with it."""
        rows = self.rows.to(device, non_blocking=True)
        lengths = torch.from_numpy(self.lengths).to(device, non_blocking=True)[:, None]
        places = torch.arange(self.longest, device=device)
        found = rows[(lengths.cumsum(0) - lengths + places).clamp_(max=len(rows) - 1)]
        beyond = (places >= lengths).view(*found.shape[:2], *(1 for _ in rows.shape[1:]))
        return found.masked_fill_(beyond, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Utterances of similar length, padded with zeros to the longest."""

    numbers: np.ndarray
    """(B,) int64: which utterances of the store."""
    frames: Tensor
    """(B,) int64."""
    phones_n: Tensor
    """(B,) int64."""
    tensors: Mapping[str, Tensor]
    """Feature name to (B, length of the longest, *row_shape): `wave` (B, T, hop) int16, `mel` (B, T, 128) float16,
    `mfcc` (B, T, 20) float16, `phones` (B, P) int16, ... Zero past each utterance's end."""
    tokens_n: Tensor | None = None
    """(B,) int64, where a feature on the token axis was read."""
    ragged: Mapping[str, Ragged] = field(default_factory=dict)
    """Features that are not padded yet: `to` makes tensors of them."""
    position: Position | None = None
    """Position after this batch, where a `BatchDataset` yielded it."""

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, feature: str) -> Tensor:
        return self.ragged[feature].padded("cpu") if feature in self.ragged else self.tensors[feature]

    def __repr__(self) -> str:
        features = {**self.tensors, **{name: ragged.rows for name, ragged in self.ragged.items()}}
        shapes = ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in features.items())
        return f"Batch({len(self)} utterances on {self.frames.device}: {shapes})"

    @property
    def padding(self) -> float:
        """Share of padded frames, 0 to 1. Read it on the host: on a device it synchronises."""
        return 1 - float(self.frames.sum()) / (len(self) * int(self.frames.max()))

    def select(self, rows: np.ndarray | slice) -> Batch:
        """Return some of its utterances, padded as they are; those of a slice share its memory."""
        return replace(
            self,
            numbers=self.numbers[rows],
            frames=self.frames[rows],
            phones_n=self.phones_n[rows],
            tokens_n=None if self.tokens_n is None else self.tokens_n[rows],
            tensors={name: tensor[rows] for name, tensor in self.tensors.items()},
            ragged={name: ragged.select(rows) for name, ragged in self.ragged.items()},
        )

    def split(self, count: int) -> list[Batch]:
        """Split into at most `count` batches whose sizes differ by one utterance at most."""
        parts = min(count, len(self))
        bounds = [len(self) * part // parts for part in range(parts + 1)]
        return [self.select(slice(start, stop)) for start, stop in pairwise(bounds)] if parts > 1 else [self]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device, all of it padded; from page-locked memory the copy is asynchronous."""
        padded = {name: ragged.padded(device) for name, ragged in self.ragged.items()}
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            phones_n=self.phones_n.to(device, non_blocking=True),
            tokens_n=None if self.tokens_n is None else self.tokens_n.to(device, non_blocking=True),
            tensors={name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()} | padded,
            ragged={},
        )


def amounts(batches: Sequence[Batch]) -> tuple[int, int, int]:
    """Return the numbers of frames, of utterances, and of frames with padding, of batches on the host."""
    counts = [(int(b.frames.sum()), len(b), len(b) * int(b.frames.max())) for b in batches]
    frames, utterances, padded = map(sum, zip(*counts, strict=True))
    return frames, utterances, padded
