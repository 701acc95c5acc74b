"""Conditions on utterances mean what they mean in Python, and anything else is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.store.conditions import evaluate
from headrace.store.errors import UsageError

ROWS = [
    {"duration": 1.5, "speaker": "anna", "language": "de", "text": "ein Satz", "aligned": 1, "frames": 75},
    {"duration": 5.0, "speaker": "x", "language": "en", "text": "one sentence", "aligned": 0, "frames": 250},
    {"duration": 20.0, "speaker": "anna", "language": "en", "text": "a longer one", "aligned": 1, "frames": 1000},
    {"duration": 31.0, "speaker": "ü", "language": "ja", "text": "文", "aligned": 0, "frames": 1550},
]
COLUMNS = {
    name: lambda name=name: np.array([r[name] for r in ROWS], object if isinstance(ROWS[0][name], str) else None)
    for name in ROWS[0]
}


def matching(where: str) -> list[int]:
    holds = np.logical_and.reduce([mask for _, mask in evaluate(where, COLUMNS, len(ROWS))])
    return np.flatnonzero(holds).tolist()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("duration < 20 and speaker != 'x'", [0]),
        ("duration <= 20", [0, 1, 2]),
        ("1.5 < duration <= 20", [1, 2]),
        ("20 > duration > 2 > 1", [1]),
        ("speaker in ['anna', 'ü']", [0, 2, 3]),
        ("speaker not in ('anna',)", [1, 3]),
        ("language in []", []),
        ("frames in [75, 1000]", [0, 2]),
        ("'one' in text", [1, 2]),
        ("speaker in 'x and y'", [1]),
        ("aligned", [0, 2]),
        ("not aligned or duration < 2", [0, 1, 3]),
        ("(aligned or language == 'ja') and not speaker == 'anna'", [3]),
        ("frames / duration == 50 and -duration < -5", [2, 3]),
        ("frames - 2 * 250 + 1 > 0", [2, 3]),
        ("frames / aligned < 100", [0]),
        ("True", [0, 1, 2, 3]),
        ("duration < 9.99e299", [0, 1, 2, 3]),
        (" duration\n  < 2 ", [0]),
    ],
)
def test_meaning(where, rows):
    assert matching(where) == rows


NUMBERS = st.sampled_from(["duration", "frames", "aligned"]) | st.integers(-3, 1600).map(str)
TEXTS = st.sampled_from(["speaker", "language", "text", "'x'", '"anna"', "'one'", "''"])


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


SUMS = st.recursive(NUMBERS, lambda x: joined(st.just("("), x, st.sampled_from("+-*"), x, st.just(")")), max_leaves=4)
COMPARED = joined(SUMS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), SUMS)
CHAINED = joined(SUMS, st.sampled_from(["<", "<="]), SUMS, st.sampled_from(["<", "!="]), SUMS)
MEMBER = joined(TEXTS, st.sampled_from(["in", "not in", "==", "!="]), TEXTS)
LISTED = joined(TEXTS, st.sampled_from(["in [", "not in ["]), TEXTS, st.just(","), TEXTS, st.just("]"))
CONDITIONS = st.recursive(
    COMPARED | CHAINED | MEMBER | LISTED,
    lambda x: joined(st.just("("), x, st.sampled_from(["and", "or"]), x, st.just(")")) | x.map("not {}".format),
    max_leaves=5,
)


@settings(deadline=None)
@given(CONDITIONS)
def test_a_condition_means_what_it_means_in_python(where):
    expected = [n for n, row in enumerate(ROWS) if eval(where, {"__builtins__": {}}, row)]
    assert matching(where) == expected


@pytest.mark.parametrize(
    ("where", "message", "place"),
    [
        ("durations < 3", "there is no column durations; the nearest are duration", 0),
        ("duration < 3 and sprecher == 'x'", "no column sprecher; the nearest are speaker", 17),
        ("zzz > 1", "there are aligned, duration, frames, language, speaker, text", 0),
        ("duration < 'x'", "duration is a number and 'x' is text", 11),
        ("speaker == 3", "speaker is text and 3 is a number", 11),
        ("speaker < 'b'", "text is compared by ==, !=, and in", 10),
        ("'ü' == speaker and text", "this is text and not a condition", 19),
        ("duration + text > 3", "this is text where a number is needed", 11),
        ("duration in 3", r"in takes a list, such as \['a', 'b'\], or two texts", 12),
        ("duration = 3", "this is not a condition", 9),
        ("duration <", "this is not a condition", None),
        ("duration is 3", "a number is compared by ==, !=, <, <=, >, >= and in", 12),
        ("duration < 3\0", "this is not a condition", 13),
        ("duration < 1e300", "neither a number nor a text", 11),
        ("duration < 3j", "neither a number nor a text", 11),
        ("duration < 1e400", "neither a number nor a text", 11),
        ("None", "neither a number nor a text", 0),
    ],
)
def test_errors_point_to_their_position(where, message, place):
    with pytest.raises(UsageError, match=message) as caught:
        matching(where)
    assert caught.value.exit_code == 2
    text, caret = caught.value.details
    assert text == where
    assert place is None or caret == " " * place + "^"


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "speaker.upper() == 'X'",
        "speaker.__class__",
        "text[0] == 'a'",
        "(lambda: 1)()",
        "[1 for x in text]",
        "f'{duration}' == '1'",
        "(duration := 3)",
        "duration ** 9 > 1",
        "9 << 9",
        "duration if aligned else 1",
        "speaker in {'a': 1}",
        "*duration",
        "await duration",
        "'a' 'b' + 1",
        "\0",
        "(" * 500 + "1" + ")" * 500,
        "-" * 1900 + "1",
        "9" * 1999,
        "duration < 3 " * 999,
    ],
)
def test_other_syntax_is_refused(where):
    with pytest.raises(UsageError):
        matching(where)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from("duration speaker < == in not and or ( ) [ ] , 'x' 3 - . = : ü \\ # lambda".split())))
def test_any_input_is_a_condition_or_an_error_for_a_person(words):
    try:
        matching(" ".join(words))
    except UsageError as error:
        assert "\n" not in error.message
