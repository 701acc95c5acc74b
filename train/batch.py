"""What the stream hands to a model: named padded tensors and the true lengths.

Shapes: B utterances, T frames of the longest, P phones of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


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

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, feature: str) -> Tensor:
        return self.tensors[feature]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in self.tensors.items())
        return f"Batch({len(self)} utterances on {self.frames.device}: {shapes})"

    @property
    def padding(self) -> float:
        """Share of padded frames, 0 to 1. Ask before `to`: on a device it waits for it."""
        return 1 - float(self.frames.sum()) / (len(self) * int(self.frames.max()))

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; from page-locked memory the copy runs beside the host."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            phones_n=self.phones_n.to(device, non_blocking=True),
            tokens_n=None if self.tokens_n is None else self.tokens_n.to(device, non_blocking=True),
            tensors={name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()},
        )
