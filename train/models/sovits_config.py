"""Sizes of the SoVITS networks, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from headrace.store.errors import UsageError

SYMBOLS = {"gpt-sovits-v1": 322, "gpt-sovits-v2": 732, "headrace-ipa": 2070}
"""Number of phone ids of each symbol table. Each table is a prefix of the next."""
FIRST_IPA_SYMBOLS = 1320
"""Phone ids of `headrace-ipa` when it was first used: runs of that time go on with as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SovitsConfig:
    """Sizes of the generator and of the discriminators that train it. Defaults are GPT-SoVITS v2."""

    symbols: int = 732
    """Number of phone ids; 732 is the v2 table."""
    ssl_channels: int = 768
    """Channels of the content features at 50 Hz; 768 is HuBERT base."""
    codebook_size: int = 1024
    freeze_quantizer: bool = False
    """Do not train content projection and codebook: for pretrained weights, which come with them."""
    spec_bins: int = 1025
    """n_fft / 2 + 1."""
    segment_frames: int = 32
    """Frames of each utterance that are decoded, and compared by the discriminators, in a training step."""

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
    """Kernel size of the feed-forward layers."""
    p_dropout: float = 0.1
    """Dropout of the transformer layers."""
    mrte_heads: int = 4
    mrte_channels: int = 512
    """Inner width of the MRTE, which adds the voice: equal to `voice_channels` where there is no speaker vector."""
    voice_channels: int = 512
    """Width of the voice vector."""
    speaker_channels: int = 0
    """Width of the speaker vector, from a speaker verification network, that is added to the voice; 0 for none."""
    style_bins: int = 704
    """The style encoder reads this many of the lowest spectrogram bins: 704 of 1025 end at 11 kHz."""
    style_channels: int = 128
    posterior_layers: int = 16
    couplings: int = 4
    coupling_layers: int = 4
    flow_channels: int = 0
    """Width of the flow's layers; 0 for `hidden_channels`."""

    upsample_initial_channel: int = 512
    decoder_channels: tuple[int, ...] = ()
    """Channels of the decoder before its first upsampling, and after each; empty where each upsampling halves
    `upsample_initial_channel`."""
    upsample_rates: tuple[int, ...] = (10, 8, 2, 2, 2)
    """Their product is the hop."""
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 8, 2, 2)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Periods of the period discriminators, in samples."""
    discriminator_width: int = 1024
    """Channels of their widest layers; a multiple of 64."""

    activation_checkpointing: bool = False
    """Recompute the activations of each decoder stage and of each layer of posterior encoder and flow in the backward
    pass, instead of storing them."""

    def __post_init__(self) -> None:
        if not self.speaker_channels and self.mrte_channels != self.voice_channels:
            raise UsageError(
                f"mrte_channels is {self.mrte_channels} and voice_channels {self.voice_channels}: without a speaker "
                "vector they have to be equal."
            )

    @property
    def flow_width(self) -> int:
        """Width of the flow's layers."""
        return self.flow_channels or self.hidden_channels

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Channels of the decoder before its first upsampling, and after each."""
        halved = (self.upsample_initial_channel >> stage for stage in range(len(self.upsample_rates) + 1))
        return self.decoder_channels or tuple(halved)

    @property
    def hop(self) -> int:
        """Number of samples that the decoder generates for a frame."""
        return prod(self.upsample_rates)


def v1() -> SovitsConfig:
    """Return the sizes of GPT-SoVITS v1: fewer phones, and the style encoder reads the whole spectrogram."""
    return SovitsConfig(symbols=322, style_bins=1025)


def v2() -> SovitsConfig:
    """Return the sizes of GPT-SoVITS v2: 51.3 M parameters, discriminators 46.7 M."""
    return SovitsConfig()


def v2Pro() -> SovitsConfig:
    """Return the sizes of v2Pro, which reads ERes2NetV2's speaker vector: 79.4 M parameters, discriminators 63.2 M."""
    return SovitsConfig(p_dropout=0.0, voice_channels=1024, speaker_channels=20480, periods=(2, 3, 5, 7, 11, 17, 23))


def v2ProPlus() -> SovitsConfig:
    """Return the sizes of v2ProPlus: v2Pro with a wider decoder, 98.3 M parameters."""
    return replace(v2Pro(), upsample_initial_channel=768, upsample_kernel_sizes=(20, 16, 8, 2, 2))


def small() -> SovitsConfig:
    """Return sizes of a model for slow devices.

    The decoder, which takes most of the time of speech, has half the channels. Four layers read the phones. All else is
    as wide as in v2, so that a v2 can be its teacher and give it its weights. GPT-SoVITS itself can load it: it builds
    a generator by sizes that are written beside the weights, and these are among them.
    """
    return SovitsConfig(n_layers=4, upsample_initial_channel=256)


def large() -> SovitsConfig:
    """Return sizes of a model larger than the published ones, that reads no speaker vector.

    The decoder is that of v2ProPlus. Text encoder, posterior encoder and flow are a third wider, the former with heads
    of 64 channels, as large transformers have them.
    """
    return SovitsConfig(
        hidden_channels=256,
        filter_channels=1024,
        n_heads=4,
        n_layers=8,
        upsample_initial_channel=768,
        upsample_kernel_sizes=(20, 16, 8, 2, 2),
    )


def tiny() -> SovitsConfig:
    """Return sizes of the same architecture that train within minutes on two CPU cores."""
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
