"""Text to phones, in any language that there is a frontend for: the door to `featurize.languages`.

text --checked--> figures in words --cut by script--> pieces --each read by its frontend--> phones
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

from headrace.featurize.text.languages import cantonese, chinese, english, espeak_languages, japanese, korean, scripts
from headrace.featurize.text.languages.frontend import MARKS, Frontend, Reading, excerpt, joined, unit
from headrace.store.errors import Rejected, UsageError

FRONTENDS = {module.FRONTEND.language: module.FRONTEND for module in (chinese, english, japanese, korean, cantonese)}
"""By language. espeak-ng reads every other language that it has a voice for."""
FEWEST = 4
"""An English text of fewer symbols gets a comma in front, as upstream does: its models have trained with no less."""
LONGEST = 5000
"""Characters: five minutes of quick speech."""

_BY_SCRIPT = {"Latin": FRONTENDS["en"], "Han": FRONTENDS["zh"], "Kana": FRONTENDS["ja"], "Hangul": FRONTENDS["ko"]}
_WITH_KANA = _BY_SCRIPT | {"Han": FRONTENDS["ja"]}
_GIVEN = re.compile(r"\{([^{}]*)\}")
_WIDE = re.compile("[\u3000\uff00-\uffef\u3300-\u33ff\u2100-\u2121\u2123-\u214f]+")
_PICTURES = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def phonemise(text: str, language: str) -> Reading:
    """How `text` is read.

    Words of other scripts are read by the frontends of these: Latin letters in a Chinese text are English, kanji in a
    Japanese one are Japanese. What stands in braces is phones as they are: `{HH AH0 L OW1} world`.

    Raises:
        Rejected: stage "text"; a language or a letter that nobody here reads, a text of another language, too long a
            text, characters that are no text, or nothing to speak.
    """
    own = _frontend(language)
    clean = _checked(text)
    given = _GIVEN.split(clean)
    _check_language("".join(given[::2]), own)
    reading = _one_mark_a_pause(joined(_parts(given, own)))
    if not set(reading.phones) - MARKS - {"空"}:
        raise Rejected("text", f"nothing to speak in {excerpt(text)}")
    few = language == "en" and len(reading.phones) < FEWEST and not "".join(given[1::2]).strip()
    return joined((unit(",", ","), reading)) if few else reading


def versions(languages: Iterable[str]) -> dict[str, str]:
    """By language, what reads it: our rules' version, and those of the libraries that have a say.

    Raises:
        UsageError: a library is not installed.
    """
    found = {}
    for language in sorted(set(languages)):
        try:
            frontend = _frontend(language)
        except Rejected:
            continue  # its utterances say so one by one
        try:
            made = [f"{name}-{version(name)}" for name in frontend.libraries]
        except PackageNotFoundError as error:
            raise UsageError(f"{language} is read by {error.name}: pip install 'headrace[{language}]'.") from None
        found[language] = " ".join((f"headrace-{frontend.version}", *made))
    return found


@lru_cache(maxsize=64)
def _frontend(language: str) -> Frontend:
    return FRONTENDS.get(language) or espeak_languages.frontend(language)


def _checked(text: str) -> str:
    """`text` with one form for every character, without what has no width.

    Raises:
        Rejected: stage "text"; too long, or a character that is no text, and where it is.
    """
    if len(text) > LONGEST:
        raise Rejected("text", f"{len(text)} characters, from {excerpt(text)}, are more than {LONGEST}: cut it")
    for place, char in enumerate(text, 1):
        if problem := _problem(char):
            name = unicodedata.name(char, f"U+{ord(char):04X}")
            raise Rejected("text", f"character {place} is {problem} ({name}): take it out")
    text = _WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), unicodedata.normalize("NFC", text))
    text = "".join(char for char in text if unicodedata.category(char) != "Cf" and char != "\ufe0f")
    return " ".join(text.split())


def _problem(char: str) -> str:
    """What keeps a character from being text; empty where nothing does."""
    if char in _DIRECTIONS:
        return "a mark of the writing direction"
    if _PICTURES.match(char):
        return "a picture"
    kinds = {"Cc": "a control character", "Co": "of private use", "Cn": "no character", "Cs": "half a character"}
    if char == "\ufffd":
        return "what a decoder left of a damaged one"
    return "" if char.isspace() else kinds.get(unicodedata.category(char), "")


def _check_language(text: str, own: Frontend) -> None:
    """A text without a letter of its language is one of another, or of none."""
    found = {scripts.script(char) for char in text} - {""}
    if own.scripts and found and not found & own.scripts:
        written = " and ".join(sorted(found))
        raise Rejected("text", f"{excerpt(text)} is {written}, and its language is given as {own.language}")


def _parts(given: list[str], own: Frontend) -> Iterator[Reading]:
    """Of what stands outside braces and in them, by turns."""
    for number, part in enumerate(given):
        if number % 2:
            yield unit(part, part.split())
        else:
            yield from _read(part, own)


def _read(text: str, own: Frontend) -> Iterator[Reading]:
    readers = _WITH_KANA if any(scripts.script(char) == "Kana" for char in text) else _BY_SCRIPT
    for frontend, piece in scripts.pieces(own.normalise(text), own, readers):
        yield frontend.read(piece if frontend is own else frontend.normalise(piece))


def _one_mark_a_pause(reading: Reading) -> Reading:
    """Of marks with nothing spoken between them the first."""
    kept: list[Reading] = []
    at, paused = 0, False
    for char, count in zip(reading.text, reading.word2ph, strict=True):
        phones = reading.phones[at : at + count]
        at += count
        mark = count == 1 and phones[0] in MARKS
        if not (mark and paused):
            kept.append(Reading(char, phones, (count,)))
        paused = mark or (paused and set(phones) <= {"空"})
    return joined(kept)
