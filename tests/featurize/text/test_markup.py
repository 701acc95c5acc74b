"""Markup is refused with its place, or dropped and told; entities are what they stand for."""

from __future__ import annotations

import pytest

from headrace.featurize.text import g2p, markup
from headrace.store.errors import Rejected


@pytest.mark.parametrize(
    ("text", "language", "mark", "place"),
    [
        ("Hello <COMMA> world", "en", "<COMMA>", 7),
        ("Hello [laughter] world", "en", "[laughter]", 7),
        ("Hello <unk> you", "en", "<unk>", 7),
        ("Hello [NOISE]", "en", "[NOISE]", 7),
        ("Well (laughs) no", "en", "(laughs)", 6),
        ("Well *sighs* no", "en", "*sighs*", 6),
        ("<speak>Hello</speak>", "en", "<speak>", 1),
        ("Hello<break time='500ms'/> you", "en", "<break time='500ms'/>", 6),
        ("<|en|>Hello", "en", "<|en|>", 1),
        ("<!-- a --> Hello", "en", "<!-- a -->", 1),
        ("Tom &amp; <b>Bob</b>", "en", "<b>", 11),
        ("Tom &lt;b&gt;", "en", "<b>", 5),
        ("Tom &foo; Bob", "en", "&foo;", 5),
        ("你#1好#2世界#4。", "zh", "#1", 2),
        ("他走了。 #4", "zh", "#4", 6),
        ("他说【笑声】好", "zh", "【笑声】", 3),
        ("今日は[noise]です", "ja", "[noise]", 4),
        ("그래 (웃음) 네", "ko", "(웃음)", 4),
        ("Guten <i>Tag</i>", "de", "<i>", 7),
    ],
)
def test_markup_is_refused_with_its_place(text: str, language: str, mark: str, place: int) -> None:
    with pytest.raises(Rejected) as caught:
        g2p.phonemise(text, language)
    assert caught.value.reason.startswith(f"{mark!r}, character {place}, is markup (")


@pytest.mark.parametrize(
    ("text", "stripped", "dropped"),
    [
        ("Hello <COMMA> world [laughter] <unk> &amp; more.", "Hello, world & more.", "<COMMA> [laughter] <unk>"),
        ("AND SO <PERIOD> WELL<QUESTIONMARK>", "AND SO. WELL?", "<PERIOD> <QUESTIONMARK>"),
        ("你#1好#2世界#4。", "你好世界。", "#1 #2 #4"),
        ("<p>One<br/>two</p>", "One two", "<p> <br/> </p>"),
        ("他（笑）走了", "他 走了", "（笑）"),
        ('<lang xml:lang="de">ja</lang> <i>so', '<lang xml:lang="de">ja</lang> so', "<i>"),
    ],
)
def test_markup_is_dropped_and_told(text: str, stripped: str, dropped: str) -> None:
    assert markup.strip(text) == (stripped, dropped.split())


@pytest.mark.parametrize(
    "text",
    [
        "3 < 5 and 7 > 2, <3",
        "He is the #1 fan. (Laura) [Bob] {HH AH0}",
        "我看了<三体>（上）。",
        "AT&T; R&D",
        "今日[は k o [ n",
        "{k o [ o b e ] s}",
    ],
)
def test_what_only_resembles_markup_stays(text: str) -> None:
    assert markup.strip(text) == (text, [])
    markup.check(text, text)


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("Tom &amp; Bob", "Tom & Bob"),
        ("it&#39;s", "it's"),
        ("it&#x2019;s", "it’s"),
        ("caf&eacute;", "café"),
        ("a&b;", "a&b;"),
    ],
)
def test_entities_are_what_they_stand_for(text: str, decoded: str) -> None:
    assert markup.decode_entities(text) == decoded


def test_entities_are_read() -> None:
    assert g2p.phonemise("it&#39;s caf&eacute;&nbsp;time", "en") == g2p.phonemise("it's café time", "en")
