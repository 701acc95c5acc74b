"""Post-norm transformer (Vaswani et al. 2017). Parameters have the names and shapes of torch's own encoder.

Shapes: B batch, L positions, C channels, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headrace.train.models.layers import Dropout
from headrace.train.models.prefix_attention import AttentionFn


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values.

    The caller passes the attention function, which knows masks and caches.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BLC: Tensor, attend: AttentionFn) -> Tensor:
        """Attend within each sequence. (B, L, C)."""
        projected = self.project(x_BLC)
        # In this order of axes the backward pass stacks the three gradients where the projection reads them.
        q, k, v = (x_BLHD.transpose(1, 2) for x_BLHD in projected.unflatten(2, (3, self.heads, -1)).unbind(2))
        output_BHLD = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.out_proj(output_BHLD.transpose(1, 2).flatten(2))

    def project(self, x_BLC: Tensor) -> Tensor:
        """Project to queries, keys and values, one after the other. (B, L, 3 C)."""
        return F.linear(x_BLC, self.in_proj_weight, self.in_proj_bias)


class Layer(nn.Module):
    """Self-attention and a feed-forward layer with ReLU, each with a residual connection followed by a norm."""

    def __init__(self, channels: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(channels, heads, dropout)
        self.linear1 = nn.Linear(channels, inner)
        self.linear2 = nn.Linear(inner, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.drop = Dropout(dropout)

    def forward(self, x_BLC: Tensor, attend: AttentionFn) -> Tensor:
        """Apply the layer. (B, L, C)."""
        x_BLC = self.norm1(x_BLC + self.drop(self.self_attn(x_BLC, attend)))
        hidden = self.drop(F.relu(self.linear1(x_BLC)))
        return self.norm2(x_BLC + self.drop(self.linear2(hidden)))


class Transformer(nn.Module):
    """A stack of layers."""

    def __init__(self, layers: int, channels: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(channels, inner, heads, dropout) for _ in range(layers))

    def forward(
        self,
        x_BLC: Tensor,
        attentions: Iterable[AttentionFn],
        *,
        activation_checkpointing: bool = False,
        layers: range | None = None,
    ) -> Tensor:
        """Apply all layers. (B, L, C).

        Args:
            attentions: the attention of each layer.
            activation_checkpointing: keep only the input of each layer for the backward pass, and run the layer again
                there: a third more time, a fifteenth of the activations.
            layers: numbers of those to apply, instead of all.
        """
        chosen = self.layers if layers is None else self.layers[layers.start : layers.stop]
        for layer, attend in zip(chosen, attentions, strict=False):
            if activation_checkpointing:
                x_BLC = checkpoint(layer, x_BLC, attend, use_reentrant=False)
            else:
                x_BLC = layer(x_BLC, attend)
        return x_BLC
