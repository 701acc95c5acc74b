"""Convert English in IPA to ARPAbet, the phone set of CMUdict and of the symbol table.

Covers every phone of espeak-ng's English voices and of the Montreal Forced Aligner's English dictionaries.
A sound that English lacks becomes its nearest neighbour (the ch of *loch* is K), so that foreign names lose no phone.
"""

from __future__ import annotations

import re
from functools import lru_cache

_VOWELS = {
    "AA": "ɑː ɑ aː ɒ",
    "AE": "æ a",
    "AH": "ʌ ə ɐ ɤ",
    "AO": "ɔː ɔ ɒː",
    "AW": "aʊ aw æʊ ʌʉ",
    "AY": "aɪ aj ɑɪ",
    "EH": "ɛ ɛː e",
    "ER": "ɝ ɚ ɜː ɜ ɜːɹ əɹ ʌɹ ɹ̩",
    "EY": "eɪ ej eː",
    "IH": "ɪ ᵻ ɨ",
    "IY": "iː i",
    "OW": "oʊ əʊ ow əw oː o",
    "OY": "ɔɪ ɔj oɪ",
    "UH": "ʊ",
    "UW": "uː u ʉː ʉ",
    "AA R": "ɑːɹ ɑɹ",
    "AH L": "əl l̩ ɫ̩",
    "AH M": "m̩",
    "AH N": "n̩",
    "AH NG": "ŋ̩",
    "AA N": "ɑ̃",
    "AE N": "æ̃",
    "AO N": "ɔ̃",
    "AO R": "ɔːɹ ɔɹ oːɹ",
    "AW AH": "aʊə",
    "AW ER": "aʊɚ aɪʊɹ aɪʊ",  # espeak-ng 1.52 spells a vowel of "our" the second way, and cuts it to the third
    "AY AH": "aɪə",
    "AY ER": "aɪɚ",
    "EH AH": "eə ɛə",
    "EH R": "ɛɹ",
    "IH AH": "ɪə",
    "IH R": "ɪɹ",
    "IY AH": "iə",
    "UH AH": "ʊə",
    "UH R": "ʊɹ",
}
_CONSONANTS = {
    "B": "b",
    "CH": "tʃ tɕ",
    "D": "d ɖ ɽ",
    "DH": "ð",
    "F": "f ɸ",
    "G": "ɡ g ɣ ɟ",
    "HH": "h ç ɦ",
    "JH": "dʒ dʑ",
    "K": "k c q x χ",
    "L": "l ɫ ɬ ɭ",
    "M": "m ɱ",
    "N": "n ɳ",
    "N Y": "ɲ",
    "L Y": "ʎ",
    "NG": "ŋ",
    "P": "p",
    "R": "ɹ r ɻ ʁ ʀ",
    "S": "s",
    "SH": "ʃ ɕ ʂ",
    "T": "t ɾ ʔ ʈ",
    "TH": "θ",
    "V": "v β ʋ",
    "W": "w ʍ",
    "Y": "j ʝ",
    "Z": "z",
    "ZH": "ʒ ʑ ʐ",
}
_TABLE = {
    ipa: tuple(phones.split())
    for table in (_VOWELS, _CONSONANTS)
    for phones, spellings in table.items()
    for ipa in spellings.split()
}
VOWELS = frozenset(phone for phones in _VOWELS for phone in phones.split()[:1])
"""Vowels of ARPAbet without their stress digits."""
ARPABET = frozenset(_CONSONANTS) - {"N Y", "L Y"} | {vowel + stress for vowel in VOWELS for stress in "012"}
"""Every phone of CMUdict as it stands in the symbol table."""

_LONGEST_FIRST = "|".join(map(re.escape, sorted(_TABLE, key=len, reverse=True)))
_PHONE = re.compile(f"(?P<stress>[ˈˌ]*)(?P<phone>{_LONGEST_FIRST})[ː\u0303\u0329]*")
_NUANCES = str.maketrans(":", "ː", "ʰʲʷ\u032a\u0325\u031a\u0361ˑ")  # aspirated, dental, voiceless, tied, ...
_SEPARATORS = re.compile("[_ ‿]+")


def spellings(phone: str) -> list[str]:
    """Return the IPA spellings of a phone of ARPAbet without its stress digit, the commonest first.

    The list is empty if `phone` is not in ARPAbet.
    """
    return (_VOWELS | _CONSONANTS).get(phone, "").split()


def is_one_phone(ipa: str) -> bool:
    """Return whether a string is one English phone in IPA, or one vowel that is several of ARPAbet."""
    return _PHONE.fullmatch(ipa.translate(_NUANCES)) is not None


@lru_cache(maxsize=4096)
def to_arpabet(ipa: str) -> tuple[str, ...]:
    """Convert a string in IPA to ARPAbet phones, vowels with stress (1 primary, 2 secondary, 0 none).

    A stress mark applies to the next vowel. Spaces, underscores and ties only separate phones.

    Raises:
        ValueError: a character is unknown; the message names the first.
    """
    phones: list[str] = []
    for chunk in _SEPARATORS.split(ipa.translate(_NUANCES)):
        phones += _chunk(chunk)
    return tuple(phones)


def _chunk(ipa: str) -> list[str]:
    phones: list[str] = []
    stress, at = "0", 0
    while at < len(ipa):
        match = _PHONE.match(ipa, at)
        if match is None:
            raise ValueError(f"{ipa[at]!r} in {ipa!r} is no English phone in IPA")
        if match["stress"]:
            stress = "1" if "ˈ" in match["stress"] else "2"
        for phone in _TABLE[match["phone"]]:
            vowel = phone in VOWELS
            phones.append(phone + stress if vowel else phone)
            stress = "0" if vowel else stress
        at = match.end()
    return phones
