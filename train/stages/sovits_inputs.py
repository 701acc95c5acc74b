"""Preparation of the inputs of the SoVITS networks from a batch of the store.

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
    """Padded features of a batch, zero past each utterance's end. T is even, and at least the length of a segment."""

    spec: Tensor
    """(B, F, T) float32, linear."""
    wave: Tensor
    """(B, H, T) float32 in [-1, 1], a column for each frame."""
    frames: Tensor
    """(B,) int64."""
    phones: Tensor
    """(B, P) int64."""
    phones_n: Tensor
    """(B,) int64."""
    content: Tensor | None = None
    """(B, W, T) float32; None where there are codes."""
    codes: Tensor | None = None
    """(B, T / 2) int64, content quantised by a frozen quantiser, from a store that holds codes."""
    speaker: Tensor | None = None
    """(B, V) float32, for a model that reads speaker vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomInputs:
    """The random inputs of a step; dropout and the codebook draw their own."""

    noise: Tensor
    """(B, C, T) standard normal."""
    starts: Tensor
    """(B,) int64, first frame of each segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Utterances that are computed together, and their weight in an update, since losses are means."""

    inputs: SovitsInputs
    random: RandomInputs
    utterance_share: Tensor | float = 1.0
    frame_share: Tensor | float = 1.0
    """Share of the update's utterances and frames, over all microbatches and ranks: () float32."""


def prepare_inputs(batch: Batch, spectral: Spectral, config: SovitsConfig) -> SovitsInputs:
    """Compute spectrogram and, if it comes from MFCC, content on the batch's device, and pad all features.

    The padded length is even, because content is halved; at least one frame more than the longest utterance, as when
    published weights were trained; and at least a segment.

    An utterance's spectrogram does not depend on its batch: its waveform is reflected at its own end.

    Args:
        batch: with wave, phones, one of semantic, content and mfcc, and speaker_vector where the model reads it; every
            utterance has `spectral.recipe.min_frames` frames or more.
    """
    longest = batch["wave"].shape[1]
    size = 2 * (max(longest, config.segment_frames - 1) // 2 + 1)
    wave_BTH = F.pad(batch["wave"], (0, 0, 0, size - longest)).float() / 32768
    return SovitsInputs(
        content=None if "semantic" in batch.tensors else _content(batch, size, config),
        codes=_pad_last(batch["semantic"].long(), size // 2) if "semantic" in batch.tensors else None,
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
    """Draw noise and segments, from torch's global generator of the device if no other is given.

    A segment lies within its utterance if that is long enough, and starts at frame 0 if it is not.
    """
    B, _, T = inputs.spec.shape
    device = inputs.spec.device
    noise = torch.randn(B, config.inter_channels, T, device=device, generator=generator)
    start_count = (inputs.frames - config.segment_frames + 1).clamp(min=1)
    return RandomInputs(noise=noise, starts=(torch.rand(B, device=device, generator=generator) * start_count).long())


def draw_microbatch(batch: Batch, spectral: Spectral, config: SovitsConfig, totals: Tensor) -> Microbatch:
    """Prepare the inputs of a batch, given the update's numbers of utterances and frames, and draw random ones.

    Args:
        batch: on the device.
        totals: (2,) float32, there too.
    """
    inputs = prepare_inputs(batch, spectral, config)
    return Microbatch(
        inputs=inputs,
        random=draw_random_inputs(inputs, config),
        utterance_share=len(batch) / totals[0],
        frame_share=batch.frames.sum() / totals[1],
    )


def fixed_microbatch(batch: Batch, spectral: Spectral, config: SovitsConfig) -> Microbatch:
    """Prepare the inputs of a batch, with noise and segments that are always the same."""
    inputs = prepare_inputs(batch, spectral, config)
    fixed_seed = torch.Generator(inputs.spec.device).manual_seed(0)
    return Microbatch(inputs=inputs, random=draw_random_inputs(inputs, config, fixed_seed))


def _content(batch: Batch, size: int, config: SovitsConfig) -> Tensor:
    """Return content features, (B, W, T)."""
    if "content" in batch.tensors:
        content_BTW = batch["content"].float()
    else:
        content_BTW = mfcc_content(batch["mfcc"], batch.frames, config.ssl_channels)
    return _pad_last(content_BTW.mT, size)


def _pad_last(x: Tensor, size: int) -> Tensor:
    """Pad the last axis with zeros."""
    return F.pad(x, (0, size - x.shape[-1]))


def _spectrogram(wave_BTH: Tensor, frames_B: Tensor, spectral: Spectral) -> Tensor:
    """Return the spectrogram, (B, F, T), zero past each end."""
    size, hop = wave_BTH.shape[1:]
    spare = spectral.recipe.padding // hop + 1  # the window of the last valid frame reaches this far
    wave_BS = F.pad(wave_BTH, (0, 0, 0, spare)).flatten(1)
    reflected_BS = _reflect_ends(wave_BS, frames_B * hop, spectral.recipe.padding)
    return spectral.magnitude(reflected_BS)[:, :size].mT * length_mask(frames_B, size)


def _reflect_ends(wave_BS: Tensor, samples_B: Tensor, count: int) -> Tensor:
    """Write the reflection of the last `count` samples of every row after its own end."""
    steps = torch.arange(count, device=wave_BS.device)
    end_B1 = samples_B[:, None]
    return wave_BS.scatter(1, end_B1 + steps, wave_BS.gather(1, end_B1 - 2 - steps))
