"""Mel-style encoder: the voice of a recording as one vector (Meta-StyleSpeech, Min et al. 2021, section 3.1).

Shapes: B batch, F spectrogram bins, T frames, C channels, H heads, D channels of a head, G width of the voice vector.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.models.layers import Dropout

HEADS = 2
KERNEL = 5
DROPOUT = 0.1


def named(name: str, module: nn.Module) -> nn.Sequential:
    """Wrap a module under a name, where the names of published weights have one more level."""
    return nn.Sequential(OrderedDict({name: module}))


class GatedConv(nn.Module):
    """Residual convolution with a gated linear unit (Dauphin et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = named("conv", nn.Conv1d(channels, 2 * channels, KERNEL, padding=KERNEL // 2))
        self.drop = Dropout(DROPOUT)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Apply the convolution. (B, C, T)."""
        return x_BCT + self.drop(F.glu(self.conv1(x_BCT), dim=1))


class SelfAttention(nn.Module):
    """Self-attention with a residual. Scores are divided by the root of all channels, not of one head's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = channels**-0.5
        self.w_qs = nn.Linear(channels, channels)
        self.w_ks = nn.Linear(channels, channels)
        self.w_vs = nn.Linear(channels, channels)
        self.fc = nn.Linear(channels, channels)
        self.drop = Dropout(DROPOUT)

    def forward(self, x_BTC: Tensor, mask_B1T: Tensor) -> Tensor:
        """Attend within each recording. (B, T, C)."""
        query, key, value = (
            project(x_BTC).unflatten(2, (HEADS, -1)).transpose(1, 2) for project in (self.w_qs, self.w_ks, self.w_vs)
        )
        output_BHTD = F.scaled_dot_product_attention(query, key, value, mask_B1T[:, None], scale=self.scale)
        return x_BTC + self.drop(self.fc(output_BHTD.transpose(1, 2).flatten(2)))


class MelStyleEncoder(nn.Module):
    """Encodes a spectrogram as a voice vector."""

    def __init__(self, bins: int, channels: int, voice: int) -> None:
        super().__init__()
        self.spectral = nn.Sequential(
            named("fc", nn.Linear(bins, channels)),
            nn.Mish(),
            Dropout(DROPOUT),
            named("fc", nn.Linear(channels, channels)),
            nn.Mish(),
            Dropout(DROPOUT),
        )
        self.temporal = nn.Sequential(GatedConv(channels), GatedConv(channels))
        self.slf_attn = SelfAttention(channels)
        self.fc = named("fc", nn.Linear(channels, voice))

    def forward(self, spec_BFT: Tensor, mask_B1T: Tensor) -> Tensor:
        """Return the voice vector, (B, G, 1): the mean over valid frames, summed in float32.

        Every utterance needs one valid frame at least. The convolutions read up to four frames of padding past an
        utterance's end, as they did when published weights were trained.
        """
        hidden = self.temporal(self.spectral((spec_BFT * mask_B1T).mT).mT) * mask_B1T
        style_BTG = self.fc(self.slf_attn(hidden.mT, mask_B1T))
        valid_BT1 = mask_B1T.mT
        return ((style_BTG.float() * valid_BT1).sum(1) / valid_BT1.sum(1)).unsqueeze(2)
