"""Losses of the text-to-semantic decoder: prediction of the next code, and preference of real over corrupted sequences.

Shapes: B batch, Y codes of the longest sequence, Z = Y + 1 predictions, V vocabulary, W codes after corruption.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOP_K = 3
"""A prediction is correct if its target is among this many most probable codes."""
TEMPERATURE = 2.0
"""Divides the logits of teacher and student: above 1, what the teacher holds less likely weighs more."""
DPO_BETA = 0.2
"""The coefficient beta of direct preference optimisation."""


def targets(codes_BY: Tensor, codes_n_B: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Return the target of each prediction, (B, Z): the codes, then the end; and which of them count, (B, Z) bool."""
    position_Z = torch.arange(codes_BY.shape[1] + 1, device=codes_BY.device)
    codes_BZ = F.pad(codes_BY, (0, 1)).masked_fill(position_Z >= codes_n_B[:, None], end)
    return codes_BZ, position_Z <= codes_n_B[:, None]


def log_likelihood(logits_BZV: Tensor, targets_BZ: Tensor, counted_BZ: Tensor) -> Tensor:
    """Return the log probability of each sequence's targets, (B,) float32, summed over those that count."""
    nll = F.cross_entropy(logits_BZV.float().flatten(0, 1), targets_BZ.flatten(), reduction="none")
    return -(nll.view_as(targets_BZ) * counted_BZ).sum(1)


def teacher_loss(logits_BZV: Tensor, teacher_BZV: Tensor, counted_BZ: Tensor) -> Tensor:
    """Return the divergence of the student's predictions from the teacher's, summed over those that count. ().

    It is the Kullback-Leibler divergence at `TEMPERATURE`, times its square, so that gradients keep the size of those
    of the cross entropy (Hinton, Vinyals and Dean 2015, section 2).
    """
    student, teacher = ((logits.float() / TEMPERATURE).log_softmax(2) for logits in (logits_BZV, teacher_BZV))
    divergence_BZ = F.kl_div(student, teacher, reduction="none", log_target=True).sum(2)
    return TEMPERATURE**2 * (divergence_BZ * counted_BZ).sum()


@torch.no_grad()
def top_k_hits(logits_BZV: Tensor, targets_BZ: Tensor, end: int) -> tuple[Tensor, Tensor]:
    """Count the codes that are among the `TOP_K` most probable ones, and all codes, without ends. () float32 each."""
    is_code_BZ = targets_BZ != end
    correct_BZK = (logits_BZV.topk(TOP_K, dim=2).indices == targets_BZ[:, :, None]) & is_code_BZ[:, :, None]
    return correct_BZK.sum(dtype=torch.float32), is_code_BZ.sum(dtype=torch.float32)


def preference_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """Return the loss of direct preference optimisation (Rafailov et al. 2023, equation 7), without a reference model.

    Args:
        chosen_B: log likelihoods of the real sequences.
        rejected_B: log likelihoods of the corrupted ones, which should be lower.
    """
    return -F.logsigmoid(DPO_BETA * (chosen_B - rejected_B)).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceCorruption:
    """A corruption of each sequence of a batch: one of its spans is repeated or deleted."""

    repeat: Tensor
    """(B,) bool: repeat the span, or else delete it."""
    start: Tensor
    stop: Tensor
    """(B,) int64, the span: 0 <= start <= stop <= codes."""
    max_repeat: int
    """No repeated span is longer."""

    @classmethod
    def sample(cls, codes_n_B: Tensor, size: int) -> SequenceCorruption:
        """Sample repetition or deletion with even odds, and the span between two random positions.

        Random numbers come from torch's global generator of the CPU, so that the length of the result is known without
        synchronising with the device.

        Args:
            codes_n_B: number of codes of each sequence.
            size: that of the longest.
        """
        kind, *ends = torch.rand(3, len(codes_n_B)).numpy()
        ends_2B, repeat_B = np.sort(ends, axis=0), kind < 0.5
        max_repeat = int(((ends_2B[1] - ends_2B[0]) * repeat_B * size).max()) + 1
        start, stop = (torch.from_numpy(ends_2B).to(codes_n_B.device) * codes_n_B).long()
        repeat = torch.from_numpy(repeat_B).to(codes_n_B.device)
        return cls(repeat=repeat, start=start, stop=stop, max_repeat=max_repeat)

    def apply(self, codes_BY: Tensor, codes_n_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return corrupted codes, (B, W) with W = Y + max_repeat, and how many of each row are valid, (B,)."""
        size = codes_BY.shape[1]
        position_W = torch.arange(size + self.max_repeat, device=codes_BY.device)
        span_B1 = (self.stop - self.start)[:, None]
        repeated_BW = position_W - span_B1 * (position_W >= self.stop[:, None])
        deleted_BW = position_W + span_B1 * (position_W >= self.start[:, None])
        source_BW = torch.where(self.repeat[:, None], repeated_BW, deleted_BW).clamp(max=size - 1)
        growth_B = torch.where(self.repeat, span_B1[:, 0], -span_B1[:, 0])
        return codes_BY.gather(1, source_BW), codes_n_B + growth_B
