"""Tell phones from words and from other labels. The suffix of a file and the name of a tier do not.

Labels that come as phones are settled in this order:

1. They are words if they are those of the text.
2. They are phones if nearly all are of one table of the language, long enough, and enough for the text.
3. Otherwise, and if their letters are not those of the text either, the utterance is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from headrace.featurize.alignment.intervals import Alignment
from headrace.featurize.alignment.label_files import empty_tier
from headrace.featurize.alignment.phone_labels import (
    UPSTREAM_LANGUAGES,
    is_arpabet,
    is_ipa_phone,
    phone_share,
    unspoken_symbol,
)
from headrace.featurize.alignment.words import have_letters_of, have_words_of, word_count
from headrace.featurize.text.symbols import SYMBOLS
from headrace.store.errors import Rejected

PHONE_SHARE = 0.9
"""Least share of labels that are of one table of phones, and of phones that last MIN_PHONE_S."""
MIN_PHONE_S = 0.01
"""Half a frame of the default preset: what is shorter has no frame."""
MAX_MEDIAN_S = 1.0
"""Half of the phones are not longer, even sung. Segments of speech are."""
MIN_PHONES_PER_WORD = 0.5
"""Every word has a phone; half of that allows for words that are run together."""

_VOICE_ACTIVITY = frozenset(
    {"speech", "voice", "voiced", "vad", "talk", "talking", "speaker", "active", "activity", "speaking", "sound"}
    | {"nonspeech", "non-speech", "nospeech", "unvoiced", "inactive", "music", "other", "overlap", "laughter"}
)
_NO_PHONES = "spn"
_UNNAMED_WORDS = frozenset({"spn", "<unk>", "<unknown>"})
_PAUSES = frozenset({"", "sil", "sp", "pau", "<eps>", "<sil>", "<s>", "</s>"})
_REMEDY = "remove them to have the text read instead, or align it again"


def settle(alignment: Alignment, language: str, text: str) -> Alignment:
    """Return an alignment whose phones are phones; if they are the words of the text, they become its words.

    Args:
        alignment: as a file names its labels.
        language: ISO code.
        text: of the utterance.
    Raises:
        Rejected: stage "align"; its labels are neither, or a word has no phones.
    """
    tier = alignment.phones
    spoken = [n for n, label in enumerate(tier.labels) if not unspoken_symbol(label)]
    labels = [tier.labels[n] for n in spoken]
    if labels:
        are_phones = phone_share(labels, language) >= PHONE_SHARE
        if have_words_of(labels, text) and (len(labels) > 1 or not are_phones):
            return _as_words(alignment)
        if are_phones:
            _check_lengths(tier.ends_s[spoken] - tier.starts_s[spoken], text)
        elif have_letters_of(labels, text):
            return _as_words(alignment)
        else:
            others = [label for label in labels if not phone_share([label], language)]
            found = f"{len(others)} of {len(labels)} look like {describe(others, language)} ({_listed(others)})"
            raise Rejected("align", f"its labels are neither phones of {language} nor its text, {found}: {_REMEDY}")
    _check_words_have_phones(alignment)
    return alignment


def _as_words(alignment: Alignment) -> Alignment:
    words = alignment.words if alignment.words.labels else alignment.phones
    return replace(alignment, phones=empty_tier(), words=words)


def _check_lengths(seconds: np.ndarray, text: str) -> None:
    """Raise Rejected if phones of these durations are too short, too long or too few to be those of a text."""
    count, short = len(seconds), int((seconds < MIN_PHONE_S).sum())
    if (count - short) / count < PHONE_SHARE:
        raise Rejected("align", f"{short} of its {count} phones are shorter than {MIN_PHONE_S:g} s: {_REMEDY}")
    if (median := float(np.median(seconds))) > MAX_MEDIAN_S:
        raise Rejected("align", f"half of its phones last {median:g} s or more, like segments of speech: {_REMEDY}")
    if count < MIN_PHONES_PER_WORD * (words := word_count(text)):
        few = f"{count}, are fewer than half as many phones as the text has words, {words}"
        raise Rejected("align", f"its labels, {few}: {_REMEDY}")


def _check_words_have_phones(alignment: Alignment) -> None:
    """Raise Rejected if a word has `spn` in place of phones, as aligners write it where their dictionary lacks one."""
    phones, words = alignment.phones, alignment.words
    unknown = [n for n, label in enumerate(phones.labels) if label.casefold() == _NO_PHONES]
    for n in unknown:
        middle = (phones.starts_s[n] + phones.ends_s[n]) / 2
        for at in np.flatnonzero((words.starts_s <= middle) & (middle < words.ends_s)).tolist():
            word = words.labels[at]
            if word.casefold() not in _PAUSES:
                name = f"a word that it calls {word!r}" if word.casefold() in _UNNAMED_WORDS else f"the word {word!r}"
                remedy = "add it to the dictionary of the aligner, or remove the alignment to have the text read"
                raise Rejected("align", f"its alignment has no phones for {name[:80]} ({phones.labels[n]}): {remedy}")


def describe(labels: Iterable[str], language: str) -> str:
    """Return what labels look like, in a word or a few for a message."""
    distinct = sorted({label for label in labels if not unspoken_symbol(label)})
    if {label.casefold() for label in distinct} <= _VOICE_ACTIVITY:
        return "voice activity"
    if phone_share(distinct, language) >= PHONE_SHARE:
        return "phones"
    if all(label.strip("-+.").replace(".", "").isdigit() for label in distinct):
        return "numbers"
    if any(set("@{}") & set(label) or (label[:-1].isdigit() and label[-1] == ":") for label in distinct):
        return "SAMPA"
    if language == "zh" and all(label in SYMBOLS or f"{label}1" in SYMBOLS for label in distinct):
        return "pinyin without tones"
    if all(map(is_arpabet, distinct)):
        return "ARPAbet"
    if language in UPSTREAM_LANGUAGES and all(map(is_ipa_phone, distinct)):
        return "IPA"
    if all(label.strip(".,!?'-").replace("'", "").replace("-", "").isalpha() for label in distinct):
        return "words"
    return "nothing known"


def _listed(labels: Iterable[str]) -> str:
    """Return the first three different labels, quoted."""
    return ", ".join(repr(label[:20]) for label in list(dict.fromkeys(labels))[:3])
