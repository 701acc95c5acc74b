"""Where a text is cut into the sentences that are spoken one after another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.train.inference.sentences import CLOSING_MARKS, MAX_LENGTH, close, cut_sentences, length

CUTS = {
    "en": [
        "Dr. Who met J. R. Smith at No. 5 for $3.50, i.e. cheaply.",
        "Was it good?",
        '"It was!"',
        "He said so... and left.",
        '"Come in!" they shouted.',
        "Version 2.0.1 of example.com is out.",
    ],
    "zh": ["他说：“今天天气很好。”", "我们去公园吧！", "价格是3.5元……真贵。", "你们今天去吗？"],
    "ja": ["今日はいい天気ですね。", "「散歩に行きましょう！」", "本当ですか？！", "それは三・五キロです。"],
    "ko": ["오늘 날씨가 정말 좋네요.", "어디로 갈까요?", "버전 2.0이 나왔습니다."],
    "de": ["Hr. Meier kam am 3. Mai zu Prof. Abel.", "Er blieb bis 1990.", "Warum nur?"],
    "hi": ["आज मौसम बहुत अच्छा है।", "हम बाज़ार चलते हैं।"],
}


@pytest.mark.parametrize("language", CUTS)
def test_sentences_end_by_the_marks_of_their_language(language: str) -> None:
    space = "" if language in ("zh", "ja") else " "
    assert cut_sentences(space.join(CUTS[language]), language) == CUTS[language]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello world", "en", ["Hello world."]),
        ("hello there. how are you?", "en", ["hello there.", "how are you?"]),
        ("Hello world", "fr-fr", ["Hello world."]),
        ("今天天气很好", "zh", ["今天天气很好。"]),
        ("今天天气很好", "ZH", ["今天天气很好。"]),
        ("Wait, here:", "en", ["Wait, here:"]),
        ("He said (quietly)", "en", ["He said (quietly)."]),
        ('He said "Stop!"', "en", ['He said "Stop!"']),
        ("A title\nThe first line\n\nThe second", "en", ["A title.", "The first line.", "The second."]),
        ("No. Yes. That is all of it. Ok.", "en", ["No. Yes.", "That is all of it. Ok."]),
        ("好。今天天气很好。", "zh", ["好。今天天气很好。"]),
        ("你好，世界很大。 ……", "zh", ["你好，世界很大。……"]),
        ("Say {HH AH0 . L OW1} now. Then stop here.", "en", ["Say {HH AH0 . L OW1} now.", "Then stop here."]),
        ("...", "en", ["..."]),
        ("", "en", [""]),
    ],
)
def test_each_ends_in_a_mark(text: str, language: str, expected: list[str]) -> None:
    assert cut_sentences(text, language) == expected


def test_long_sentences_are_cut_at_marks_then_at_spaces_then_at_their_length() -> None:
    words = "the miller carried a heavy sack over the narrow bridge " * 9
    by_commas = cut_sentences((words.strip() + ", and ") * 2 + "went home.", "en")
    assert len(by_commas) > 3 and all(piece.endswith((".", ",")) for piece in by_commas)
    assert " ".join(by_commas).replace(",", "").split() == ((words + "and ") * 2 + "went home.").split()
    clause = "今天我们一起去公园里面看花，"
    assert cut_sentences(clause * 8, "zh") == [clause * 4] * 2
    unmarked = cut_sentences("山" * 200, "zh")
    assert "".join(unmarked).replace("，", "") == "山" * 200 + "。" and {len(one) for one in unmarked} == {51}
    assert max(map(length, cut_sentences("ก" * 900, "th"))) <= MAX_LENGTH + 1
    assert cut_sentences("{HH AH0} " * 60, "en")[0].count("{") == cut_sentences("{HH AH0} " * 60, "en")[0].count("}")


@settings(max_examples=60, deadline=None)
@given(
    st.text('ab z.A,!?…。，！きゃ山{}\n"” 3-', max_size=120).filter(lambda text: any(map(str.isalnum, text))),
    st.sampled_from(["en", "zh", "ja", "de", "th"]),
    st.integers(1, 8),
)
def test_nothing_is_lost_or_added_but_marks(text: str, language: str, times: int) -> None:
    pieces = cut_sentences(text * times, language)
    letters = [char for char in text * times if char.isalnum()]
    assert [char for piece in pieces for char in piece if char.isalnum()] == letters
    assert all(piece == close(piece, language) for piece in pieces)
    if "{" not in text:
        assert max(map(length, pieces)) <= MAX_LENGTH + 1


def test_marks_that_close_are_read_as_a_pause_or_nothing() -> None:
    assert not any(mark.isalnum() for mark in CLOSING_MARKS)
