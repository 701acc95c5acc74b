"""The decoder: HiFi-GAN's generator (Kong, Kim and Bae 2020, section 2.2), conditioned on the voice.

Shapes: B batch, C channels, T frames, S samples, G channels of the voice vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.spectral.float32 import exact_float32
from headrace.train.models.layers import LEAKY_SLOPE, WeightNormConv1d, WeightNormConvTranspose1d, run_block

KERNEL = 7
"""Kernel size of the first and the last convolution."""
LAST_LEAKY_SLOPE = 0.01
"""Slope of the activation before the last convolution."""
FLOAT32_STAGES = 2
"""This many of the last stages run in float32 where the others run in half precision, whose rounding noise covers quiet
bands of the waveform. With the weights of one tiny model the mel loss was 46.2 in float32, 59.7 with all stages in
bfloat16, 50.4 with the last one in float32, 46.3 with the last two, and 47.9 with all in float16."""


class ResBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, with a residual around each pair."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            WeightNormConv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(
            WeightNormConv1d(channels, channels, kernel, padding=kernel // 2) for _ in dilations
        )
        self.activation: nn.Module = nn.LeakyReLU(LEAKY_SLOPE)

    def forward(self, x_BCT: Tensor, active_BCT: Tensor) -> Tensor:
        """Apply all pairs. (B, C, T).

        Args:
            active_BCT: the activation of x, which blocks side by side share.
        """
        for pair, (dilated, plain) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            hidden = dilated(self.activation(x_BCT) if pair else active_BCT)
            x_BCT = x_BCT + plain(F.leaky_relu(hidden, LEAKY_SLOPE, inplace=True))
        return x_BCT


class HifiGanDecoder(nn.Module):
    """Decodes latent frames to a waveform.

    Each stage upsamples, usually to half the channels, and averages residual blocks of several kernel sizes.
    """

    def __init__(
        self,
        channels: int,
        voice: int,
        *,
        widths: Sequence[int],
        rates: Sequence[int],
        rate_kernels: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        activation_checkpointing: bool = False,
    ) -> None:
        """
        Args:
            channels: of the latent.
            voice: channels of the voice vector.
            widths: channels before the first stage and after each, one more than `rates`.
        """
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.conv_pre = nn.Conv1d(channels, widths[0], KERNEL, padding=KERNEL // 2)
        self.ups = nn.ModuleList(
            WeightNormConvTranspose1d(before, after, kernel, rate, padding=(kernel - rate) // 2)
            for before, after, rate, kernel in zip(widths, widths[1:], rates, rate_kernels, strict=False)
        )
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilation)
            for width in widths[1:]
            for kernel, dilation in zip(kernels, dilations, strict=True)
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, KERNEL, padding=KERNEL // 2, bias=False)
        self.cond = nn.Conv1d(voice, widths[0], 1)
        slopes = [LEAKY_SLOPE] * len(rates) + [LAST_LEAKY_SLOPE]
        self.activations = nn.ModuleList(nn.LeakyReLU(slope) for slope in slopes)
        """Before each upsampling, and before the last convolution."""
        self.divide: Callable[[Tensor, int], Tensor] = torch.div
        """Divides the sum of what the residual blocks of a stage compute by their number."""

    def forward(self, x_BCT: Tensor, voice_BG1: Tensor) -> Tensor:
        """Decode to waveforms, (B, 1, S) in [-1, 1]; S = T * product of rates."""
        x_BCT = self.conv_pre(x_BCT) + self.cond(voice_BG1)
        for stage in range(len(self.ups) - FLOAT32_STAGES):
            x_BCT = run_block(
                partial(self._stage, stage), x_BCT, activation_checkpointing=self.activation_checkpointing
            )
        with exact_float32(x_BCT.device):
            x_BCT = x_BCT.float()
            for stage in range(len(self.ups) - FLOAT32_STAGES, len(self.ups)):
                x_BCT = run_block(
                    partial(self._stage, stage), x_BCT, activation_checkpointing=self.activation_checkpointing
                )
            return torch.tanh(self.conv_post(self.activations[-1](x_BCT)))

    def _stage(self, stage: int, x_BCT: Tensor) -> Tensor:
        """Upsample once, and average the residual blocks of that stage."""
        count = len(self.resblocks) // len(self.ups)
        x_BCT = self.ups[stage](self.activations[stage](x_BCT))
        parallel: Any = self.resblocks[stage * count : (stage + 1) * count]
        active_BCT = parallel[0].activation(x_BCT)
        return self.divide(reduce(torch.add, (residual(x_BCT, active_BCT) for residual in parallel)), count)
