"""Tell initialisms, which are read letter by letter, from words in capitals.

*CEO* and *NASA* are both in capitals, and so is what is shouted. A word in capitals is read as the dictionary says,
unless it is one of few letters that the dictionary holds by chance, such as the *us* in *US*.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from headrace.featurize.text.languages.english import lexicon
from headrace.featurize.text.languages.rewriting import Guarded

_SHORT_WORDS = frozenset(
    "act add app age ago aim air all am an and ant any are arm art as ask at ate away bad bag ban bar bat be bed bee "
    "beg bet big bit bow box boy bug bus but buy by bye can cap car cat cry cup cut dad day dear did die dig do "
    "dog dry due ear eat egg end eye far fat few fit fix fly for fox fun gas get go god got gun guy had has hat "
    "he her hey hi him his hit hot how if ill in ink is its jam jet job joy key kid law lay leg let lie lip lot "
    "low mad man map may me men met mix mom mud my net new no nor not now nut odd of off oh oil old on one or our "
    "out owe own pay pen pet pie pig pin put ram ran raw red rid rom row run sad saw say sea see set sex she "
    "shy sim sir sit six sky so son sum sun tax tea ten the tie tin tip to toe too top toy try two up use van vat "
    "via war was way we wet who why win wow yes yet you zip zoo ok gif gui lan wan mac bios dos iso cad cam ted "
    "jpg hmm ah uh ugh yay".split()
)
"""Words and acronyms of two or three letters that are words in capitals too; all others are letters."""
_LETTERS = frozenset("adhd cpap hdmi isbn issn lgbt ncaa naacp nsfw oled uhd ussr usps wwii yoy".split())
"""Initialisms of four letters or more that could be pronounced."""
_PERSONAL = frozenset("tell give help let show told gave made make lets".split())
_PREPOSITIONS = frozenset("of with to for about like at on from between among".split())
_ASKED = frozenset(
    "said says warns warned declared declares estimates recommends recommended reports officials".split()
)
_VERBS_BEFORE_IT = frozenset("do did does doing is was said get got love want need take stop make give buy see".split())
_NAMED_BY_LETTER = frozenset(
    "plan malcolm vitamin vitamins grade option group type hepatitis class section point exhibit figure appendix level "
    "team letter line size side part schedule list series model route gate block unit hall room platform terminal "
    "strategy paper string flat sharp influenza formula product company person candidate question answer "
    "choice case column row cell node an the capital".split()
)
"""Words that a letter follows as a name, as in *Plan A*."""

_PRONOUNCEABLE = re.compile(
    r"(?:[bcdfghjklmnprstvwz]?[aeiou][bcdfghjklmnprstvwyz]?){2,}|[bdfgklmnprstvz]{1,2}[aeiou]\w+"
)
_PLURAL = re.compile(r"([A-Z]{2,})('?s)")
_INITIAL = Guarded(r"[A-HJ-Z]\.\s", r"(?<![\w.'-])([A-HJ-Z])\.(?=\s+([A-Z](?:[a-z]+|\.)))")
_BEGINNINGS = frozenset(
    "The It He She They We You This That These Those Then There But And Or So If In On At As When While Now Is "
    "Are Was Not No Yes My His Her Its Our Their What Why How Who Where After Before For To Let Please".split()
)
"""Words that begin a sentence, and no name."""
_DOTTED = re.compile(r"(?:[^\W\d]\.)+[^\W\d]?\.?('s|s)?")
_CAMEL = re.compile(r"[A-Z]{2,}(?![a-z])|[A-Z]?[a-z]+|[A-Z]+|[^A-Za-z]+")
_INNER_CAPITAL = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
_NAME_PREFIX = re.compile(r"(?:Mac|Mc|De|Le|La|Di|Du|Van|Fitz|Von)[A-Z][a-z]+")


def join_initials(text: str) -> str:
    """Drop the full stop of an initial before a name, as in `J. Smith`: it ends no sentence."""

    def joined(match: re.Match[str]) -> str:
        before = text[: match.start()].split()[-1:]
        follows = before and before[0].lower().strip(".,") in _NAMED_BY_LETTER
        return match[0] if follows or match[2] in _BEGINNINGS else match[1]

    return _INITIAL.sub(joined, text)


def is_shouted(words: Sequence[str]) -> bool:
    """Return whether a text is in capitals as a whole, so that they mark no initialism."""
    lettered = [word for word in words if word[:1].isalpha()]
    return len(lettered) > 1 and all(map(str.isupper, lettered)) and any(map(_is_ordinary, lettered))


def read(words: Sequence[str], place: int, *, shouted: bool) -> tuple[str, ...] | None:
    """Return the phones of a word with capitals that tell how it is read; None if it is read as any other.

    Args:
        words: words and marks of a text.
        place: index of the word among them.
        shouted: whether the whole text is in capitals.
    """
    word = words[place]
    if word == "A":
        return ("EY1",) if _is_name(words, place) else None
    if word in ("AM", "AD"):
        return None
    if word.isupper() and word.isalpha() and word.isascii():
        return _read_capitals(word, words, place, shouted=shouted)
    return read_alone(word)


def _is_ordinary(word: str) -> bool:
    """Return whether a word in capitals would be one in small letters too."""
    known = lexicon.look_up(word) if len(word) > 3 else None
    return word.lower() in _SHORT_WORDS or (known is not None and not _are_letters(known, word))


@lru_cache(maxsize=1 << 14)
def read_alone(word: str) -> tuple[str, ...] | None:
    """Return the phones of a word that has capitals inside, dots between letters or no vowel; None if it has not."""
    if _DOTTED.fullmatch(word) and not word.isdigit() and (word.count(".") > 1 or len(word) > 2):
        return _read_dotted(word)
    if not word.isascii():
        return None
    if (plural := _PLURAL.fullmatch(word)) is not None:
        return lexicon.with_s(_capitals(plural[1]))
    if _INNER_CAPITAL.search(word) and word.isalpha() and lexicon.look_up(word) is None:
        return None if _NAME_PREFIX.fullmatch(word) else _read_camel(word)
    parts = word.split("-")
    if len(parts) > 1 and all(parts) and lexicon.look_up(word) is None and word.upper() != word.lower():
        return tuple(phone for part in parts for phone in _part(part))
    return None


def _part(part: str) -> tuple[str, ...]:
    """Return the phones of a part of a compound, such as the A of *A-level*."""
    if part == "A":
        return ("EY1",)
    if part.isupper() and part.isalpha() and part.isascii():
        return _capitals(part)
    return read_alone(part) or lexicon.pronounce(part)


def _read_capitals(word: str, words: Sequence[str], place: int, *, shouted: bool) -> tuple[str, ...] | None:
    before = words[place - 1].lower() if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    if shouted and word not in ("AI", "OS", "EQ") and lexicon.look_up(word) is not None:
        return None
    ends = not after[:1].isalpha()
    if word == "US" and (before in _PERSONAL or (before in _PREPOSITIONS and ends)):
        return None
    if word == "IT" and before in _VERBS_BEFORE_IT:
        return None
    if word == "WHO":
        return lexicon.spell(word) if before in ("the", "a") or after.lower() in _ASKED else None
    return _capitals(word)


@lru_cache(maxsize=4096)
def _capitals(word: str) -> tuple[str, ...]:
    """Return the phones of an initialism or a word in capitals, without its context."""
    lower = word.lower()
    known = lexicon.look_up(word)
    if known is not None and (len(word) > 3 or lower in _SHORT_WORDS or _are_letters(known, lower)):
        return known
    if len(word) <= 3 or lower in _LETTERS:
        return lexicon.spell(word)
    if (len(word) == 4 and not re.fullmatch("(?:[^aeiou][aeiouy]){2}", lower)) or not _PRONOUNCEABLE.fullmatch(lower):
        return lexicon.spell(word) if len(word) < 8 else lexicon.pronounce(lower)
    return lexicon.pronounce(lower)


def _are_letters(phones: Sequence[str], word: str) -> bool:
    """Return whether the dictionary reads a word letter by letter, whatever the stress, or nearly so."""
    spelled, read = lexicon.spell(word), [phone.rstrip("012") for phone in phones]
    return [phone.rstrip("012") for phone in spelled] == read or read[-2:] == ["K", "EY"] == ["K", spelled[-1][:-1]]


def _read_dotted(word: str) -> tuple[str, ...]:
    """Return the phones of `U.S.` or `J.K.`: the dictionary's, else the names of the letters."""
    known = lexicon.pronunciations().get(word.lower())
    if known is not None:
        return tuple(known.split())
    base = re.sub("'?s$", "", word) if word[-1] == "s" and word[-2:] != ".s" else word
    letters = "".join(char for char in base if char.isalpha())
    if not letters.isascii():
        return tuple(phone for letter in letters for phone in lexicon.pronounce(letter))
    return lexicon.with_s(lexicon.spell(letters)) if base != word else lexicon.spell(letters)


def _read_camel(word: str) -> tuple[str, ...]:
    """Return the phones of a name such as `ChatGPT` or `iPad`, part by part."""
    phones: list[str] = []
    parts = _CAMEL.findall(word)
    for number, part in enumerate(parts):
        if part.isupper() and len(part) > 1:
            phones += _capitals(part)
        elif len(part) == 1 or (part.islower() and part == "s" and number == len(parts) - 1):
            phones += lexicon.spell(part)
        else:
            phones += lexicon.pronounce(part)
    return tuple(phones)


def _is_name(words: Sequence[str], place: int) -> bool:
    """Return whether a capital A is the letter, and not the article at the beginning of a sentence or in a heading."""
    after = words[place + 1] if place + 1 < len(words) else ""
    if len(after) < 2 or not (after[0].isalpha() or after[0] == "'") or after.lower() in ("and", "or", "is", "to"):
        return True
    before = words[place - 1] if place else ""
    if not before[:1].isalnum():
        return False
    return before.lower() in _NAMED_BY_LETTER or not after[0].isupper()
