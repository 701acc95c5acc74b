"""Multi-period discriminator with one scale discriminator, as in VITS (Kim et al. 2021), after HiFi-GAN (Kong et al.
2020, section 2.3) and MelGAN (Kumar et al. 2019).

Shapes: B batch, S samples, C channels, D period.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.models.layers import LEAKY_SLOPE, WeightNormConv1d, WeightNormConv2d

DiscriminatorOutput = tuple[Tensor, list[Tensor]]
"""Scores (B, N), and the feature maps of all layers, the last one included."""


class _ConvStack(nn.Module):
    """A stack of convolutions that returns the feature maps of all of them."""

    convs: nn.ModuleList
    conv_post: nn.Module

    def score(self, x: Tensor) -> DiscriminatorOutput:
        """Return scores and feature maps."""
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE, inplace=True)
            features.append(x)
        x = self.conv_post(x)
        features.append(x)
        return x.flatten(1), features


class ScaleDiscriminator(_ConvStack):
    """Discriminator of strided grouped convolutions over the waveform."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [1, width // 64, width // 16, width // 4, width, width]
        self.convs = nn.ModuleList([WeightNormConv1d(1, widths[1], 15, padding=7)])
        for before, after in pairwise(widths[1:]):
            groups = max(1, before // 4)
            self.convs.append(WeightNormConv1d(before, after, 41, 4, groups=groups, padding=20))
        self.convs.append(WeightNormConv1d(width, width, 5, padding=2))
        self.conv_post = WeightNormConv1d(width, 1, 3, padding=1)

    def forward(self, wave_B1S: Tensor) -> DiscriminatorOutput:
        """Score waveforms (B, 1, S)."""
        return self.score(wave_B1S)


class PeriodDiscriminator(_ConvStack):
    """Discriminator of convolutions along every `period`-th sample: the waveform is folded to (B, 1, S / D, D)."""

    def __init__(self, period: int, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, width // 32, width // 8, width // 2, width]
        self.convs = nn.ModuleList(
            WeightNormConv2d(before, after, (5, 1), (3, 1), padding=(2, 0)) for before, after in pairwise(widths)
        )
        self.convs.append(WeightNormConv2d(width, width, (5, 1), padding=(2, 0)))
        self.conv_post = WeightNormConv2d(width, 1, (3, 1), padding=(1, 0))

    def forward(self, wave_B1S: Tensor) -> DiscriminatorOutput:
        """Score waveforms (B, 1, S), padded by reflection to a multiple of the period."""
        missing = -wave_B1S.shape[2] % self.period
        padded_B1S = F.pad(wave_B1S, (0, missing), mode="reflect") if missing else wave_B1S
        return self.score(padded_B1S.unflatten(2, (-1, self.period)))


class MultiPeriodDiscriminator(nn.Module):
    """One scale discriminator, then one discriminator for each period."""

    def __init__(self, periods: Sequence[int], width: int) -> None:
        """
        Args:
            periods: in samples.
            width: channels of the widest layers, a multiple of 64; those of the others are fixed fractions of it.
        """
        super().__init__()
        self.discriminators = nn.ModuleList([ScaleDiscriminator(width)])
        self.discriminators.extend(PeriodDiscriminator(period, width) for period in periods)

    def forward(self, wave_B1S: Tensor) -> list[DiscriminatorOutput]:
        """Score waveforms (B, 1, S) with each discriminator; S must exceed the longest period."""
        return [discriminator(wave_B1S) for discriminator in self.discriminators]
