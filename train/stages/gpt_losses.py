"""What the text-to-semantic decoder is trained on: the next code, and if asked the right codes before spoilt ones.

Shapes: B batch, Y codes of the longest, Z = Y + 1 predictions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOP = 3
"""A prediction counts as right if the target is among so many likeliest."""
BETA = 0.2
"""Strength of the preference loss."""


def targets(codes_BY: Tensor, codes_n_B: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """What each prediction should be, (B, Z): the codes, then the end; and which of them count, (B, Z) bool."""
    at_Z = torch.arange(codes_BY.shape[1] + 1, device=codes_BY.device)
    codes_BZ = F.pad(codes_BY, (0, 1)).masked_fill(at_Z >= codes_n_B[:, None], end)
    return codes_BZ, at_Z <= codes_n_B[:, None]


def log_likelihood(logits_BZV: Tensor, targets_BZ: Tensor, counted_BZ: Tensor) -> Tensor:
    """Log probability of each sequence's targets, (B,) float32, summed over those that count."""
    lost = F.cross_entropy(logits_BZV.float().flatten(0, 1), targets_BZ.flatten(), reduction="none")
    return -(lost.view_as(targets_BZ) * counted_BZ).sum(1)


@torch.no_grad()
def hits(logits_BZV: Tensor, targets_BZ: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """How many codes, the end not counted, are among the likeliest `TOP`, and how many codes there are. () int64."""
    right_BZ = (logits_BZV.topk(TOP, dim=2).indices == targets_BZ[:, :, None]).any(2)
    is_code_BZ = targets_BZ != end
    return (right_BZ & is_code_BZ).sum(), is_code_BZ.sum()


def preference_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7) without a reference model: the log likelihood
    of what was said should exceed that of what was spoilt. ()."""
    return -F.logsigmoid(BETA * (chosen_B - rejected_B)).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiling:
    """How each sequence of a batch is spoilt: one of its spans comes twice, or is left out."""

    twice: Tensor
    """(B,) bool; False leaves the span out."""
    start: Tensor
    stop: Tensor
    """(B,) int64, the span: 0 <= start <= stop <= codes."""
    longest: int
    """No span that comes twice is longer."""

    @classmethod
    def draw(cls, codes_n_B: Tensor, size: int) -> Spoiling:
        """Either kind with even odds, spans between two random places. From torch's global generator of the CPU, so
        that the length of the result is known without waiting for the device.

        Args:
            codes_n_B: codes of each sequence.
            size: of the longest.
        """
        kind, *ends = torch.rand(3, len(codes_n_B)).numpy()
        ends_2B, twice_B = np.sort(ends, axis=0), kind < 0.5
        longest = int(((ends_2B[1] - ends_2B[0]) * twice_B * size).max()) + 1
        start, stop = (torch.from_numpy(ends_2B).to(codes_n_B.device) * codes_n_B).long()
        return cls(twice=torch.from_numpy(twice_B).to(codes_n_B.device), start=start, stop=stop, longest=longest)

    def apply(self, codes_BY: Tensor, codes_n_B: Tensor) -> tuple[Tensor, Tensor]:
        """Spoilt codes (B, Y + longest), and how many of each row are valid (B,)."""
        size = codes_BY.shape[1]
        at_W = torch.arange(size + self.longest, device=codes_BY.device)
        span_B1 = (self.stop - self.start)[:, None]
        again_BW = at_W - span_B1 * (at_W >= self.stop[:, None])
        skipped_BW = at_W + span_B1 * (at_W >= self.start[:, None])
        source_BW = torch.where(self.twice[:, None], again_BW, skipped_BW).clamp(max=size - 1)
        grown_B = torch.where(self.twice, span_B1[:, 0], -span_B1[:, 0])
        return codes_BY.gather(1, source_BW), codes_n_B + grown_B
