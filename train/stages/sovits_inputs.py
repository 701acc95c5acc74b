"""From a batch of the store to what the SoVITS networks read.

Shapes: B batch, T frames of the longest utterance, padded; S samples, H samples of a hop, W content channels,
F spectrogram bins, P phones, C latent channels, V channels of a speaker vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.featurize.spectral.dsp import Spectral, mfcc_content
from headrace.train.data.batch import Batch
from headrace.train.models.layers import length_mask
from headrace.train.models.sovits_config import SovitsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SovitsInputs:
    """Everything is zero past an utterance's end. T is even, and holds a segment."""

    spec: Tensor
    """(B, F, T) float32, linear."""
    wave: Tensor
    """(B, H, T) float32 in [-1, 1], a frame a column."""
    frames: Tensor
    """(B,) int64."""
    phones: Tensor
    """(B, P) int64."""
    phones_n: Tensor
    """(B,) int64."""
    content: Tensor | None = None
    """(B, W, T) float32; None where there are codes."""
    codes: Tensor | None = None
    """(B, T / 2) int64, what a frozen quantiser makes of content, from a store that holds it."""
    speaker: Tensor | None = None
    """(B, V) float32, for a model that reads speaker vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomInputs:
    """The randomness of a step, but for dropout and the codebook."""

    noise: Tensor
    """(B, C, T) standard normal."""
    starts: Tensor
    """(B,) int64, first frame of each segment."""


def prepare_inputs(batch: Batch, spectral: Spectral, config: SovitsConfig) -> SovitsInputs:
    """Compute spectrogram and, where it comes from MFCC, content on the batch's device, and pad: to an even length, for
    content is halved, of one frame more than the longest utterance at least, as published weights have seen it, and to
    a segment at least.

    Each utterance's spectrogram is what it is alone: its waveform is mirrored at its own end, not at the batch's.

    Args:
        batch: with wave, phones, one of semantic, content and mfcc, and speaker_vector where the model reads it; every
            utterance has `spectral.recipe.min_frames` frames or more.
    """
    longest = batch["wave"].shape[1]
    size = 2 * (max(longest, config.segment_frames - 1) // 2 + 1)
    wave_BTH = F.pad(batch["wave"], (0, 0, 0, size - longest)).float() / 32768
    return SovitsInputs(
        content=None if "semantic" in batch.tensors else _content(batch, size, config),
        codes=_padded(batch["semantic"].long(), size // 2) if "semantic" in batch.tensors else None,
        spec=_spectrogram(wave_BTH, batch.frames, spectral),
        wave=wave_BTH.mT,
        frames=batch.frames,
        phones=batch["phones"].long(),
        phones_n=batch.phones_n,
        speaker=batch["speaker_vector"].flatten(1).float() if config.speaker_channels else None,
    )


def draw_random_inputs(
    inputs: SovitsInputs, config: SovitsConfig, generator: torch.Generator | None = None
) -> RandomInputs:
    """Noise and segments, from torch's global generator of the device if no other is given. Segments lie within their
    utterance where it is long enough, and begin at frame 0 where it is not."""
    B, _, T = inputs.spec.shape
    device = inputs.spec.device
    noise = torch.randn(B, config.inter_channels, T, device=device, generator=generator)
    choices = (inputs.frames - config.segment_frames + 1).clamp(min=1)
    return RandomInputs(noise=noise, starts=(torch.rand(B, device=device, generator=generator) * choices).long())


def _content(batch: Batch, size: int, config: SovitsConfig) -> Tensor:
    """(B, W, T)."""
    if "content" in batch.tensors:
        content_BTW = batch["content"].float()
    else:
        content_BTW = mfcc_content(batch["mfcc"], batch.frames, config.ssl_channels)
    return _padded(content_BTW.mT, size)


def _padded(x: Tensor, size: int) -> Tensor:
    """The last axis filled up with zeros."""
    return F.pad(x, (0, size - x.shape[-1]))


def _spectrogram(wave_BTH: Tensor, frames_B: Tensor, spectral: Spectral) -> Tensor:
    """(B, F, T), zero past each end."""
    size, hop = wave_BTH.shape[1:]
    spare = spectral.recipe.padding // hop + 1  # frames that the window of the last valid one may reach into
    wave_BS = F.pad(wave_BTH, (0, 0, 0, spare)).flatten(1)
    mirrored_BS = _mirror_ends(wave_BS, frames_B * hop, spectral.recipe.padding)
    return spectral.magnitude(mirrored_BS)[:, :size].mT * length_mask(frames_B, size)


def _mirror_ends(wave_BS: Tensor, samples_B: Tensor, reach: int) -> Tensor:
    """Reflect the last `reach` samples of every row about its own end; what lies beyond stays as it is."""
    steps = torch.arange(reach, device=wave_BS.device)
    end_B1 = samples_B[:, None]
    return wave_BS.scatter(1, end_B1 + steps, wave_BS.gather(1, end_B1 - 2 - steps))
