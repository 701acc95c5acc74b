"""Convert text to phones: the entry point to the frontends in `headrace.featurize.text.languages`.

A text is cleaned, its numbers are written out in words, it is split by script, and the frontend of each script reads
its pieces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

from headrace.featurize.text import characters, espeak, markup
from headrace.featurize.text.languages import (
    cantonese,
    chinese,
    english,
    espeak_languages,
    japanese,
    korean,
    scripts,
    unsaid,
)
from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    UnreadCharacter,
    concatenate,
    excerpt,
    token,
)
from headrace.featurize.text.languages.language_tags import AUTO, language_code, unknown_language
from headrace.store.errors import Rejected, UsageError, rejecting

if TYPE_CHECKING:
    from headrace.featurize.text.reading_options import ReadingOptions

_Piece = Reading | tuple[Frontend, str]
"""A piece of a text that has been read, or a frontend and what it reads."""
FRONTENDS = {module.FRONTEND.language: module.FRONTEND for module in (chinese, english, japanese, korean, cantonese)}
"""Frontends by language code. espeak-ng reads every other language that it has a voice for."""
MIN_ENGLISH_PHONES = 4
"""A shorter English text gets a comma in front, as upstream does: its models were trained on no fewer symbols."""
MAX_CHARACTERS = 5000
"""Maximum length of a text: about five minutes of fast speech."""

_BY_SCRIPT = {"Latin": FRONTENDS["en"], "Han": FRONTENDS["zh"], "Kana": FRONTENDS["ja"], "Hangul": FRONTENDS["ko"]}
_WITH_KANA = _BY_SCRIPT | {"Han": FRONTENDS["ja"]}
_BRACES = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"[㐀-鿿]|\d+|[^\W\d_㐀-鿿]+")
"""A word, or a character that is one."""


def phonemise(text: str, language: str, options: ReadingOptions | None = None) -> Reading:
    """Convert text to phones.

    Words in another script are read by the frontend of that script: Latin letters in a Chinese text are read as
    English, kanji in a Japanese text as Japanese. Braces hold literal phones: `{HH AH0 L OW1} world`. A part in another
    language may be marked: `<lang xml:lang="de">Straße</lang>`.

    Args:
        text: to read.
        language: its code or tag; `auto` leaves it to the scripts.
        options: what else decides the reading; None for no dictionary and no network.
    Raises:
        Rejected: stage "text"; no frontend reads the language or one of the letters, the text is in another language or
            too long, it holds characters that are not text, or nothing in it is spoken.
    """
    if len(text) > MAX_CHARACTERS:
        raise Rejected("text", f"{len(text)} characters, from {excerpt(text)}, are more than {MAX_CHARACTERS}: cut it")
    decoded = markup.decode_entities(text)
    parts = [found for part in markup.split_languages(decoded, language) for found in _by_script(*part)]
    readings = [_read_part(text, decoded, *part, options) for part in parts]
    spaced = (piece for reading in readings for piece in (token(" "), reading))
    reading = _merge_pauses(concatenate(islice(spaced, 1, None)))
    if not set(reading.phones) - PUNCTUATION - {"空"}:
        raise Rejected("text", f"nothing to speak in {excerpt(text)}")
    few = language_code(language) == "en" and len(reading.phones) < MIN_ENGLISH_PHONES and not _BRACES.search(decoded)
    return concatenate((token(",", ","), reading)) if few and len(parts) == 1 else reading


def _by_script(language: str, text: str, start: int) -> list[tuple[str, str, int]]:
    """Return the parts of a part of a text: itself, or where its language is left to the scripts, what they tell."""
    code = language_code(language)
    if code not in AUTO:
        return [(language, text, start)]
    return [(told, piece, start + index) for told, piece, index in scripts.split_by_language(text, code)]


def _read_part(
    given: str, decoded: str, language: str, text: str, start: int, options: ReadingOptions | None
) -> Reading:
    """Read a part of a text in one language.

    Args:
        given: the whole text as it was given.
        decoded: with its entities decoded.
        language: of the part.
        text: the part of `decoded`.
        start: its index there.
        options: as in `phonemise`.
    """
    own = _with_options(_frontend(language), options)
    masked = " " * start + text
    markup.check(masked, given)
    clean = characters.clean(masked, lambda index: markup.given_index(index, given))
    with rejecting("text"):
        try:
            pieces = _BRACES.split(clean)
            _check_language("".join(pieces[::2]), own)
            words = list(_in_words(pieces, own, options))
            reading = concatenate(map(_read, words))
            _check_nothing_lost(_Given(pieces, own, options), words, reading)
            return reading
        except UnreadCharacter as error:
            index = characters.place(error.char, decoded, start)
            raise error.found_in(given, index if index < 0 else markup.given_index(index, given)) from None


def reads(language: str) -> Frontend | None:
    """Return the frontend that reads a language; None if there is none."""
    with suppress(Rejected):
        return _frontend(language)
    return None


def versions(languages: Iterable[str]) -> dict[str, str]:
    """Return for each language the version of its frontend and of the libraries that it uses.

    Raises:
        UsageError: a library is not installed.
    """
    found = {}
    for language in sorted(set(languages)):
        try:
            frontend = _frontend(language)
        except Rejected:
            continue  # its utterances are rejected one by one
        try:
            made = [f"{name}-{version(name)}" for name in frontend.libraries]
        except PackageNotFoundError as error:
            raise UsageError(f"{language} is read by {error.name}: pip install 'headrace[{language}]'.") from None
        found[language] = " ".join((f"headrace-{frontend.version}", *made))
    return found


def read_in_ipa(languages: Iterable[str]) -> list[str]:
    """Return those of some languages, in order, whose phones are IPA: only the table `headrace-ipa` has them."""
    found = []
    for language in sorted(set(languages)):
        with suppress(Rejected):  # no frontend reads it, whatever the table
            found += [language] if _frontend(language).language not in FRONTENDS else []
    return found


@lru_cache(maxsize=64)
def _frontend(language: str) -> Frontend:
    """Return the frontend of a language or of its tag. Raises Rejected if there is none."""
    code = language_code(language)
    if code not in FRONTENDS and code not in espeak.voices():
        raise Rejected("text", unknown_language(language))
    return FRONTENDS.get(code) or espeak_languages.make_frontend(code)


def _check_language(text: str, own: Frontend) -> None:
    """Raise Rejected if a text has letters, but none in a script of its language, not even where it is in words."""
    found = scripts.scripts(text)
    if own.scripts and found and own.scripts.isdisjoint(found) and own.scripts.isdisjoint(_scripts_in_words(text, own)):
        written = " and ".join(sorted(found))
        raise Rejected("text", f"{excerpt(text)} is {written}, and its language is given as {own.language}")


def _scripts_in_words(text: str, own: Frontend) -> set[str]:
    """Return the scripts of a text whose figures and signs are in words: `x+1` has none of Chinese, x加一 has."""
    return scripts.scripts(own.normalise(text))


def _read(piece: _Piece) -> Reading:
    return piece if isinstance(piece, Reading) else piece[0].read(piece[1])


def _with_options(frontend: Frontend, options: ReadingOptions | None) -> Frontend:
    """Return the frontend that reads a language with these options: Chinese by a network, or the one given."""
    network = options.g2pw if options else None
    return chinese.with_network(network) if network and frontend.language == "zh" else frontend


def _in_words(given: list[str], own: Frontend, options: ReadingOptions | None) -> Iterator[_Piece]:
    """Yield what the pieces outside and inside braces are in words, with the frontend that reads it."""
    readers = _WITH_KANA if "Kana" in scripts.scripts("".join(given[::2])) else _BY_SCRIPT
    dictionary = options.dictionary if options else None
    if options and options.g2pw:
        readers = {script: _with_options(reader, options) for script, reader in readers.items()}

    def languages(char: str) -> tuple[str, ...]:
        reader = scripts.reader(scripts.script(char), own, readers)
        return (own.language,) if reader in (None, own) else (own.language, reader.language)

    pieces: list[tuple[str, tuple[str, ...]]] = []
    for number, piece in enumerate(given):
        if number % 2:
            pieces.append((piece, tuple(piece.split())))
        else:
            pieces += dictionary.split(piece, languages) if dictionary else [(piece, ())] * bool(piece)
    for number, (piece, phones) in enumerate(pieces, 1):
        if phones:
            yield from _known_word(piece, phones)
        else:
            yield from _in_scripts(piece, own, readers, last=number == len(pieces))


class _Given(NamedTuple):
    """A part of a text, and what reads it."""

    pieces: list[str]
    """Outside and inside braces, alternately."""
    own: Frontend
    options: ReadingOptions | None

    def joins(self, sign: str) -> bool:
        """Return whether what stands before a sign and behind it becomes one word without it."""
        between = re.compile(rf"(?<=\S){re.escape(sign)}(?=\S)")
        return any(between.search(piece) for piece in self.pieces[::2])

    def without(self, signs: str, instead: str) -> list[_Piece]:
        """Return it in words, with each of some signs replaced."""
        replaced = dict.fromkeys(map(ord, signs), instead)
        others = [piece if number % 2 else piece.translate(replaced) for number, piece in enumerate(self.pieces)]
        return list(_in_words(others, self.own, self.options))


def _check_nothing_lost(given: _Given, words: list[_Piece], reading: Reading) -> None:
    """Check that every sign of a text has a say in its phones, but marks that are not said.

    Letters, digits and punctuation are the frontends' business. Anything else is left out for once: if the phones stay
    the same, it was lost. So are the letters of the script that a text in several has most of, where nobody has told
    which scripts its language is written in.

    Args:
        given: what is read.
        words: `given` in words.
        reading: of it.
    Raises:
        UnreadCharacter: it was.
    """
    own, written = given.own, "".join(given.pieces[::2])
    usual = frozenset(_BY_SCRIPT) if own.scripts else _commonest_script(written)
    for sign in dict.fromkeys(written):
        if sign.isascii() and (sign.isalnum() or sign.isspace()):
            continue
        if not unsaid.is_sign(sign, written, usual) or not _says_the_same(sign, given, words, reading):
            continue
        if sign.isalpha() or not _is_of_figure(sign, written, own):
            raise _unread(sign, own)
    if not own.scripts and len(scripts.scripts(written)) > 1:
        letters, others = _letters_of(usual, written), None
        with suppress(Rejected):
            others = concatenate(map(_read, given.without(letters, " ")))
        if others is not None and others.phones == reading.phones:
            raise _unread(letters[0], own)


def _unread(char: str, own: Frontend) -> UnreadCharacter:
    return UnreadCharacter(char, f"is not read in {own.language}: write it in words, or take it out")


def _letters_of(usual: frozenset[str], text: str) -> str:
    """Return the letters of a text that are of some scripts, each once."""
    return "".join(char for char in dict.fromkeys(text) if scripts.script(char) in usual)


def _is_of_figure(sign: str, written: str, own: Frontend) -> bool:
    """Return whether a sign stands at a figure, and is said at one, as + and a currency: here other words say it."""
    at = re.escape(sign)
    if not re.search(rf"\d\s?{at}|{at}\s?\d", written):
        return False
    for figure in (f"5{sign}", f"{sign}5", f"5{sign}5"):
        with suppress(Rejected):
            given = _Given([figure], own, None)
            words = list(_in_words(*given))
            if not _says_the_same(sign, given, words, concatenate(map(_read, words))):
                return True
    return False


def _says_the_same(sign: str, given: _Given, words: list[_Piece], reading: Reading) -> bool:
    """Return whether a text has the same phones without a sign, whether a space takes its place or nothing.

    Words that go with the sign are said for it: what is joined in its place is no word of the text. And a text that
    has words more than another cannot sound alike. To read it would tell as well, and takes longer than all else here.
    """
    seen: list[list[_Piece]] = []
    for instead in ("", " ") if given.joins(sign) else ("",):
        with suppress(Rejected):
            others = given.without(sign, instead)
            if others in seen:
                continue
            seen.append(others)
            further = 0 if sign.isalnum() else _further_words(words, others)  # it may be a word without a sound
            if further > 0 and not instead:
                return False
            if not further and concatenate(map(_read, others)).phones == reading.phones:
                return True
    return False


def _further_words(words: list[_Piece], others: list[_Piece]) -> int:
    """Return how many words one text has more than another, negative if fewer; 0 if they differ in other words too."""
    one, two = _words_of(words), _words_of(others)
    shorter, longer = (two, one) if len(one) > len(two) else (one, two)
    same = next((place for place, word in enumerate(shorter) if word != longer[place]), len(shorter))
    is_inserted = shorter[same:] == longer[len(longer) - len(shorter) + same :]
    return len(one) - len(two) if is_inserted else 0


def _words_of(pieces: list[_Piece]) -> list[str]:
    return _WORD.findall(" ".join(piece.text if isinstance(piece, Reading) else piece[1] for piece in pieces))


def _commonest_script(text: str) -> frozenset[str]:
    found = Counter(scripts.script(char) for char in text if char.isalpha())
    return frozenset(name for name, _ in found.most_common(1))


def _known_word(word: str, phones: tuple[str, ...]) -> Iterator[Reading]:
    """Yield the reading of a word with given phones, by its characters where each has its initial and final."""
    if len(phones) == 2 * len(word) and all(scripts.script(char) == "Han" for char in word):
        yield from (
            token(char, pair) for char, pair in zip(word, zip(phones[::2], phones[1::2], strict=True), strict=True)
        )
    else:
        yield token(word, phones)


def _in_scripts(text: str, own: Frontend, readers: dict[str, Frontend], *, last: bool) -> Iterator[_Piece]:
    """Yield the pieces of a text without braces, in words, each with the frontend of its script.

    Frontends drop spaces at edges, and that of Korean ends a text in a full stop: both matter where a piece goes on.
    """
    space = token(" ", ("空",) if own.language == "ko" else ())
    bare = text.strip()
    if text[:1].isspace():
        yield space
    normal = own.normalise(bare) if bare else ""
    if not last and normal.endswith(".") and not bare.endswith("."):
        normal = normal[:-1]
    for frontend, piece in scripts.split_by_script(normal, own, readers):
        yield frontend, piece if frontend is own else frontend.normalise(piece)
    if bare and text[-1:].isspace():
        yield space


def _merge_pauses(reading: Reading) -> Reading:
    """Keep only the first of several punctuation marks with nothing spoken between them."""
    heard = [phone for phone in reading.phones if phone != "空"] if "空" in reading.phones else reading.phones
    marks = [place for place, phone in enumerate(heard) if phone in PUNCTUATION]
    if all(following - mark > 1 for mark, following in pairwise(marks)):
        return reading
    text: list[str] = []
    phones: list[str] = []
    counts: list[int] = []
    at, paused = 0, False
    for char, count in zip(reading.text, reading.word2ph, strict=True):
        own = reading.phones[at : at + count]
        at += count
        mark = count == 1 and own[0] in PUNCTUATION
        if not (mark and paused):
            text.append(char)
            phones += own
            counts.append(count)
        paused = mark or (paused and set(own) <= {"空"})
    return Reading("".join(text), tuple(phones), tuple(counts))
