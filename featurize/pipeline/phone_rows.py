"""Make the phones of an utterance from its alignment, its given phones, or its text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrace.featurize.alignment import intervals
from headrace.featurize.alignment.phone_labels import check_given_phones
from headrace.featurize.alignment.words import phone_word
from headrace.featurize.corpus import alignment_files
from headrace.featurize.pipeline.part_rows import UtteranceFeatures
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.featurize.text import g2p, symbols
from headrace.featurize.text.reading_options import DEFAULT, ReadingOptions
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath


def add_phones(
    corpus: StoragePath,
    sample: UtteranceFeatures,
    spectral: SpectralRecipe,
    table: str,
    options: ReadingOptions = DEFAULT,
) -> None:
    """Add the phones of an utterance: with times if it has an alignment of phones, else without.

    Args:
        table: symbol table, one of `symbols.TABLES`.
        options: of reading texts.
    Raises:
        Rejected: stage "text" or "align"; there are no phones, or the table lacks one.
    """
    utterance, frames = sample.utterance, sample.columns["frames"]
    found = alignment_files.read_alignment(corpus, utterance) if utterance.alignment else None
    if found and found.phones.labels:
        stored_s = frames * spectral.hop / spectral.sample_rate
        within = replace(found, duration_s=min(found.duration_s, stored_s))
        names, ends = intervals.symbols_and_ends(within, utterance.language)
        ids, words = symbols.ids(names, table, "align"), phone_word(found.words, ends, utterance.text)
        end, durations = intervals.phone_boundaries(
            ends, sample_rate=spectral.sample_rate, hop=spectral.hop, frames=frames
        )
    else:
        ids, words = _phones_of_text(utterance, table, options)
        end, durations = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
    sample.arrays.update(phones=ids, phone_end=end, phone_frames=durations, phone_word=words)
    sample.columns.update(phones_n=len(ids), aligned=int(durations.sum() == frames))


def _phones_of_text(utterance: Utterance, table: str, options: ReadingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of the phones, and the index of the character at which each one's word begins, -1 if unknown."""
    if utterance.phones:
        given = utterance.phones.split()
        ids = symbols.ids(given, table)
        check_given_phones(given, utterance.language)
        return ids, np.full(len(ids), -1, np.int16)
    reading = g2p.phonemise(utterance.text, utterance.language, options)
    return symbols.ids(reading.phones, table), reading.phone_word
