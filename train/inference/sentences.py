"""Cut a text into the sentences that are spoken one after another.

The text-to-semantic decoder has learned to say some seconds at a time: of a longer text it repeats or skips words, and
it ends after a minute in any case. So each sentence is said by itself, ends in a mark, and is no longer than it was in
training.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from headrace.featurize.text.languages import english, scripts, titles
from headrace.featurize.text.languages.language_tags import language_code

MAX_LENGTH = 240
"""Length of a sentence, in letters of an alphabet: about 16 s of speech."""
WEIGHTS = {"Han": 4, "Kana": 3, "Hangul": 3}
"""Letters of an alphabet that take as long to say as a character of these scripts."""
MIN_LETTERS = 5
"""A sentence of fewer letters or digits is said with the next one, as upstream does: alone it is said badly."""
CLOSING_MARKS = frozenset("，。？！,.?!~:：—…、；;-～।॥؟۔።։")
"""Marks that a text may end in. Another one gets a full stop, as upstream adds it."""
UNSPACED = frozenset({"zh", "ja", "yue"})
"""Languages that are written without spaces, and with marks of full width."""
_ORDINALS = frozenset("de da nb no fi cs sk sl hr sr bs hu et lv lt pl tr is".split())
"""Languages that write ordinals with a full stop: `am 3. Mai`."""
_END = re.compile(r"[.!?…。！？．｡।॥؟۔።։]+[\"'”’»›)\]）」』】》〉]*")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_WIDE_ENDS = frozenset("。！？｡")
_WIDE_SCRIPTS = frozenset({"Han", "Kana"})
_PAUSES = (re.compile(r"[;；:：…—](?!\d)"), re.compile(r"[,，、､·،](?!\d)|\s[-–]\s"), re.compile(r"\s"))
"""Where a sentence that is too long is cut: the first kind that there is."""
_BRACES = re.compile(r"\{[^{}]*\}")
_MIN_SHARE = 0.4
"""The least share of MAX_LENGTH that is cut off a sentence at a mark."""


def cut_sentences(text: str, language: str) -> list[str]:
    """Cut a text into sentences, each with a mark at its end. There is one at least.

    Ends are line breaks, and marks by the rules of the language: of `Dr. Meier kam am 3. Mai.` only the last one.
    Sentences over MAX_LENGTH are cut at other marks, those without at spaces, those without at their length. Phones in
    braces are not cut.
    """
    code = language_code(language) or language
    written = [sentence for line in text.splitlines() for sentence in _sentences(line.strip(), code)]
    marked = []
    for pieces in map(_shorten, _with_marks_alone(written)):
        marked += [close(piece, code, last=n == len(pieces)) for n, piece in enumerate(pieces, 1)]
    return _with_short_ones(marked, code) or [text.strip()]


def close(text: str, language: str, *, last: bool = True) -> str:
    """Return a text with a mark at its end: a full stop where it has none, or a comma where its sentence goes on."""
    bare = text.rstrip().rstrip("\"'”’»›)]）」』】》〉")
    if not bare or bare[-1] in CLOSING_MARKS:
        return text.rstrip()
    full_stop, comma = ("。", "，") if language in UNSPACED else (".", ",")
    return text.rstrip() + (full_stop if last else comma)


def length(text: str) -> int:
    """Return how long a text is, in letters of an alphabet that take as long to say."""
    return sum(WEIGHTS.get(scripts.script(char), 1) for char in text)


def _sentences(line: str, language: str) -> Iterator[str]:
    """Yield the sentences of a line, as they are written."""
    braces = [match.span() for match in _BRACES.finditer(line)]
    begin = 0
    for match in _END.finditer(line):
        inside = any(start < match.start() < stop for start, stop in braces)
        if not inside and _is_end(line[begin : match.end()], match, line[match.end() :], language):
            yield line[begin : match.end()].strip()
            begin = match.end()
    if line[begin:].strip():
        yield line[begin:].strip()


def _is_end(before: str, match: re.Match[str], after: str, language: str) -> bool:
    """Return whether marks end a sentence.

    Args:
        before: the sentence up to and with the marks.
        match: the marks.
        after: the rest of the line.
    """
    marks = match[0].rstrip("\"'”’»›)]）」』】》〉")
    if not after or _WIDE_ENDS & set(marks):
        return True
    if not after[0].isspace():
        wide = scripts.script(after[0]) in _WIDE_SCRIPTS and not before[-len(match[0]) - 1 :][:1].isdigit()
        return wide and "…" not in marks and marks != "..."
    following = after.lstrip("\"'“‘«‹([（「『《¿¡ \t")[:1]
    quoted = len(marks) < len(match[0])
    if following.islower() and not before.islower() and (quoted or set(marks) <= {".", "…", "．"}):
        return False  # it goes on; where nothing has a capital, that says nothing
    return marks != "." or not _is_abbreviated(before.split()[-1], after, language)


def _is_abbreviated(word: str, after: str, language: str) -> bool:
    """Return whether a word ends in the full stop of a title, an initial, an abbreviation or an ordinal."""
    word = word.lstrip("\"'“‘«‹([（")
    if titles.stands_for_a_word(word, after, language) or (language == "en" and word.lower() in english.TITLES):
        return True
    if _INITIALS.fullmatch(word) and word != "I.":
        return True
    return language.partition("-")[0] in _ORDINALS and re.fullmatch(r"\d{1,2}\.", word) is not None


def _with_marks_alone(sentences: Iterable[str]) -> list[str]:
    """Join pieces without a letter or a digit, such as marks alone, to the sentence before them."""
    joined: list[str] = []
    for sentence in sentences:
        if joined and not any(map(str.isalnum, sentence)):
            joined[-1] += sentence
        else:
            joined.append(sentence)
    return joined


def _shorten(sentence: str) -> list[str]:
    """Cut a sentence into pieces that are not longer than MAX_LENGTH, and about equally long."""
    pieces = []
    while (whole := length(sentence)) > MAX_LENGTH:
        at = _best_cut(sentence, whole / -(-whole // MAX_LENGTH))
        pieces.append(sentence[:at].rstrip())
        sentence = sentence[at:].lstrip()
    return [*pieces, sentence]


def _best_cut(sentence: str, wanted: float) -> int:
    """Return where to cut a sentence: after the mark, else the space, else the character that is nearest to a length.

    Args:
        wanted: the length to cut off.
    """
    lengths, total = [0], 0
    for char in sentence:
        total += WEIGHTS.get(scripts.script(char), 1)
        lengths.append(total)
    whole = [range(match.start() + 1, match.end()) for match in _BRACES.finditer(sentence)]
    possible = [
        at for at in range(1, len(sentence)) if lengths[at] <= MAX_LENGTH and not any(at in braces for braces in whole)
    ]
    for pauses in _PAUSES:
        ends = {match.end() for match in pauses.finditer(sentence)}
        if cuts := [at for at in possible if at in ends and lengths[at] >= _MIN_SHARE * wanted]:
            return min(cuts, key=lambda at: abs(lengths[at] - wanted))
    cuts = [at for at in possible if not _belongs_to_the_last(sentence[at])] or possible
    if not cuts:  # phones in braces that are longer than any sentence
        return next((braces.stop for braces in whole), len(sentence))
    return min(cuts, key=lambda at: abs(lengths[at] - wanted))


def _belongs_to_the_last(char: str) -> bool:
    """Return whether a character cannot begin a piece: marks, accents and small kana belong to the one before."""
    return unicodedata.category(char)[0] in "MP" or char in "ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々"


def _with_short_ones(sentences: Iterable[str], language: str) -> list[str]:
    """Join each sentence that has fewer than MIN_LETTERS letters to the next one, the last one to that before."""
    space = "" if language in UNSPACED else " "
    joined: list[str] = []
    for sentence in sentences:
        if joined and _is_short(joined[-1]) and length(joined[-1] + sentence) <= MAX_LENGTH:
            joined[-1] += space + sentence
        else:
            joined.append(sentence)
    if len(joined) > 1 and _is_short(joined[-1]) and length(joined[-2] + joined[-1]) <= MAX_LENGTH:
        joined[-2:] = [joined[-2] + space + joined[-1]]
    return joined


def _is_short(sentence: str) -> bool:
    return "{" not in sentence and sum(map(str.isalnum, sentence)) < MIN_LETTERS
