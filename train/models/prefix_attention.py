"""Attention of a prefix language model (Raffel et al. 2020, section 3.2.1) that never stores attention scores.

A sequence is n text positions, then semantic codes, then padding. Position i attends to position j where

    j < n or j <= i.

For a code, i >= n, every j < n is also j <= i: the condition is j <= i, plain causal attention. It never includes the
padding, which comes last. For text, i < n, the condition is j < n: attention within the text.

Short sequences take one call of a fused kernel with a mask, (B, 1, L, L), that all layers share. The mask costs little
there, and so do scores that it hides: what counts is how many kernels a layer launches. Long ones take two calls: a
causal one over everything, whose rows are used for codes, and one over the text columns with a key mask, (B, 1, 1, X),
whose rows are used for text. Neither the kernel nor its backward pass stores scores, and memory grows with L instead of
with L x L. The causal output for text and the text's output for codes are discarded.

Shapes: B batch, H heads, L positions, X positions that may hold text, D channels of a head, S positions of a region.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headrace.train.models.layers import drop, lacks_kernel

AttentionFn = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Queries, keys and values, (B, H, L, D) each, and the dropout of attention weights, to outputs (B, H, L, D)."""

MAX_MASKED_LENGTH = 1024
"""Positions up to which attention is one call with a mask. Of more, a causal kernel leaves out enough scores to pay for
a second call."""
MASK_ALIGNMENT = 16
"""Fused kernels copy a mask whose rows do not lie so many elements apart, or a multiple of that."""
QUERY_BLOCK = 128
"""Queries that share one block of scores on the CPU, whose fused kernel has no dropout."""
MAX_STORED_SCORES = 4_000_000
"""Up to this many scores are kept for the backward pass: recomputing them would cost a tenth of a step of short
sequences, keeping them costs 40 MB a layer at most."""


class PrefixAttention:
    """Attention over a batch of packed sequences, bidirectional within the text and causal after it.

    It is an `AttentionFn`.
    """

    def __init__(self, text_n_B: Tensor, text_size: int) -> None:
        """
        Args:
            text_n_B: text positions of each sequence, 1 at least.
            text_size: X, no less than any of them.
        """
        positions = torch.arange(text_size, device=text_n_B.device)
        is_text_BX = positions < text_n_B[:, None]
        self._regions = [(is_text_BX, is_text_BX)]
        self._bias_B1LL: Tensor | None = None

    def attend_from_padding(self, end_B: Tensor, size: int) -> PrefixAttention:
        """Let each position from `end` on attend to all positions before `end`, and to none after it.

        Args:
            end_B: valid positions of each sequence.
            size: L.
        """
        is_valid_BL = torch.arange(size, device=end_B.device) < end_B[:, None]
        self._regions.append((~is_valid_BL, is_valid_BL))
        return self

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        """Attend. (B, H, L, D)."""
        if self._bias_B1LL is not None:
            return attend(q_BHLD, k_BHLD, v_BHLD, mask=self._bias_B1LL, dropout=dropout)
        output = attend(q_BHLD, k_BHLD, v_BHLD, causal=True, dropout=dropout)
        for queries_BS, keys_BS in self._regions:
            size = queries_BS.shape[1]
            q, k, v = (x[:, :, :size] for x in (q_BHLD, k_BHLD, v_BHLD))
            inside = attend(q, k, v, mask=keys_BS[:, None, None], dropout=dropout)
            chosen = torch.where(queries_BS[:, None, :, None], inside, output[:, :, :size])
            output = torch.cat((chosen, output[:, :, size:]), dim=2)
        return output

    def in_one_call(self, x_BLC: Tensor, heads: int) -> PrefixAttention:
        """Let each call be one of a kernel, if sequences are short, with a mask that is made now.

        Args:
            x_BLC: what queries are projected from.
        """
        count, size = x_BLC.shape[:2]
        few_scores = x_BLC.device.type != "cpu" or count * heads * size**2 <= MAX_STORED_SCORES
        if few_scores and size <= MAX_MASKED_LENGTH:
            device = x_BLC.device.type
            half = torch.is_autocast_enabled(device)
            self._bias_B1LL = self._bias(count, size, torch.get_autocast_dtype(device) if half else x_BLC.dtype)
        return self

    def _bias(self, count: int, size: int, dtype: torch.dtype) -> Tensor:
        """Return what is added to scores, (B, 1, L, L): 0 where a position attends to another, or minus infinity."""
        device = self._regions[0][0].device
        aligned = -(-size // MASK_ALIGNMENT) * MASK_ALIGNMENT
        attends_BLK = torch.ones(size, aligned, dtype=torch.bool, device=device).tril().expand(count, -1, -1)
        for queries_BS, keys_BS in self._regions:
            queries_BL = F.pad(queries_BS, (0, size - queries_BS.shape[1]))
            keys_BK = F.pad(keys_BS, (0, aligned - keys_BS.shape[1]))
            attends_BLK = torch.where(queries_BL[:, :, None], keys_BK[:, None], attends_BLK)
        hidden_BLK = torch.full((count, size, aligned), -torch.inf, dtype=dtype, device=device)
        bias_BLK = hidden_BLK.masked_fill_(attends_BLK, 0.0)
        return bias_BLK[:, None, :, :size]


def attend(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Compute scaled dot-product attention (Vaswani et al. 2017) with a kernel that stores no scores.

    Args:
        mask: (B, 1, 1, L) bool, True for keys to attend to, or (B, 1, L, L) that is added to scores; at least one key
            in every row. Not together with `causal`.
        dropout: of attention weights.
    """
    if dropout and lacks_kernel(q_BHLD):
        return _attend_in_blocks(q_BHLD, k_BHLD, v_BHLD, mask, causal, dropout)
    return F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, mask, dropout, causal)


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """Attend with dropout on the CPU, whose fused kernel has none.

    Where there are many scores, they are computed for `QUERY_BLOCK` queries at a time, and again in the backward pass.
    """
    if q.shape[:3].numel() * k.shape[2] <= MAX_STORED_SCORES:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril() if causal else mask
        return _attend_and_drop(q, k, v, mask, dropout)
    outputs = []
    for start in range(0, q.shape[2], QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, q.shape[2])
        keys = stop if causal else k.shape[2]
        if causal:
            mask = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).tril(start)
        block = q[:, :, start:stop], k[:, :, :keys], v[:, :, :keys], mask, dropout
        outputs.append(checkpoint(_attend_and_drop, *block, use_reentrant=False))
    return torch.cat(outputs, dim=2)


def _attend_and_drop(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend with dropout, by the formula written out."""
    scores = (q * q.shape[3] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return drop(scores.softmax(dim=3), dropout) @ v
