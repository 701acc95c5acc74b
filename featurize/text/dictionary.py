"""A dictionary of one's own: how names and terms are read, in a file of lines `word<tab>reading<tab>language`.

A reading is phones of the symbol table, or what fits the language: pinyin (`chong2 qing4`, `chóng qìng`), jyutping, IPA
between slashes for English and the languages of espeak-ng, or the word spelled as it sounds in the script of the
language. Blank lines, and lines that begin with `#`, are comments.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NoReturn

from headrace.featurize.text import characters, g2p, ipa
from headrace.featurize.text.languages import cantonese, chinese, espeak_languages, scripts
from headrace.featurize.text.languages.frontend import PUNCTUATION, excerpt
from headrace.featurize.text.languages.language_tags import AUTO, language_code, unknown_language
from headrace.featurize.text.symbols import TABLES
from headrace.store.errors import Rejected, UsageError

MAX_BYTES = 1 << 20
"""Size of a file: a store keeps all of it with its recipe."""
MAX_WORD, MAX_READING = 100, 1000
"""Characters of a word and of its reading."""

_SYMBOLS = frozenset(TABLES["headrace-ipa"])
_PINYIN = re.compile(r"[a-zü]+[1-5]")
_JYUTPING = re.compile(r"[a-z]+[1-6]")
_TONE_MARK = re.compile("[\u0300\u0301\u0304\u030c]")
_IPA = re.compile(r"/([^/\s]+(?: [^/\s]+)*)/")
_NOTATIONS = {"zh": "pinyin with tones", "yue": "jyutping", "ja": "kana", "ko": "Hangul"}
_UNSPACED = frozenset({"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar"})
_VOICELESS, _SIBILANTS = frozenset("P T K F TH".split()), frozenset("S Z SH ZH CH JH".split())


@dataclass(frozen=True)
class Dictionary:
    """Readings of words, by language."""

    entries: tuple[tuple[str, str, str], ...] = ()
    """Word, language, and phones between spaces; in order."""

    def __bool__(self) -> bool:
        return bool(self.entries)

    def dump(self) -> str:
        """Return the dictionary as one text, as a recipe holds it."""
        return "\n".join(map("\t".join, self.entries))

    @staticmethod
    @lru_cache(maxsize=8)
    def load(dumped: str) -> Dictionary:
        """Return the dictionary that `dump` has written; one without words for an empty text."""
        lines = (line.split("\t") for line in dumped.split("\n") if line)
        return Dictionary(tuple((word, language, phones) for word, language, phones in lines))

    def split(self, text: str, readers: Callable[[str], tuple[str, ...]]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the pieces of a text in order, with their phones where they are words of the dictionary.

        The longest word that fits is taken. In scripts with spaces it has to be a whole word; a word in Hangul may have
        a particle behind it, and one in English an apostrophe and an s.

        Args:
            readers: returns the languages whose words count where a character begins them.
        """
        begun = at = 0
        while at < len(text):
            length, phones = self._match(text, at, readers(text[at])) if _begins_word(text, at) else (0, ())
            if length:
                if begun < at:
                    yield text[begun:at], ()
                yield text[at : at + length], phones
                begun = at + length
            at += length or 1
        if begun < len(text):
            yield text[begun:], ()

    def _match(self, text: str, at: int, languages: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        for language in languages:
            lengths = self._lengths.get((language, text[at].lower()), ())
            for length in lengths:
                word = text[at : at + length]
                phones = self._readings.get((language, word)) or self._any_case.get((language, word.lower()))
                if phones and _ends_word(text, at + length):
                    owns = language == "en" and re.match(r"['’]s(?!\w)", text[at + length :])
                    return (length + 2, (*phones, *_genitive(phones[-1]))) if owns else (length, phones)
        return 0, ()

    @cached_property
    def _readings(self) -> dict[tuple[str, str], tuple[str, ...]]:
        return {(language, word): tuple(phones.split()) for word, language, phones in self.entries}

    @cached_property
    def _any_case(self) -> dict[tuple[str, str], tuple[str, ...]]:
        return {key: phones for key, phones in self._readings.items() if key[1] == key[1].lower()}

    @cached_property
    def _lengths(self) -> dict[tuple[str, str], list[int]]:
        """Lengths of the words of a language that begin with a letter, the longest first."""
        found: dict[tuple[str, str], set[int]] = {}
        for word, language, _ in self.entries:
            found.setdefault((language, word[0].lower()), set()).add(len(word))
        return {key: sorted(lengths, reverse=True) for key, lengths in found.items()}


EMPTY = Dictionary()


def read(path: Path) -> Dictionary:
    """Read a dictionary from a file.

    Raises:
        UsageError: it cannot be read, is too large, or has a line that is no entry. The message names the line.
    """
    entries: dict[tuple[str, str], tuple[str, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            word, language, phones = _entry(line)
        except Rejected as error:
            _refuse(path, number, error.reason)
        before, where = entries.setdefault((word, language), (phones, number))
        if before != phones:
            _refuse(path, number, f"{word!r} has another reading in {language} in line {where}: keep one")
    return Dictionary(tuple(sorted((word, language, phones) for (word, language), (phones, _) in entries.items())))


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--dictionary {path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"--dictionary {path} is larger than {MAX_BYTES // 1024} KiB: name only the words that you need."
        )
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        _refuse(path, content.count(b"\n", 0, error.start) + 1, "it is not UTF-8: save it as UTF-8")


def _refuse(path: Path, number: int, problem: str) -> NoReturn:
    raise UsageError(f"--dictionary {path}, line {number}: {problem}.")


def _entry(line: str) -> tuple[str, str, str]:
    """Return the word, the language and the phones of a line. Raises Rejected if it has none."""
    fields = [field.strip() for field in line.rstrip("\r\n").split("\t")]
    if len(fields) != 3 or not all(fields):
        raise Rejected("text", f"{excerpt(line)} is not word, reading and language with tabs between them")
    word, reading, tag = fields
    language = language_code(tag)
    if language in AUTO or g2p.reads(tag) is None:
        raise Rejected("text", unknown_language(tag))
    word = characters.clean(word)
    if not 0 < len(word) <= MAX_WORD or len(reading) > MAX_READING:
        raise Rejected("text", f"a word has 1 to {MAX_WORD} characters, and a reading {MAX_READING} at most")
    if not any(char.isalnum() for char in word) or "{" in word or "}" in word:
        raise Rejected("text", f"{word!r} is no word")
    return word, language, " ".join(phones_of(reading, language))


def phones_of(reading: str, language: str) -> tuple[str, ...]:
    """Return the phones of a reading in the notation of a language.

    Raises:
        Rejected: stage "text"; it is none.
    """
    phones = _phones_of(reading, language)
    if unknown := [phone for phone in phones if phone not in _SYMBOLS]:
        raise Rejected("text", f"{excerpt(reading)} has {unknown[0]!r}, which is no phone of the symbol table")
    return phones


def _phones_of(reading: str, language: str) -> tuple[str, ...]:
    tokens = unicodedata.normalize("NFC", reading).split()
    if language == "zh" and (syllables := _pinyin(tokens)):
        return tuple(phone for syllable in syllables for phone in chinese.syllable_phones(syllable))
    if language == "yue" and all(map(_JYUTPING.fullmatch, tokens)):
        return tuple(phone for syllable in tokens for phone in cantonese.syllable_phones(syllable))
    own = ipa.ARPABET if language == "en" else _SYMBOLS
    if all(token in own and token not in PUNCTUATION for token in tokens):
        return tuple(tokens)
    if language not in ("zh", "yue", "ja", "ko") and (match := _IPA.fullmatch(reading)):
        return _phones_of_ipa(match[1], language)
    return _respelled(reading, language)


def _pinyin(tokens: list[str]) -> list[str]:
    """Return syllables with a digit for their tone, written so or with a mark; nothing if they are no pinyin."""
    if any(_TONE_MARK.search(unicodedata.normalize("NFD", token)) for token in tokens):
        from pypinyin.contrib.tone_convert import to_tone3

        tokens = [to_tone3(token, neutral_tone_with_five=True) for token in tokens]
    tokens = [token.replace("u:", "ü").replace("v", "ü") for token in tokens]
    return tokens if all(map(_PINYIN.fullmatch, tokens)) else []


def _phones_of_ipa(spelled: str, language: str) -> tuple[str, ...]:
    if language != "en":
        return tuple(espeak_languages.ipa_symbols(spelled))
    try:
        return ipa.to_arpabet(spelled)
    except ValueError as error:
        raise Rejected("text", str(error)) from None


def _respelled(reading: str, language: str) -> tuple[str, ...]:
    """Return the phones of a word that is spelled as it sounds, in the script of its language."""
    own = g2p.reads(language)
    found = scripts.scripts(reading)
    odd = re.search(r"[^\w\s'’-]|[\d_]", reading)
    if own is None or odd or not found or (own.scripts and not found <= own.scripts):
        notation = {"zh": "pinyin", "yue": "jyutping", "ja": "kana", "ko": "Hangul"}.get(
            language, "IPA between slashes"
        )
        raise Rejected("text", f"{excerpt(reading)} is neither phones of the symbol table nor {notation}")
    phones = g2p.phonemise(reading, language).phones
    return tuple(phone for phone in phones if phone not in PUNCTUATION)


def _genitive(last: str) -> tuple[str, ...]:
    """Return the phones of 's behind a phone."""
    return ("IH0", "Z") if last in _SIBILANTS else ("S",) if last in _VOICELESS else ("Z",)


def _begins_word(text: str, at: int) -> bool:
    before = text[at - 1] if at else " "
    if before in "'’" and at > 1:
        before = text[at - 2]
    return not (_is_spaced(text[at]) and _is_spaced(before))


def _ends_word(text: str, at: int) -> bool:
    last, after = text[at - 1], text[at : at + 1] or " "
    if scripts.script(last) == "Hangul":
        return True
    if after in "'’" and not re.match(r"['’]s(?!\w)", text[at:]):
        after = text[at + 1 : at + 2] or " "
    return not (_is_spaced(last) and _is_spaced(after))


def _is_spaced(char: str) -> bool:
    """Return whether a character is part of words that have spaces between them."""
    return (char.isalnum() or unicodedata.category(char).startswith("M")) and scripts.script(char) not in _UNSPACED
