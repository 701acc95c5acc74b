"""Rejects are grouped by what is the same in their reasons."""

from __future__ import annotations

import pytest

from headrace.store.rejects import group
from headrace.store.schema import Reject

ALIKE = [
    ("there is no such file", "there is no such file"),
    ("it has 7 of 1,200 bytes of samples: it is cut", "it has 12 of 9 bytes of samples: it is cut"),
    ("a.TextGrid has no tier of phones", "b b.TextGrid has no tier of phones"),
    ("a.lab:12: 'x y' is not start, end and label", "b b.lab:3: \"it's\" is not start, end and label"),
    ("'don\\'t' in 'ab' is not in the table of IPA", "'b' in 'cd e' is not in the table of IPA"),
    ("the segment runs from -0.5 to 1e+30 s", "the segment runs from 3 to 2.25 s"),
    ("s/a.wav for the second time, after l.list:3: keep one", "b b.wav for the second time, after x y:12: keep one"),
    ("text without audio: wav.scp has no rec-a", "text without audio: wav.scp has no rec b"),
]  # fmt: skip
APART = [
    ("the symbol table gpt-sovits-v1 has no 'x'", "the symbol table gpt-sovits-v2 has no 'x'"),
    ("it holds no samples", "the text is empty"),
    ("int16", "int32"),
]


@pytest.mark.parametrize("one, other", ALIKE)
def test_reasons_alike_are_one_kind(one: str, other: str) -> None:
    (kind,) = group([Reject("s/a.wav", "scan", one), Reject("t/b b.wav#0-10", "scan", other)])
    assert (kind.count, kind.example, kind.reason) == (2, "s/a.wav", one)


@pytest.mark.parametrize("one, other", APART)
def test_reasons_that_differ_are_not(one: str, other: str) -> None:
    assert len(group([Reject("a", "scan", one), Reject("b", "scan", other)])) == 2
    assert len(group([Reject("a", "scan", one), Reject("b", "text", one)])) == 2


def test_the_most_frequent_kind_is_first_and_told_with_an_example() -> None:
    rejects = [Reject(f"{n}.wav", "scan", "there is no such file") for n in range(1615)]
    rejects += [
        Reject(f"x{n}", "decode", f"it has {n} of 9 bytes of samples: the file is cut short") for n in range(20)
    ]
    told = [str(kind) for kind in group([*reversed(rejects)])]
    assert told == [
        "1,615 x there is no such file, for example 1614.wav",
        "20 x like x19: it has 19 of 9 bytes of samples: the file is cut short",
    ]
    assert group(rejects)[1].kind == "it has … of … bytes of samples: the file is cut short"
    assert group([]) == []
