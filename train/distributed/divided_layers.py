"""Networks whose layers lie on several processes, which compute the same utterances together."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from headrace.train.distributed.gradient_buckets import GradientBuckets, ReductionOptions
from headrace.train.distributed.network_parts import NetworkInParts


class DividedLayers(NetworkInParts):
    """A network of whose layers each process has a part, all of the same batch.

    Gradients come to be where the parts lie. They are summed over copies of the model, in buckets.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        mesh: DeviceMesh,
        options: ReductionOptions,
        device: torch.device,
    ) -> None:
        """Divide a network, and move what this process has of it to the device.

        Args:
            network: on the CPU or the device, the same on all ranks.
            mesh: of `make_mesh`.
            options: of the sum over the copies of the model.
        """
        self._size, self._device = mesh.size(1), device
        super().__init__(network, optimizer, mesh.get_group("shard"))
        self._gradients = GradientBuckets(network.parameters(), replace(options, readers=mesh.get_group("copy")))

    def allocate(self) -> None:
        """Allocate the gradients that are summed over copies of the model."""
        self._gradients.allocate()

    def begin(self) -> None:
        """Clear gradients for an update."""
        self._gradients.begin()

    def finish(self) -> None:
        """Give each part its gradient, summed over copies of the model, zero where there is none."""
        self._gradients.finish()
        for name, part in self.parts.items():
            if part.requires_grad:
                part.grad = self._part_gradient(name, part)

    @abstractmethod
    def _part_gradient(self, name: str, part: nn.Parameter) -> Tensor:
        """Return the gradient of a part, when those of the network are summed."""
