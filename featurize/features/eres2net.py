"""ERes2NetV2 (Chen et al. 2024, "ERes2NetV2: Boosting Short-Duration Speaker Verification Performance with
Computational Efficiency"), up to the feature map that GPT-SoVITS reads.

Parameters have the names of the published weights.

Shapes: B batch, T frames of 10 ms, M mel bands, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headrace.featurize.features import weight_files
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import UsageError

MELS = 80
STEM, DEPTHS, SCALE, BASE, EXPANSION = 64, (3, 4, 6, 3), 4, 24, 4
CHANNELS = 8 * STEM * EXPANSION * MELS // 8
"""Channels of the speaker vector: 20480."""


class Fusion(nn.Module):
    """Attentional fusion: weighs two feature maps against each other, element by element."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.local_att = nn.Sequential(
            nn.Conv2d(2 * channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.SiLU(),
            nn.Conv2d(inner, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        attention = torch.tanh(self.local_att(torch.cat((x, y), 1)))
        return x * (1 + attention) + y * (1 - attention)


class Block(nn.Module):
    """A residual block whose middle convolution runs over slices of the channels.

    Each slice has the output of the slice before it added, or fused with it.
    """

    def __init__(self, inputs: int, planes: int, stride: int, *, fused: bool) -> None:
        super().__init__()
        width = planes * BASE // 64
        self.conv1 = nn.Conv2d(inputs, SCALE * width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(SCALE * width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(SCALE))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(SCALE))
        self.fuse_models = nn.ModuleList(Fusion(width) for _ in range(SCALE - 1) if fused)
        self.conv3 = nn.Conv2d(SCALE * width, planes * EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * EXPANSION)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes * EXPANSION:
            skip = nn.Conv2d(inputs, planes * EXPANSION, 1, stride, bias=False)
            self.shortcut = nn.Sequential(skip, nn.BatchNorm2d(planes * EXPANSION))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = _clipped_relu(self.bn1(self.conv1(x))).chunk(SCALE, 1)
        outputs = [_clipped_relu(self.bns[0](self.convs[0](first)))]
        for n, chunk in enumerate(others):
            mixed = self.fuse_models[n](outputs[-1], chunk) if self.fuse_models else outputs[-1] + chunk
            outputs.append(_clipped_relu(self.bns[n + 1](self.convs[n + 1](mixed))))
        return _clipped_relu(self.bn3(self.conv3(torch.cat(outputs, 1))) + self.shortcut(x))


def _stage(inputs: int, planes: int, depth: int, stride: int, *, fused: bool) -> nn.Sequential:
    others = (Block(EXPANSION * planes, planes, 1, fused=fused) for _ in range(depth - 1))
    return nn.Sequential(Block(inputs, planes, stride, fused=fused), *others)


class ERes2NetV2(nn.Module):
    """The network from log-mel filterbanks to a feature map of 10 bands, at one eighth of the frame rate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        planes = [STEM << n for n in range(4)]
        outputs = [EXPANSION * some for some in planes]
        self.layer1 = _stage(STEM, planes[0], DEPTHS[0], 1, fused=False)
        self.layer2 = _stage(outputs[0], planes[1], DEPTHS[1], 2, fused=False)
        self.layer3 = _stage(outputs[1], planes[2], DEPTHS[2], 2, fused=True)
        self.layer4 = _stage(outputs[2], planes[3], DEPTHS[3], 2, fused=True)
        self.layer3_ds = nn.Conv2d(outputs[2], outputs[3], 3, 2, padding=1, bias=False)
        self.fuse34 = Fusion(outputs[3])

    @without_tf32()
    def forward(self, fbank_BTM: Tensor) -> Tensor:
        """Compute the feature map (B, CHANNELS, ceil(T / 8)) of filterbanks (B, T, M)."""
        x = torch.relu(self.bn1(self.conv1(fbank_BTM.mT[:, None])))
        third = self.layer3(self.layer2(self.layer1(x)))
        fused: Tensor = self.fuse34(self.layer4(third), self.layer3_ds(third))
        return fused.flatten(1, 2)


def load(weights: Mapping[str, Tensor], source: str) -> ERes2NetV2:
    """Return the network with published weights, for inference. Layers after the feature map are dropped.

    Raises:
        UsageError: the weights are those of another network.
    """
    with torch.device("meta"):
        network = ERes2NetV2()
    expected = network.state_dict()
    wrong = [name for name in expected if name not in weights or weights[name].shape != expected[name].shape]
    if wrong:
        raise UsageError(
            f"{source} holds no ERes2NetV2 of base width {BASE}, scale {SCALE} and expansion {EXPANSION}: "
            f"{len(wrong)} of its {len(expected)} tensors are missing or of another shape, such as {wrong[0]}."
        )
    used = {name: weights[name].detach().to(expected[name].dtype) for name in expected}
    weight_files.check_finite(used, source)
    network.load_state_dict(used, assign=True)
    return network.eval().requires_grad_(False)


def _clipped_relu(x: Tensor) -> Tensor:
    return x.clamp(0, 20)
