"""Attention of a prefix language model (Raffel et al. 2020, section 3.2.1) in which queries times keys never exist.

A sequence is n text positions, then semantic codes, then padding. Position i sees position j where

    j < n or j <= i.

For a code, i >= n, every j < n is also j <= i: what is left is j <= i, plain causal attention. It never reaches the
padding, which comes last. For text, i < n, what is left is j < n: attention within the text. So two calls of a fused
kernel give the whole: a causal one over everything, whose rows count for codes, and one over the text columns with a
mask of keys, (B, 1, 1, X), whose rows count for text. Neither a kernel nor its backward pass stores scores, and
memory grows with L instead of with L x L. What is thrown away is the causal answer to text, and the text's to codes.

Shapes: B batch, H heads, L positions, X positions that may hold text, D channels of a head, S positions of a window.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys and values, (B, H, L, D) each, and a share of weights to drop, to answers (B, H, L, D)."""

ROWS = 128
"""Queries that share one block of scores where a kernel without scores is missing."""
FEW = 4_000_000
"""Scores that are worth keeping for the backward pass: making them twice costs a tenth of a step of short sequences,
keeping them 40 MB a layer at most."""


class PrefixSight:
    """Who sees whom in a batch of packed sequences. An `Attend`."""

    def __init__(self, text_n_B: Tensor, text_size: int) -> None:
        """
        Args:
            text_n_B: text positions of each sequence, 1 at least.
            text_size: X, no less than any of them.
        """
        positions = torch.arange(text_size, device=text_n_B.device)
        is_text_BX = positions < text_n_B[:, None]
        self._windows = [(is_text_BX, is_text_BX)]

    def blind_past(self, end_B: Tensor, size: int) -> PrefixSight:
        """Let positions from `end` on see all those before it, and none of their own kind.

        Args:
            end_B: valid positions of each sequence.
            size: L.
        """
        is_valid_BL = torch.arange(size, device=end_B.device) < end_B[:, None]
        self._windows.append((~is_valid_BL, is_valid_BL))
        return self

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        answer = attend(q_BHLD, k_BHLD, v_BHLD, causal=True, dropout=dropout)
        for rows_BS, keys_BS in self._windows:
            size = rows_BS.shape[1]
            q, k, v = (x[:, :, :size] for x in (q_BHLD, k_BHLD, v_BHLD))
            inside = attend(q, k, v, mask=keys_BS[:, None, None], dropout=dropout)
            chosen = torch.where(rows_BS[:, None, :, None], inside, answer[:, :, :size])
            answer = torch.cat((chosen, answer[:, :, size:]), dim=2)
        return answer


def attend(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017) by a kernel that stores no scores.

    Args:
        mask: (B, 1, 1, L) bool, True where a key may be seen; at least one in every row. Not together with `causal`.
        dropout: share of attention weights to drop.
    """
    if dropout and q_BHLD.device.type == "cpu":
        return _attend_by_rows(q_BHLD, k_BHLD, v_BHLD, mask, causal, dropout)
    return F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, mask, dropout, causal)


def _attend_by_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """The CPU's kernel without scores cannot drop weights. Where there are many scores, they are made for `ROWS`
    queries at a time, and again for gradients."""
    if q.shape[:3].numel() * k.shape[2] <= FEW:
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    answers = []
    for start in range(0, q.shape[2], ROWS):
        stop = min(start + ROWS, q.shape[2])
        keys = stop if causal else k.shape[2]
        if causal:
            mask = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).tril(start)
        block = q[:, :, start:stop], k[:, :, :keys], v[:, :, :keys], mask, dropout
        answers.append(checkpoint(F.scaled_dot_product_attention, *block, use_reentrant=False))
    return torch.cat(answers, dim=2)
