"""Posterior encoder and normalising flow of VITS (Kim, Kong and Son 2021, sections 2.2.2 and 2.2.3).

Shapes: B batch, C latent channels, F spectrogram bins, T frames, G channels of the voice vector.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.models.layers import WeightNormConv1d, run_block

KERNEL = 5


class _Gate(torch.autograd.Function):
    """tanh(signal) * sigmoid(gate) of conditioned channels.

    It takes three kernels forward and three backward, where the formula written out takes four and seven.
    """

    @staticmethod
    def forward(ctx: Any, x_BCT: Tensor, condition_BC1: Tensor) -> Tensor:
        """Add the condition, and gate the first half of the channels by the second one. (B, C / 2, T)."""
        gated_BCT = x_BCT + condition_BC1
        gated_BCT.chunk(2, dim=1)[0].tanh_()
        ctx.save_for_backward(gated_BCT)
        return F.glu(gated_BCT, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient_BHT: Tensor) -> Any:
        """Return the gradients of channels and condition."""
        (gated_BCT,) = ctx.saved_tensors
        gradient_BCT = torch.ops.aten.glu_backward(gradient_BHT, gated_BCT, 1)
        signal, of_signal = (x.chunk(2, dim=1)[0] for x in (gated_BCT, gradient_BCT))
        torch.ops.aten.tanh_backward.grad_input(of_signal, signal, grad_input=of_signal)
        return gradient_BCT, gradient_BCT.sum(2, keepdim=True)


class WaveNet(nn.Module):
    """Gated residual convolutions conditioned on one vector per utterance (WaveNet, van den Oord et al. 2016).

    Without dilation, as in Glow-TTS and VITS.
    """

    def __init__(self, hidden: int, layers: int, voice: int, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        self.activation_checkpointing = activation_checkpointing
        self.in_layers = nn.ModuleList(
            WeightNormConv1d(hidden, 2 * hidden, KERNEL, padding=KERNEL // 2) for _ in range(layers)
        )
        widths = [2 * hidden] * (layers - 1) + [hidden]  # the last layer has no residual output
        self.res_skip_layers = nn.ModuleList(WeightNormConv1d(hidden, width, 1) for width in widths)
        self.cond_layer = WeightNormConv1d(voice, 2 * hidden * layers, 1)

    def forward(self, x_BHT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor) -> Tensor:
        """Return the sum of all layers' skip outputs, (B, H, T), zero where mask is False."""
        skipped: Tensor | float = 0.0
        conditions = self.cond_layer(voice_BG1).chunk(len(self.in_layers), dim=1)
        for layer, condition in enumerate(conditions):
            out = run_block(
                partial(self._layer, layer), x_BHT, condition, activation_checkpointing=self.activation_checkpointing
            )
            if out.shape[1] > self.hidden:
                residual, out = out.chunk(2, dim=1)
                x_BHT = (x_BHT + residual) * mask_B1T
            skipped = out + skipped if layer else out
        return skipped * mask_B1T

    def _layer(self, layer: int, x_BHT: Tensor, condition_BG1: Tensor) -> Tensor:
        """Return residual and skip outputs of a layer, concatenated; the last layer has only the latter."""
        return self.res_skip_layers[layer](_Gate.apply(self.in_layers[layer](x_BHT), condition_BG1))


class PosteriorEncoder(nn.Module):
    """Encodes a linear spectrogram as the Gaussian posterior of the latent, one per frame."""

    def __init__(
        self, bins: int, channels: int, hidden: int, layers: int, voice: int, *, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.pre = nn.Conv1d(bins, hidden, 1)
        self.enc = WaveNet(hidden, layers, voice, activation_checkpointing=activation_checkpointing)
        self.proj = nn.Conv1d(hidden, 2 * channels, 1)

    def forward(self, spec_BFT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, (B, C, T) each.

        The voice gets no gradient from here: it would learn to carry what the latent should.
        """
        hidden = self.pre(spec_BFT) * mask_B1T
        hidden = self.enc(hidden, mask_B1T, voice_BG1.detach())
        mean, log_std = (self.proj(hidden) * mask_B1T).chunk(2, dim=1)
        return mean, log_std


class CouplingLayer(nn.Module):
    """Shift one half of the channels by a function of the other half (RealNVP, Dinh et al. 2017).

    It only shifts, so the transform preserves volume and its log-determinant is 0.
    """

    def __init__(
        self, channels: int, hidden: int, layers: int, voice: int, *, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.pre = nn.Conv1d(channels // 2, hidden, 1)
        self.enc = WaveNet(hidden, layers, voice, activation_checkpointing=activation_checkpointing)
        self.post = nn.Conv1d(hidden, channels // 2, 1)
        for parameter in self.post.parameters():
            nn.init.zeros_(parameter)  # starts as the identity

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor, *, reverse: bool) -> Tensor:
        """Add the shift, or subtract it with `reverse`. (B, C, T)."""
        kept, moved = x_BCT.chunk(2, dim=1)
        shift = self.post(self.enc(self.pre(kept) * mask_B1T, mask_B1T, voice_BG1)) * mask_B1T
        return torch.cat((kept, (moved - shift if reverse else moved + shift) * mask_B1T), dim=1)


class Flip(nn.Module):
    """Reverse the channels, so that the next coupling shifts the half that this one kept."""

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor, *, reverse: bool) -> Tensor:
        """Reverse the channels; this is its own inverse. (B, C, T)."""
        return x_BCT.flip(1)


class ResidualCouplingFlow(nn.Module):
    """Invertible map between the posterior's latent and the prior's."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        couplings: int,
        layers: int,
        voice: int,
        *,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.flows = nn.ModuleList()
        for _ in range(couplings):
            self.flows.extend(
                (
                    CouplingLayer(channels, hidden, layers, voice, activation_checkpointing=activation_checkpointing),
                    Flip(),
                )
            )

    def forward(self, x_BCT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor, *, reverse: bool = False) -> Tensor:
        """Map the posterior's latent to the prior's, or back with `reverse`. (B, C, T)."""
        for flow in reversed(self.flows) if reverse else self.flows:
            x_BCT = flow(x_BCT, mask_B1T, voice_BG1, reverse=reverse)
        return x_BCT
