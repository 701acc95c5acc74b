"""Sizes of the SoVITS networks, and those that were published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from headrace.store.errors import UsageError

SYMBOLS = {"gpt-sovits-v1": 322, "gpt-sovits-v2": 732, "headrace-ipa": 1320}
"""Phone ids of each table. Each table is the beginning of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SovitsConfig:
    """Sizes of the generator and of the discriminators that train it. Defaults are GPT-SoVITS v2."""

    symbols: int = 732
    """Phone ids: those of the v2 table."""
    ssl_channels: int = 768
    """Channels of the content features at 50 Hz; 768 is HuBERT base."""
    codebook_size: int = 1024
    freeze_quantizer: bool = False
    """Leave content projection and codebook as they are: for weights that come with a codebook. From scratch they
    have to be learnt."""
    spec_bins: int = 1025
    """n_fft / 2 + 1."""
    segment_frames: int = 32
    """Frames of each utterance that are decoded and judged in a training step."""

    hidden_channels: int = 192
    """Width of text encoder, posterior encoder and flow."""
    inter_channels: int = 192
    """Width of the latent; even."""
    filter_channels: int = 768
    """Inner width of the feed-forward layers."""
    n_heads: int = 2
    n_layers: int = 6
    """Transformer layers for phones; content and joint encoder have half as many each."""
    kernel_size: int = 3
    """Of the feed-forward layers."""
    p_dropout: float = 0.1
    """In the transformer layers."""
    mrte_heads: int = 4
    mrte_channels: int = 512
    """Inner width of the MRTE, which adds the voice: as wide as that, or there is a speaker vector."""
    voice_channels: int = 512
    """Width of the voice vector."""
    speaker_channels: int = 0
    """Width of a speaker vector that joins the voice, such as a speaker verification network makes; 0 for none."""
    style_bins: int = 704
    """Lowest spectrogram bins that the voice is read from: 704 of 1025 end at 11 kHz."""
    style_channels: int = 128
    posterior_layers: int = 16
    couplings: int = 4
    coupling_layers: int = 4

    upsample_initial_channel: int = 512
    upsample_rates: tuple[int, ...] = (10, 8, 2, 2, 2)
    """Their product is the hop."""
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 8, 2, 2)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Of the period discriminators."""
    discriminator_width: int = 1024
    """Channels of their widest layers; a multiple of 64."""

    recompute: bool = False
    """Compute each stage of the decoder and each layer of posterior encoder and flow again in the backward pass,
    instead of keeping what it made."""

    def __post_init__(self) -> None:
        if not self.speaker_channels and self.mrte_channels != self.voice_channels:
            raise UsageError(
                f"mrte_channels is {self.mrte_channels} and voice_channels {self.voice_channels}: without a speaker "
                "vector they have to be equal."
            )

    @property
    def hop(self) -> int:
        """Samples that the decoder makes of a frame."""
        return prod(self.upsample_rates)


def v1() -> SovitsConfig:
    """GPT-SoVITS v1 as published: fewer phones, and the voice is read from the whole spectrogram."""
    return SovitsConfig(symbols=322, style_bins=1025)


def v2() -> SovitsConfig:
    """GPT-SoVITS v2 as published: 51.3 M parameters, discriminators 46.7 M."""
    return SovitsConfig()


def v2Pro() -> SovitsConfig:
    """GPT-SoVITS v2Pro as published, with ERes2NetV2's speaker vector: 79.4 M parameters, discriminators 63.2 M."""
    return SovitsConfig(p_dropout=0.0, voice_channels=1024, speaker_channels=20480, periods=(2, 3, 5, 7, 11, 17, 23))


def v2ProPlus() -> SovitsConfig:
    """GPT-SoVITS v2ProPlus as published: v2Pro with a wider decoder, 98.3 M parameters."""
    return replace(v2Pro(), upsample_initial_channel=768, upsample_kernel_sizes=(20, 16, 8, 2, 2))


def tiny() -> SovitsConfig:
    """The same architecture, small enough to watch it learn on two CPU cores."""
    return SovitsConfig(
        ssl_channels=60,
        codebook_size=64,
        segment_frames=12,
        hidden_channels=64,
        inter_channels=32,
        filter_channels=128,
        n_layers=2,
        p_dropout=0.0,
        mrte_channels=64,
        voice_channels=64,
        style_channels=32,
        posterior_layers=3,
        couplings=2,
        coupling_layers=2,
        upsample_initial_channel=128,
        resblock_kernel_sizes=(3, 7),
        resblock_dilation_sizes=((1,), (3,)),
        discriminator_width=64,
    )
