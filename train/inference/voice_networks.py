"""What speaks: the networks of a voice, whatever computes them. Needs no torch.

Shapes: P phones, E channels of BERT, Y codes, S samples, Q codes of a recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference

if TYPE_CHECKING:
    from headrace.featurize.text.languages.frontend import Reading
    from headrace.featurize.text.reading_options import ReadingOptions


class Faults(NamedTuple):
    """What is wrong with what was said."""

    number: int
    """Words and stretches that are wrong."""
    text: str
    """What is wrong, in words; empty if nothing is."""


class WordCheck(Protocol):
    """Compares what was said with its text."""

    def faults(self, wave_S: np.ndarray, reading: Reading) -> Faults | None:
        """Return what is wrong with speech; None where that cannot be told."""


class VoiceNetworks(Protocol):
    """The networks of a voice."""

    @property
    def sovits(self) -> SovitsConfig:
        """Sizes of the SoVITS generator."""

    @property
    def gpt(self) -> GptConfig | None:
        """Sizes of the decoder; None where there is none."""

    @property
    def same_codebook(self) -> bool | None:
        """Whether both networks are known to use one codebook; None where only one speaks."""

    @property
    def reference(self) -> Reference | None:
        """The reference that they bring along, to speak with where no other is given."""

    @property
    def recording_codes(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What makes the (Q,) int64 codes of a recording, (S,) int16 at the sample rate of the generator; or None."""

    @property
    def bert_features(self) -> Callable[[str, str, ReadingOptions], np.ndarray | None] | None:
        """What makes the (P, E) float32 BERT features of a text of a language, None of one that has none; or None."""

    def word_check(self) -> tuple[WordCheck | None, str]:
        """Return what checks the words that are said; or None and the reason, in words."""

    def seed(self, seed: int) -> None:
        """Let the random numbers of `codes` and `speech` follow from a seed."""

    def codes(
        self, phones_P: np.ndarray, reference: Reference, config: SamplingConfig, *, bert_PE: np.ndarray | None = None
    ) -> np.ndarray:
        """Generate the codes of a text, (Y,) int64, as a continuation of the reference.

        Args:
            phones_P: int64 ids of the text.
            bert_PE: BERT features of each phone. Where the text or the reference has none, zeros take their place.
        """

    def speech(
        self, codes_Y: np.ndarray, phones_P: np.ndarray, reference: Reference, *, speed: float = 1.0
    ) -> np.ndarray:
        """Decode codes to a waveform, (S,) float32 in [-1, 1].

        Args:
            phones_P: int64 ids of the phones that the codes stand for.
            speed: 2.0 speaks twice as fast.
        """
