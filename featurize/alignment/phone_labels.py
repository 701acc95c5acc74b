"""Tell which labels are phones of a language, and convert them to symbols of the table."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from headrace.featurize.text import ipa
from headrace.featurize.text.languages.espeak_languages import ipa_symbols
from headrace.featurize.text.languages.frontend import PUNCTUATION
from headrace.featurize.text.symbols import BREATH, IPA, SILENCE, SYMBOLS
from headrace.store.errors import Rejected

UPSTREAM_LANGUAGES = ("zh", "ja", "ko", "yue")
"""Languages other than English that have symbols in GPT-SoVITS' table."""
UNSPOKEN = frozenset({SILENCE, BREATH})
MAX_LETTERS = 3
"""Phones in IPA that one label may be written with, such as a diphthong's. A longer label is a word."""
OWN_SHARE = 0.5
"""Least share of given phones that are of the language's own table: a text may quote another language."""

_SILENT_LABELS = frozenset(
    {"", "sil", "sp", "spn", "pau", "epi", "h#", "nsn", "silence", "noise", "_", "#", "<eps>", "<sil>", "<p>", "<p:>"}
)
_BREATH_LABELS = frozenset({"br", "breath", "[breath]", "<breath>", "{breath}", "<br>", "{br}", "++breath++"})
_TIES = str.maketrans("", "", "\u0361\u035c")
_IPA = frozenset(IPA)
_IPA_SYMBOLS = frozenset(f"/{symbol}/" for symbol in IPA)
_VOWELS = frozenset(one for one in IPA if f"ˈ{one}" in _IPA and len(one) == 1)
_GLIDES = frozenset("jwɥ")


def unspoken_symbol(label: str) -> str:
    """Return the symbol of a silence, a breath or a punctuation mark; empty if the label is none of them."""
    if label.casefold() in _SILENT_LABELS:
        return SILENCE
    if label.casefold() in _BREATH_LABELS or label == "AP":  # in DiffSinger's corpora; "ap" in IPA is two phones
        return BREATH
    return label if label in PUNCTUATION | UNSPOKEN else ""


def label_symbols(label: str, language: str = "en") -> tuple[str, ...]:
    """Return the symbols of one interval's label, at least one.

    A silence is SP, a breath SP2, and a punctuation mark itself. Anything else is a phone. English: ARPAbet, or IPA
    that is converted to it. ARPAbet may be in lower case and lack its stress digits, which are then 0, as in TIMIT.
    Languages of GPT-SoVITS' table: its symbols. Other languages: IPA.

    Raises:
        Rejected: stage "align"; the label is not a phone of the language.
    """
    if unspoken := unspoken_symbol(label):
        return (unspoken,)
    if language != "en":
        return _non_english_symbols(label, language)
    if spelling := _arpabet(label):
        return (spelling,)
    if not ipa.is_one_phone(label):
        raise Rejected("align", f"its alignment has a phone {label[:40]!r}: neither ARPAbet nor English in IPA")
    return ipa.to_arpabet(label)


def _non_english_symbols(label: str, language: str) -> tuple[str, ...]:
    if language in UPSTREAM_LANGUAGES:
        if label not in SYMBOLS:
            raise Rejected("align", f"its alignment has a phone {label[:40]!r}: no symbol of GPT-SoVITS v2")
        return (label,)
    found = _ipa(label)
    if not 0 < len(_letters(found)) <= MAX_LETTERS:
        raise Rejected("align", f"its alignment has a phone {label[:40]!r}: none in IPA")
    return found


def phone_share(labels: Sequence[str], language: str) -> float:
    """Return the share of labels that are one phone each of one table of a language: of the table with the most.

    Args:
        labels: at least one; none of them silent.
    """
    return max(sum(map(is_phone, labels)) for is_phone in _tables(language)) / len(labels)


def _tables(language: str) -> tuple[Callable[[str], bool], ...]:
    if language == "en":
        return is_arpabet, ipa.is_one_phone
    return (SYMBOLS.__contains__,) if language in UPSTREAM_LANGUAGES else (is_ipa_phone,)


def is_arpabet(label: str) -> bool:
    """Return whether a label is a phone of ARPAbet."""
    return bool(_arpabet(label))


def _arpabet(label: str) -> str:
    upper = label.upper()
    return next((spelling for spelling in (upper, f"{upper}0") if spelling in ipa.ARPABET), "")


def are_phones_for_certain(labels: Sequence[str]) -> bool:
    """Return whether labels that come as words are phones, whatever the language: two or more, and none a word.

    One must have a stress digit of ARPAbet, or a letter of IPA that no keyboard has.
    """
    spoken = [label for label in labels if not unspoken_symbol(label)]
    if len(spoken) < 2:
        return False
    in_arpabet = all(map(is_arpabet, spoken)) and any(label[-1].isdigit() for label in spoken)
    return in_arpabet or (all(map(is_ipa_phone, spoken)) and not all(map(str.isascii, spoken)))


@lru_cache(maxsize=4096)
def is_ipa_phone(label: str) -> bool:
    """Return whether a label is one phone in IPA: a letter, letters that are tied, an affricate, or a diphthong."""
    letters = _letters(_ipa(label))
    if len(letters) < 2 or label != label.translate(_TIES):
        return bool(letters)
    is_diphthong = letters[0] in _VOWELS and {*letters[1:]} <= _VOWELS | _GLIDES
    return "".join(letters) in _IPA or (is_diphthong and len(letters) <= MAX_LETTERS)


def _ipa(label: str) -> tuple[str, ...]:
    """Return the symbols of a label in IPA; none if it is not in IPA."""
    try:
        return tuple(ipa_symbols(label))
    except Rejected:
        return ()


def _letters(symbols: Iterable[str]) -> list[str]:
    """Return the letters of symbols of IPA, without tones, accents and other marks."""
    return [char for symbol in symbols for char in symbol if unicodedata.category(char) in ("Ll", "Lo")]


def check_given_phones(phones: Sequence[str], language: str) -> None:
    """Check that the phones that a corpus gives for a text are those of its language, and not of another table.

    Raises:
        Rejected: stage "text"; most are not, though the symbol table has them: it holds the symbols of all languages.
    """
    spoken = [phone for phone in phones if not unspoken_symbol(phone)]
    if language in UPSTREAM_LANGUAGES or not spoken:
        return
    own = ipa.ARPABET if language == "en" else _IPA_SYMBOLS
    if sum(phone in own for phone in spoken) < OWN_SHARE * len(spoken):
        first, kind = repr(spoken[0])[:40], "ARPAbet as AH0" if language == "en" else "IPA as /a/"
        raise Rejected("text", f"its phones, {first} ..., are of another language than {language}: give {kind}")
