"""Attention over frames and phones: the transformer encoder of VITS and the MRTE of GPT-SoVITS.

Shapes: B batch, C channels, T frames, P keys (frames or phones), H heads, D channels of a head,
R = 2 * window + 1 relative positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.models.layers import ChannelNorm, Dropout

WINDOW = 4
"""Frames to either side that have relative position embeddings."""


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017), with relative positions where `window` is not 0.

    Relative positions are those of Shaw et al. 2018: learned keys and values for the offsets -window to window,
    shared by all heads; keys farther away have none.
    """

    def __init__(self, channels: int, heads: int, *, dropout: float = 0.0, window: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        width = channels // heads
        if window:
            self.emb_rel_k = nn.Parameter(torch.randn(1, 2 * window + 1, width) * width**-0.5)
            self.emb_rel_v = nn.Parameter(torch.randn(1, 2 * window + 1, width) * width**-0.5)
        self.conv_q = nn.Conv1d(channels, channels, 1)
        self.conv_k = nn.Conv1d(channels, channels, 1)
        self.conv_v = nn.Conv1d(channels, channels, 1)
        self.conv_o = nn.Conv1d(channels, channels, 1)
        self.drop = Dropout(dropout)
        for conv in (self.conv_q, self.conv_k, self.conv_v):
            nn.init.xavier_uniform_(conv.weight)

    def forward(
        self, x_BCT: Tensor, memory_BCP: Tensor, mask_B1P: Tensor, neighbours_TR: Tensor | None = None
    ) -> Tensor:
        """Attend from x to the keys of `memory` where mask is True. (B, C, T).

        With a window, x and memory are equally long.

        Args:
            neighbours_TR: `neighbours` of so many frames, for a window.
        """
        query = self._split(self.conv_q(x_BCT)) * (x_BCT.shape[1] // self.heads) ** -0.5
        scores = query @ self._split(self.conv_k(memory_BCP)).mT
        if neighbours_TR is not None:
            columns = neighbours_TR.expand(*scores.shape[:2], -1, -1)
            scores = scores + self._by_key(query @ self.emb_rel_k.mT, columns)
        # A finite value within float16, so that rows without any valid key stay finite too.
        scores = scores.where(mask_B1P[:, None], -1e4)
        weights = self.drop(scores.softmax(dim=3))
        output = weights @ self._split(self.conv_v(memory_BCP))
        if neighbours_TR is not None:
            padded = F.pad(weights, (self.window, self.window))  # no frame is beyond either end
            output = output + padded.gather(3, columns) @ self.emb_rel_v
        return self.conv_o(output.mT.reshape(x_BCT.shape))

    def _split(self, x_BCT: Tensor) -> Tensor:
        """Split channels into heads: (B, H, T, D)."""
        return x_BCT.unflatten(1, (self.heads, -1)).mT

    def _by_key(self, x_BHTR: Tensor, columns_BHTR: Tensor) -> Tensor:
        """Map values at relative offsets to absolute keys, (B, H, T, T), zero outside the window."""
        size = x_BHTR.shape[2]
        banded = x_BHTR.new_zeros(*x_BHTR.shape[:3], size + 2 * self.window)
        return banded.scatter(3, columns_BHTR, x_BHTR)[..., self.window : self.window + size]


def neighbours(frames: int, window: int, device: torch.device) -> Tensor:
    """Return the columns of each frame's R neighbours, in keys padded by `window` on both sides: t to t + R - 1."""
    return torch.arange(frames, device=device)[:, None] + torch.arange(2 * window + 1, device=device)


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between them."""

    def __init__(self, channels: int, inner: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, inner, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(inner, channels, kernel, padding=kernel // 2)
        self.drop = Dropout(dropout)

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Transform each frame. (B, C, T), zero where mask is False."""
        hidden = self.drop(F.relu(self.conv_1(x_BCT * mask_B1T)))
        return self.conv_2(hidden * mask_B1T) * mask_B1T


class Encoder(nn.Module):
    """Post-norm transformer encoder with relative positions (VITS, Kim et al. 2021, text encoder)."""

    def __init__(self, channels: int, inner: int, heads: int, layers: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.attn_layers = nn.ModuleList(
            MultiHeadAttention(channels, heads, dropout=dropout, window=WINDOW) for _ in range(layers)
        )
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(FeedForward(channels, inner, kernel, dropout) for _ in range(layers))
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Encode. (B, C, T), zero where mask is False."""
        x_BCT = x_BCT * mask_B1T
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        near_TR = neighbours(x_BCT.shape[2], WINDOW, x_BCT.device)
        for attend, norm_1, feed, norm_2 in layers:
            x_BCT = norm_1(x_BCT + self.drop(attend(x_BCT, x_BCT, mask_B1T, near_TR)))
            x_BCT = norm_2(x_BCT + self.drop(feed(x_BCT, mask_B1T)))
        return x_BCT * mask_B1T


class MRTE(nn.Module):
    """Multi-reference timbre encoder as GPT-SoVITS uses it (after Mega-TTS 2, Jiang et al. 2023).

    Content frames attend to the phones that they speak, and the voice is added.
    """

    def __init__(self, channels: int, inner: int, heads: int) -> None:
        super().__init__()
        self.cross_attention = MultiHeadAttention(inner, heads)
        self.c_pre = nn.Conv1d(channels, inner, 1)
        self.text_pre = nn.Conv1d(channels, inner, 1)
        self.c_post = nn.Conv1d(inner, channels, 1)

    def forward(
        self, content_BCT: Tensor, mask_B1T: Tensor, text_BCP: Tensor, mask_B1P: Tensor, voice_BG1: Tensor
    ) -> Tensor:
        """Combine content, text and voice. (B, C, T).

        The result is not masked: frames past the end hold the bias of the last convolution.
        """
        content = self.c_pre(content_BCT * mask_B1T)
        text = self.text_pre(text_BCP * mask_B1P)
        attended = self.cross_attention(content * mask_B1T, text * mask_B1P, mask_B1P)
        return self.c_post((attended + content + voice_BG1) * mask_B1T)
