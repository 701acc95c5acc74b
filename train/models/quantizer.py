"""Vector quantiser of the content features: one codebook, learnt as a running k-means.

The codebook is EnCodec's (Défossez et al. 2022, section 3.2), after VQ-VAE (van den Oord et al. 2017, appendix A.1):
each vector is quantised to the nearest entry by Euclidean distance, entries follow the exponential moving average of
the vectors assigned to them, k-means on the first batch initialises them, and an entry that is hardly ever used is
replaced by a random input.

Shapes: B batch, C channels, Q codes (half the frames), N = B * Q vectors, K entries of the codebook.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.features import kmeans

DECAY = 0.99
"""Decay of the moving averages in a step."""
MIN_CLUSTER_SIZE = 2.0
"""An entry is replaced when the moving average of how many vectors are assigned to it falls below this."""
KMEANS_ROUNDS = 50
EPSILON = 1e-5


class Codebook(nn.Module):
    """The entries of a quantiser and their moving averages.

    All state is in buffers, so training resumes exactly from a checkpoint of them. Random numbers come from torch's
    global generator of the device, equally many in each step.
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
        self._initialised = False  # the same as `inited`, without synchronising with the device

    @torch.no_grad()
    def nearest(self, x_NC: Tensor) -> Tensor:
        """Return the index of the entry closest to each vector, (N,) int64."""
        return kmeans.nearest(x_NC, self.embed)

    @torch.no_grad()
    def initialise(self, x_NC: Tensor, valid_N: Tensor) -> None:
        """Initialise the entries by k-means on the first batch; later calls do nothing."""
        if self._initialised:
            return
        if not self.inited:
            self._kmeans(x_NC[valid_N & x_NC.isfinite().all(1)])
        self._initialised = True

    @torch.no_grad()
    def update(self, x_NC: Tensor, codes_N: Tensor, valid_N: Tensor) -> None:
        """Move the entries towards the valid vectors that are assigned to them.

        Vectors that are not finite are ignored: a codebook has no gradient whose update could be skipped.
        """
        finite_N = x_NC.isfinite().all(1)
        valid_N, x_NC = valid_N & finite_N, x_NC.where(finite_N[:, None], 0.0)
        assigned_NK = x_NC.new_zeros(len(x_NC), len(self.embed)).scatter_(
            1, codes_N[:, None], valid_N[:, None].to(x_NC)
        )
        self.cluster_size.lerp_(assigned_NK.sum(0), 1 - DECAY)
        self.embed_avg.lerp_(assigned_NK.T @ x_NC, 1 - DECAY)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + EPSILON) / (total + len(self.embed) * EPSILON) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])
        self._replace_unused(_sample(x_NC, valid_N, len(self.embed)))

    def _replace_unused(self, candidates_KC: Tensor) -> None:
        unused_K = self.cluster_size < MIN_CLUSTER_SIZE
        self.cluster_size.masked_fill_(unused_K, MIN_CLUSTER_SIZE)
        self.embed.copy_(torch.where(unused_K[:, None], candidates_KC, self.embed))
        self.embed_avg.copy_(torch.where(unused_K[:, None], candidates_KC * MIN_CLUSTER_SIZE, self.embed_avg))

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
    """Residual vector quantiser of depth one. Published weights name its codebook `vq.layers.0._codebook`."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        layer = nn.ModuleDict({"_codebook": Codebook(entries, channels)})
        self.vq = nn.ModuleDict({"layers": nn.ModuleList([layer])})

    @property
    def codebook(self) -> Codebook:
        """The codebook, which has no parameters that an optimiser trains."""
        return self.get_submodule("vq.layers.0._codebook")  # type: ignore[return-value]

    def forward(self, x_BCQ: Tensor, valid_BQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise; in training mode, also update the codebook with the valid vectors.

        Returns:
            quantised (B, C, Q), with a straight-through gradient in training mode and none otherwise;
            codes (B, Q) int64; commitment loss () float32, the mean squared distance, 0 in evaluation mode.
        """
        x_NC, valid_N = x_BCQ.mT.flatten(0, 1), valid_BQ.flatten()
        if self.training:
            self.codebook.initialise(x_NC, valid_N)
        codes_N = self.codebook.nearest(x_NC)
        codes_BQ = codes_N.view(valid_BQ.shape)
        quantised_BCQ = self.decode(codes_BQ) + 0 * x_BCQ  # vectors that are not finite stay as they are
        if not self.training:
            return quantised_BCQ, codes_BQ, x_BCQ.new_zeros(())
        error_BCQ = (quantised_BCQ - x_BCQ).square() * valid_BQ[:, None]
        commitment = error_BCQ.sum() / (valid_N.sum() * x_NC.shape[1])
        self.codebook.update(x_NC, codes_N, valid_N)
        return x_BCQ + (quantised_BCQ - x_BCQ).detach(), codes_BQ, commitment

    def decode(self, codes_BQ: Tensor) -> Tensor:
        """Return the entries of the codes, (B, C, Q)."""
        return F.embedding(codes_BQ, self.codebook.embed).mT


def _sample(x_NC: Tensor, valid_N: Tensor, count: int) -> Tensor:
    """Sample `count` of the valid vectors with replacement, (count, C), without synchronising with the device."""
    valid_first_N = torch.argsort(~valid_N, stable=True)
    positions = torch.rand(count, device=x_NC.device) * valid_N.sum()
    return x_NC[valid_first_N[positions.long()]]
