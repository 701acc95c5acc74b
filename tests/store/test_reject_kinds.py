"""The list of rejects of a store, and rejects grouped by what is the same in their reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.store import index, rejects
from headrace.store.errors import DamagedStore
from headrace.store.integrity import scan_record
from headrace.store.rejects import group
from headrace.store.schema import Reject
from headrace.store.writer import create_store, write_part
from tests.helpers.parts import ATTRIBUTES, make_part

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


def make_store(root: Path, *, planned: int, recorded: bool) -> dict[str, Any]:
    """Two of the planned parts: three utterances, and three rejects; two more by the scan. Returns the attributes."""
    attributes = ATTRIBUTES | {"plan": {"parts": planned, "utterances": 6, "digest": ""}, "scan": recorded}
    create_store(root, attributes)
    write_part(root, make_part(0, [5, 6], (Reject("c", "decode", "broken"), Reject("a", "text", "empty"))))
    write_part(root, make_part(1, [7], (Reject("d", "decode", "broken"),)))
    if recorded:
        scan_record.write(root, scan_record.ScanRecord(8, (Reject("e", "scan", "no"), Reject("b", "scan", "no"))))
    return attributes


@pytest.mark.unaccounted
@pytest.mark.parametrize("planned", [2, 3])
def test_rejects_are_counted_where_they_are_sealed(tmp_path: Path, planned: int) -> None:
    attributes = make_store(tmp_path, planned=planned, recorded=True)
    assert rejects.count(tmp_path, attributes, [0, 1], 3) == 5
    assert rejects.account(tmp_path, attributes, [0, 1]) == rejects.Account(stored=3, rejected=5, listed=8)
    assert [reject.id for reject in rejects.sealed(tmp_path, [1, 0])] == ["d", "c", "a"]
    (tmp_path / "parts" / "00001" / "zarr.json").write_bytes(b"")
    with pytest.raises(DamagedStore):
        rejects.derived(tmp_path)


@pytest.mark.unaccounted
def test_of_a_complete_store_no_seal_is_read_to_count_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = make_store(tmp_path, planned=2, recorded=True)
    monkeypatch.setattr(index, "read_seals", lambda *_: pytest.fail("a seal is read"))
    assert rejects.count(tmp_path, attributes, [0, 1], 3) == 5


@pytest.mark.unaccounted
def test_without_a_record_they_are_counted_in_the_list(tmp_path: Path) -> None:
    attributes = make_store(tmp_path, planned=2, recorded=False)
    assert rejects.account(tmp_path, attributes, [0, 1]) == rejects.Account(stored=3, rejected=0, listed=None)
    rejects.write(tmp_path, [Reject("ü", "scan", "no"), Reject("a", "text", "empty")])
    lines = (tmp_path / rejects.FILE).read_bytes()
    assert [json.loads(line)["id"] for line in lines.splitlines()] == ["a", "ü"] and "ü".encode() in lines
    for more in (b"", b"\n\n", b" \n"):
        (tmp_path / rejects.FILE).write_bytes(lines + more)
        assert [reject.id for reject in rejects.read(tmp_path)[0]] == ["a", "ü"] and not rejects.read(tmp_path)[1]
    (tmp_path / rejects.FILE).write_bytes(lines + b'{"id": "x"\n3\n{}\n{"id": 3, "stage": "scan", "reason": ""}\n')
    assert len(rejects.read(tmp_path)[0]) == 2 and rejects.read(tmp_path)[1] == 4
    assert rejects.count(tmp_path, attributes, [0, 1], 3) == 6
    (tmp_path / rejects.FILE).unlink()
    (tmp_path / rejects.FILE).mkdir()
    assert rejects.read(tmp_path) == ([], 1)


@pytest.mark.unaccounted
def test_the_list_is_written_only_where_it_is_another(tmp_path: Path) -> None:
    make_store(tmp_path, planned=2, recorded=True)
    assert not rejects.is_current(tmp_path)
    rejects.write_derived(tmp_path)
    file = tmp_path / rejects.FILE
    assert rejects.is_current(tmp_path) and [reject.id for reject in rejects.read(tmp_path)[0]] == [*"abcde"]
    before = file.stat()
    rejects.write_derived(tmp_path)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.write_bytes(b"")
    assert not rejects.is_current(tmp_path)
    rejects.write_derived(tmp_path)
    assert rejects.is_current(tmp_path)


def test_kinds_of_one_reject_and_of_several_stages() -> None:
    one, two = Reject("a.wav", "scan", "'x' is 3"), Reject("b.wav", "text", "'x' is 3")
    assert [(kind.stage, kind.kind, kind.count) for kind in group([one, two, two])] == [
        ("text", "'x' is 3", 2),
        ("scan", "'x' is 3", 1),
    ]
    (kind,) = group([one, Reject("b.wav", "scan", "'y' is 4")])
    assert kind.kind == "… is …" and str(kind) == "2 x like a.wav: 'x' is 3"
