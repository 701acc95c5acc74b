"""Vector quantiser of the content features: one codebook, learnt as a running k-means.

The codebook is EnCodec's (Défossez et al. 2022, section 3.2), after VQ-VAE (van den Oord et al. 2017, appendix A.1):
nearest code by Euclidean distance, codes follow the mean of what they win by exponential moving average, k-means on
the first batch gives them their start, and a code that wins next to nothing moves to a random input.

Shapes: B batch, C channels, Q codes (half the frames), N = B * Q vectors, K entries of the codebook.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.features import kmeans

DECAY = 0.99
"""Share of the moving averages that stays after a step."""
DEAD_BELOW = 2.0
"""A code whose moving count of won vectors is lower gets replaced."""
KMEANS_ROUNDS = 50
EPSILON = 1e-5


class Codebook(nn.Module):
    """Entries and their moving averages. All state is in buffers, so a checkpoint of them resumes exactly.

    Random draws come from torch's global generator of the device, equally many each step.
    """

    inited: Tensor
    cluster_size: Tensor
    embed: Tensor
    embed_avg: Tensor

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("inited", torch.zeros(1))
        self.register_buffer("cluster_size", torch.zeros(entries))
        self.register_buffer("embed", torch.zeros(entries, channels))
        self.register_buffer("embed_avg", torch.zeros(entries, channels))
        self._ready = False  # what `inited` says, known without waiting for the device

    @torch.no_grad()
    def nearest(self, x_NC: Tensor) -> Tensor:
        """(N,) int64: the entry closest to each vector."""
        return kmeans.nearest(x_NC, self.embed)

    @torch.no_grad()
    def start(self, x_NC: Tensor, valid_N: Tensor) -> None:
        """k-means of the first batch, once in the codebook's life."""
        if self._ready:
            return
        if not self.inited:
            self._kmeans(x_NC[valid_N & x_NC.isfinite().all(1)])
        self._ready = True

    @torch.no_grad()
    def learn(self, x_NC: Tensor, codes_N: Tensor, valid_N: Tensor) -> None:
        """Move the entries towards the valid vectors that they won. One that is not finite teaches nothing: a codebook
        has no gradient whose update could be left out."""
        finite_N = x_NC.isfinite().all(1)
        valid_N, x_NC = valid_N & finite_N, x_NC.where(finite_N[:, None], 0.0)
        won_NK = x_NC.new_zeros(len(x_NC), len(self.embed)).scatter_(1, codes_N[:, None], valid_N[:, None].to(x_NC))
        self.cluster_size.lerp_(won_NK.sum(0), 1 - DECAY)
        self.embed_avg.lerp_(won_NK.T @ x_NC, 1 - DECAY)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + EPSILON) / (total + len(self.embed) * EPSILON) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])
        self._replace_dead(_sample(x_NC, valid_N, len(self.embed)))

    def _replace_dead(self, candidates_KC: Tensor) -> None:
        dead_K = self.cluster_size < DEAD_BELOW
        self.cluster_size.masked_fill_(dead_K, DEAD_BELOW)
        self.embed.copy_(torch.where(dead_K[:, None], candidates_KC, self.embed))
        self.embed_avg.copy_(torch.where(dead_K[:, None], candidates_KC * DEAD_BELOW, self.embed_avg))

    def _kmeans(self, x_NC: Tensor) -> None:
        entries = len(self.embed)
        self.embed.copy_(_sample(x_NC, x_NC.new_ones(len(x_NC), dtype=torch.bool), entries))
        for _ in range(KMEANS_ROUNDS):
            means, count_K = kmeans.update(x_NC, self.embed, self.nearest(x_NC), kmeans.sums_by_product)
            self.embed.copy_(means)
        self.cluster_size.copy_(count_K)
        self.embed_avg.copy_(self.embed * count_K[:, None])
        self.inited.fill_(1)


class VectorQuantizer(nn.Module):
    """A residual vector quantiser of depth one; `vq.layers.0._codebook` is what trained weights call its codebook."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        layer = nn.ModuleDict({"_codebook": Codebook(entries, channels)})
        self.vq = nn.ModuleDict({"layers": nn.ModuleList([layer])})

    @property
    def codebook(self) -> Codebook:
        return self.get_submodule("vq.layers.0._codebook")  # type: ignore[return-value]

    def forward(self, x_BCQ: Tensor, valid_BQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise; in training mode also learn the codebook from the valid vectors.

        Returns:
            quantised (B, C, Q), with a straight-through gradient in training mode and none otherwise;
            codes (B, Q) int64; commitment loss () float32, the mean squared distance, 0 in evaluation mode.
        """
        x_NC, valid_N = x_BCQ.mT.flatten(0, 1), valid_BQ.flatten()
        if self.training:
            self.codebook.start(x_NC, valid_N)
        codes_N = self.codebook.nearest(x_NC)
        codes_BQ = codes_N.view(valid_BQ.shape)
        quantised_BCQ = self.decode(codes_BQ) + 0 * x_BCQ  # what is not finite has no code, and stays as it is
        if not self.training:
            return quantised_BCQ, codes_BQ, x_BCQ.new_zeros(())
        error_BCQ = (quantised_BCQ - x_BCQ).square() * valid_BQ[:, None]
        commitment = error_BCQ.sum() / (valid_N.sum() * x_NC.shape[1])
        self.codebook.learn(x_NC, codes_N, valid_N)
        return x_BCQ + (quantised_BCQ - x_BCQ).detach(), codes_BQ, commitment

    def decode(self, codes_BQ: Tensor) -> Tensor:
        """Codes to their entries, (B, C, Q)."""
        return F.embedding(codes_BQ, self.codebook.embed).mT


def _sample(x_NC: Tensor, valid_N: Tensor, count: int) -> Tensor:
    """`count` of the valid vectors at random, with replacement. (count, C). Never waits for the device."""
    valid_first_N = torch.argsort(~valid_N, stable=True)
    at = torch.rand(count, device=x_NC.device) * valid_N.sum()
    return x_NC[valid_first_N[at.long()]]
