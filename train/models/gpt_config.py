"""Sizes of the text-to-semantic decoder, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig:
    """Sizes of the decoder. Defaults are GPT-SoVITS v2, v2Pro and v2ProPlus."""

    symbols: int = 732
    """Number of phone ids; 732 is the v2 table."""
    codes: int = 1024
    """Entries of the content codebook. The id that follows the last one ends a sequence."""
    bert_channels: int = 1024
    channels: int = 512
    heads: int = 16
    layers: int = 24
    feed_forward_channels: int = 0
    """Inner width of the feed-forward layers; 0 for four times `channels`."""
    dropout: float = 0.1
    """Dropout of positions, of attention weights, and of both halves of every layer."""

    @property
    def feed_forward_width(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.feed_forward_channels or 4 * self.channels

    @property
    def end(self) -> int:
        """Id that ends a sequence."""
        return self.codes

    @property
    def vocabulary(self) -> int:
        """Number of ids that the decoder predicts: the codes and the end."""
        return self.codes + 1


def v1() -> GptConfig:
    """Return the sizes of GPT-SoVITS v1: 77.5 M parameters. Its phone embedding has 512 entries."""
    return GptConfig(symbols=512)


def v2() -> GptConfig:
    """Return the sizes of GPT-SoVITS v2: 77.6 M parameters."""
    return GptConfig()


def small() -> GptConfig:
    """Return sizes of a decoder for slow devices: a third of the layers of v2, 27.2 M parameters.

    It is as wide as v2, so that every third layer of a v2 can be where its own begin.
    """
    return GptConfig(layers=8)


def large() -> GptConfig:
    """Return sizes of a decoder larger than the published ones: twice as wide, with heads of 64 channels."""
    return GptConfig(channels=1024)


def tiny() -> GptConfig:
    """Return sizes that train within minutes on two CPU cores, with the codebook of the tiny SoVITS."""
    return GptConfig(codes=64, channels=128, heads=4, layers=4, dropout=0.0)
