"""Word errors of speech: what a recogniser that needs no network hears of it, beside the text that was said.

The recogniser is pocketsphinx with the English models that it brings along. It mishears many words of good recordings
too: compare with these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from headrace.featurize.quality.dnsmos import RATE, at_model_rate

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def is_installed() -> bool:
    """Return whether the recogniser is installed."""
    return find_spec("pocketsphinx") is not None


class Recogniser:
    """Hears English."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(samprate=RATE, loglevel="FATAL")

    def words(self, wave_S: np.ndarray, rate: int) -> list[str]:
        """Return the words of speech, (S,) float32 in [-1, 1]."""
        samples = (32767 * at_model_rate(wave_S, rate)).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return [] if heard is None else words_of(heard.hypstr)


def words_of(text: str) -> list[str]:
    """Return the words of a text, without figures and signs."""
    return _WORD.findall(text.lower().replace("’", "'"))


def word_errors(heard: Sequence[str], said: Sequence[str]) -> int:
    """Return the fewest words to replace, to leave out and to add that turn what was heard into what was said."""
    before = list(range(len(said) + 1))
    for count, word in enumerate(heard, 1):
        row = [count]
        for place, wanted in enumerate(said):
            row.append(min(before[place] + (word != wanted), before[place + 1] + 1, row[place] + 1))
        before = row
    return before[-1]
