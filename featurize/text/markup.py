"""Markup in texts: tags, noises in brackets and marks of prosody are refused with their place, or dropped and counted.

Phones in braces are no markup. Entities, such as `&amp;`, are the characters that they stand for. A part of a text in
another language may be marked as SSML does: `<lang xml:lang="de">Straße</lang>`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from headrace.store.errors import Rejected

_EVENTS = (
    "laugh(?:s|ter|ing)?|noises?|music|applause|cough(?:s|ing)?|breath(?:s|ing|e|es)?|inhales?|exhales?|sigh(?:s|ing)?|"
    "silence|sil|pause|unk|inaudible|unintelligible|crosstalk|cry(?:ing)?|cries|sneezes?|clears throat|beep|sniffs?|"
    "giggl(?:e|es|ing)|chuckl(?:e|es|ing)|gasps?|groans?|yawns?|sings?|singing|whispers?|whispering|lip ?smack|clicks?|"
    "sobs?|sobbing|snorts?|hesitation|overlap|笑|笑い|笑声|哭声|音乐|音楽|掌声|拍手|咳嗽|咳|噪音|静音|停顿|呼吸|叹气|"
    "웃음|박수|음악|기침|한숨"
)
_MARKUP = re.compile(
    rf"""(?P<tag></?[A-Za-z][^<>]*>|<\|[^<>|]*\|>|<[!?][^<>]*>)
    |(?P<event>\[(?:[a-z][a-z_\ '/-]*|[A-Z][A-Z_\ '/-]+|[a-z]+:[^\[\]]*|(?i:{_EVENTS}))\]
        |[(（【<*](?i:{_EVENTS})[)）】>*])
    |(?P<prosody>(?<=[\u3400-\u9fff\u3040-\u30ff，。、！？”’》])\s?\#[0-5](?![0-9]))
    |(?P<entity>&(?:[A-Za-z][A-Za-z0-9]{{1,31}}|\#[0-9]{{1,7}}|\#x[0-9A-Fa-f]{{1,6}});)""",
    re.VERBOSE,
)
_MAY_BE = re.compile(r"[<#&(（【*\[]")
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,31}|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});")
_BRACES = re.compile(r"\{[^{}]*\}")
_SPOKEN_MARKS = {"<comma>": ",", "<period>": ".", "<questionmark>": "?", "<exclamationpoint>": "!"}
"""Tags of GigaSpeech that stand for punctuation."""
_KINDS = {
    "tag": "a tag",
    "event": "something that is heard, not said",
    "prosody": "a mark of prosody",
    "entity": "an entity that is not known",
}
_LANGUAGE = re.compile(r"""<lang\s+(?:xml:)?lang\s*=\s*["']([^"'<>]*)["']\s*>|</lang\s*>""")


def decode_entities(text: str) -> str:
    """Return a text with the characters that entities of HTML and XML stand for: `&amp;`, `&#39;`, `&#x27;`."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def check(text: str, given: str) -> None:
    """Check that a text holds no markup but phones in braces.

    Args:
        text: with its entities decoded.
        given: as it was given.
    Raises:
        Rejected: stage "text"; it does. The reason names the first piece, and its place in `given`.
    """
    for match in _find(text):
        shown, first = match[0].strip(), match.start() + len(match[0]) - len(match[0].lstrip())
        raise Rejected(
            "text",
            f"{shown[:40]!r}, character {given_index(first, given) + 1}, is markup ({_KINDS[str(match.lastgroup)]}): "
            "take it out, or drop what is marked in a corpus by --strip-markup",
        )


def given_index(index: int, given: str) -> int:
    """Return the index in a text as given of a character of the text whose entities are decoded."""
    if "&" in given:
        for match in _ENTITY.finditer(given):
            if match.start() >= index:
                break
            longer = len(match[0]) - len(html.unescape(match[0]))
            index = max(match.start(), index + longer)
    return index


def strip(text: str) -> tuple[str, list[str]]:
    """Return a text without its markup, and what was dropped. Marks that stand for punctuation become it."""
    if not _MAY_BE.search(text):
        return text, []
    decoded = decode_entities(text)
    dropped: list[str] = []
    kept, at = "", 0
    for match in _find(decoded):
        mark = match[0].strip()
        if _LANGUAGE.fullmatch(mark):
            continue
        dropped.append(mark)
        kept = kept + decoded[at : match.start()]
        at = match.end()
        if (sign := _SPOKEN_MARKS.get(mark.lower())) is not None:
            kept = kept.rstrip() + sign
        elif match.lastgroup != "prosody":
            kept += " "
    return (" ".join((kept + decoded[at:]).split()), dropped) if dropped else (text, [])


def split_languages(text: str, language: str) -> list[tuple[str, str, int]]:
    """Return the parts of a text, each with its language and its index in the text.

    Args:
        text: in which `<lang xml:lang="de">` begins a part in another language, and `</lang>` ends it.
        language: of what is not marked.
    Raises:
        Rejected: stage "text"; a mark is not closed, or closes nothing.
    """
    if "lang" not in text or "<" not in text:
        return [(language, text, 0)]
    parts: list[tuple[str, str, int]] = []
    marked: re.Match[str] | None = None
    at = 0
    for match in _LANGUAGE.finditer(text):
        if (match[1] is None) == (marked is None):
            problem = "closes nothing" if marked is None else "is inside of another one"
            raise Rejected("text", f"{match[0][:40]!r}, character {match.start() + 1}, {problem}")
        parts.append((marked[1] if marked else language, text[at : match.start()], at))
        marked, at = None if marked else match, match.end()
    if marked:
        raise Rejected("text", f"{marked[0][:40]!r}, character {marked.start() + 1}, is not closed by </lang>")
    parts.append((language, text[at:], at))
    return [part for part in parts if part[1].strip()] or parts[-1:]


def carry_languages(sentences: Sequence[str]) -> list[str]:
    """Return the sentences that a text was cut into, each with its own marks of the languages that go on in it."""
    carried, opened = [], ""
    for sentence in sentences:
        marked = opened + sentence
        marks = [*_LANGUAGE.finditer(marked)]
        opened = marks[-1][0] if marks and marks[-1][1] is not None else ""
        carried.append(marked + "</lang>" * bool(opened))
    return carried


def _find(text: str) -> Iterator[re.Match[str]]:
    """Yield what is markup in a text whose entities are decoded."""
    if _MAY_BE.search(text):
        yield from _MARKUP.finditer(_BRACES.sub(lambda match: " " * len(match[0]), text))
