"""Sizes of the text-to-semantic decoder, and those that were published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GptConfig:
    """Sizes of the decoder. Defaults are GPT-SoVITS v2, v2Pro and v2ProPlus."""

    symbols: int = 732
    """Phone ids: those of the v2 table."""
    codes: int = 1024
    """Entries of the content codebook. The id after the last one ends a sequence."""
    bert_channels: int = 1024
    channels: int = 512
    heads: int = 16
    layers: int = 24
    dropout: float = 0.1
    """Everywhere that it is used: positions, attention weights, and twice in every layer."""

    @property
    def end(self) -> int:
        """The id that ends a sequence."""
        return self.codes

    @property
    def vocabulary(self) -> int:
        return self.codes + 1


def v1() -> GptConfig:
    """GPT-SoVITS v1 as published: 77.5 M parameters. Its table of phones has room for 512."""
    return GptConfig(symbols=512)


def v2() -> GptConfig:
    """GPT-SoVITS v2 as published: 77.6 M parameters."""
    return GptConfig()


def tiny() -> GptConfig:
    """The same architecture, small enough to watch it learn on two CPU cores; codes of the tiny SoVITS."""
    return GptConfig(codes=64, channels=128, heads=4, layers=4, dropout=0.0)
