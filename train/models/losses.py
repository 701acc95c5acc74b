"""Losses of adversarial VITS training. All of them are computed in float32, whatever the networks ran in.

Shapes: B batch, C latent channels, T frames, N scores. Every function returns a 0-d tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def discriminator_loss(real_BN: Sequence[Tensor], fake_BN: Sequence[Tensor]) -> Tensor:
    """Return the discriminators' least squares GAN loss (Mao et al. 2017).

    Real scores should be 1 and generated ones 0; summed over discriminators.
    """
    return _mean_squared_errors(real_BN, 1.0) + _mean_squared_errors(fake_BN, 0.0)


def generator_loss(fake_BN: Sequence[Tensor]) -> Tensor:
    """Return the generator's least squares GAN loss: generated scores should be 1. Summed over discriminators."""
    return _mean_squared_errors(fake_BN, 1.0)


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return twice the mean absolute difference of feature maps, summed over discriminators and layers.

    Feature matching is by Larsen et al. 2016, its weight by HiFi-GAN (Kong et al. 2020).
    """
    reals, fakes = ([layer.float() for layers in of for layer in layers] for of in (real, fake))
    return 2 * _MeanDistances.apply(len(reals), *reals, *fakes)


def mel_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the mean absolute difference of two log-mel spectrograms of one shape, not weighted."""
    return (real.float() - fake.float()).abs().mean()


def kl_loss(z_p_BCT: Tensor, logs_q_BCT: Tensor, m_p_BCT: Tensor, logs_p_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
    """Estimate the KL divergence of the posterior from the prior (VITS, Kim et al. 2021, equation 4).

    It is estimated with one sample z_p, summed over channels and averaged over valid frames.

    Args:
        z_p_BCT: a sample of the posterior after the flow.
        logs_q_BCT: log standard deviation of the posterior.
        m_p_BCT, logs_p_BCT: mean and log standard deviation of the prior.
        mask_B1T: True where a frame is valid.
    """
    logs_p, logs_q = logs_p_BCT.float(), logs_q_BCT.float()
    distance = (z_p_BCT.float() - m_p_BCT.float()).square() * torch.exp(-2 * logs_p)
    return ((logs_p - logs_q - 0.5 + 0.5 * distance) * mask_B1T).sum() / mask_B1T.sum()


class _MeanDistances(torch.autograd.Function):
    """The sum of mean absolute differences of pairs of tensors, in a few kernels for all pairs.

    Only the second tensor of a pair gets a gradient: its sign of the difference, by its number of elements.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> Tensor:
        """Return the sum, (), over the first `count` tensors and their partners, which follow them."""
        differences = torch._foreach_sub(tensors[count:], tensors[:count])
        ctx.save_for_backward(*differences)
        return torch.stack(torch._foreach_div(torch._foreach_norm(differences, 1), _sizes(differences))).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of all second tensors."""
        gradients = torch._foreach_sign(ctx.saved_tensors)
        torch._foreach_div_(gradients, _sizes(gradients))
        torch._foreach_mul_(gradients, gradient)
        return (None, *[None] * len(gradients), *gradients)


def _mean_squared_errors(scores_BN: Sequence[Tensor], target: float) -> Tensor:
    """Return the mean squared distance of scores from what they should be, summed over discriminators."""
    return _MeanSquaredErrors.apply(target, *[scores.float() for scores in scores_BN])


class _MeanSquaredErrors(torch.autograd.Function):
    """The sum of mean squared distances of tensors from a number, in a few kernels for all tensors."""

    @staticmethod
    def forward(ctx: Any, target: float, *tensors: Tensor) -> Tensor:
        """Return the sum, ()."""
        errors = torch._foreach_sub(tensors, target)
        ctx.save_for_backward(*errors)
        squares = torch._foreach_pow(torch._foreach_norm(errors), 2.0)
        return torch.stack(torch._foreach_div(squares, _sizes(errors))).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradients of all tensors."""
        gradients = torch._foreach_mul(ctx.saved_tensors, [2 / size for size in _sizes(ctx.saved_tensors)])
        torch._foreach_mul_(gradients, gradient)
        return (None, *gradients)


def _sizes(tensors: Iterable[Tensor]) -> list[float]:
    """Return the number of elements of each tensor."""
    return [float(tensor.numel()) for tensor in tensors]
