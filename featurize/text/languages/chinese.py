"""Read Mandarin: jieba segments words, pypinyin reads phrases, and tone sandhi follows.

Each character has two phones: an initial, and a final with its tone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import chain
from typing import Any

from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    optional_dependencies,
)
from headrace.featurize.text.languages.sinitic import figures, pinyin, polyphones, sandhi, segmentation, signs
from headrace.featurize.text.languages.sinitic.polyphone_network import PolyphoneNetwork
from headrace.store.errors import Rejected

_SAME_SOUND = str.maketrans("嗯呣〇", "恩母零")
_SYLLABLE = re.compile(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]?)([a-zêü]+)([1-5])")
_WITHOUT_INITIAL = {"a": "AA", "e": "EE", "o": "OO"}
_PAUSES = {"^": "SP3", "¥": "SP2"}
"""Marks that are not punctuation, as upstream has them: other kinds of pause."""
_SAID = re.compile(r"[^\W\dA-Za-z_]|[,.!?…^¥]")
_SENTENCES = re.compile(r"(?<=[,.!?…^¥])")


def normalise(text: str) -> str:
    """Convert to simplified characters and write figures and signs in them."""
    return signs.write_out(figures.verbalise(_simplified().convert(text)))


def read(text: str, network: PolyphoneNetwork | None = None) -> Reading:
    """Convert normalised Mandarin to phones.

    Args:
        network: reads characters of several readings that neither a phrase nor a context tells.
    """
    kept = normalise_marks(signs.keep_said(normalise_marks(text), _SAID, "Mandarin")).translate(_SAME_SOUND)
    return concatenate(
        reading for sentence in _SENTENCES.split(kept) if sentence for reading in _read_sentence(sentence, network)
    )


def _read_sentence(text: str, network: PolyphoneNetwork | None) -> Iterator[Reading]:
    """Yield the reading of each word of a text that ends at a mark: sandhi does not cross marks."""
    words = segmentation.segment(text)
    told = polyphones.readings(text, words)
    if network is not None:
        told = network.readings(text, [place for place in _undecided(words) if place not in told]) | told
    start = 0
    for word in sandhi.merge_words(words, partial(_syllables, told=told)):
        end = start + len(word.text)
        within = tuple((place - start, told[place]) for place in told if start <= place < end) if told else ()
        yield _read_word(word, within)
        start = end


def _undecided(words: Sequence[segmentation.Word]) -> Iterator[int]:
    """Yield the indices of the characters that no phrase of the dictionary holds."""
    start = 0
    for word in words:
        yield from (start + place for place in pinyin.undecided(word.text))
        start += len(word.text)


def _syllables(word: str, start: int, told: Mapping[int, str]) -> Sequence[str]:
    """Return the syllables of a word that begins at an index of its text, some of which the context tells."""
    if not told:
        return pinyin.syllables(word)
    return [told.get(place, syllable) for place, syllable in enumerate(pinyin.syllables(word), start)]


@lru_cache(pinyin.WORDS_KEPT)
def _read_word(word: segmentation.Word, told: tuple[tuple[int, str], ...]) -> Reading:
    """Return the reading of a word in connected speech.

    Args:
        word: as `sandhi.merge_words` returns it.
        told: indices and syllables of those of its characters that the context tells: no rule makes them neutral, nor
            takes their neutral tone.
    """
    said = sandhi.apply_sandhi(word, _syllables(word.text, 0, dict(told)), segmentation.first_half)
    for place, syllable in told:
        if "5" in (said[place][-1], syllable[-1]):
            said[place] = syllable
    phones = list(map(_phones, word.text, said))
    return Reading(word.text, tuple(chain.from_iterable(phones)), tuple(map(len, phones)))


@lru_cache(pinyin.WORDS_KEPT)
def _phones(char: str, syllable: str) -> tuple[str, ...]:
    """Return the phones of a character with this pinyin, or of a mark."""
    if char in PUNCTUATION or char in _PAUSES:
        return (_PAUSES.get(char, char),)
    match = _SYLLABLE.fullmatch(syllable)
    if match is None:
        raise Rejected("text", f"{excerpt(char)} has no reading in Mandarin")
    initial, final, tone = match.groups()
    return initial or _WITHOUT_INITIAL.get(final[0], "UNK"), _final(initial, final) + tone


def _final(initial: str, final: str) -> str:
    """Return the final as the symbol table writes it: pinyin spells some different finals alike."""
    if initial in ("j", "q", "x", "y") and final[0] == "u":
        return "v" + final[1:]  # ju is jü
    if initial == "y" and final in ("e", "an"):
        return {"e": "E", "an": "En"}[final]
    if final == "i" and initial in ("z", "c", "s"):
        return "i0"
    if final == "i" and initial in ("zh", "ch", "sh", "r"):
        return "ir"
    return final


@cache
def _simplified() -> Any:
    with optional_dependencies("zh"):
        import opencc
    return opencc.OpenCC("t2s")


def syllable_phones(syllable: str) -> tuple[str, ...]:
    """Return the phones of a syllable in pinyin with its tone digit. Raises Rejected if it is none."""
    return tuple(_phones(syllable, syllable))


FRONTEND = Frontend(
    language="zh",
    scripts=frozenset({"Han"}),
    libraries=("jieba", "OpenCC", "pypinyin"),
    version=4,
    normalise=normalise,
    read=read,
)


@cache
def with_network(network: PolyphoneNetwork) -> Frontend:
    """Return the frontend that reads characters of several readings by a network where no phrase tells."""
    return replace(FRONTEND, read=partial(read, network=network))
