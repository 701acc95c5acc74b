"""Every number of every format of corpora, replaced by what is none: one utterance is refused, and its neighbours stay.

A number may be zero, negative, not finite, too large for any type, or of another type.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from benchmarks.archives import pack_shar
from headrace.featurize.corpus.formats.table_files import Columns
from headrace.featurize.corpus.scanner import scan
from headrace.featurize.segmentation import recogniser_results
from headrace.store.errors import CorpusError, UsageError
from headrace.store.schema import Reject, Utterance
from tests.featurize.corpus.layouts import eaf
from tests.helpers.corpus_formats import RECOGNISED, cut, make_kaldi, record, write

WRONG: tuple[Any, ...] = (
    0, -1, math.nan, math.inf, -math.inf, 1e-320, 1e308, 10**400, 2**63, True, None, "x", "nan", "1e9999", [], {},
)  # fmt: skip
WRITTEN = ("0", "-1", "nan", "inf", "-inf", "1e308", "1" + "0" * 400, "x", "1e9999", "0x10", "٣", "1,5")
"""Numbers as lines of a table have them."""
CHANNELS = Columns({"channel": "channel"})


def scanned(path: Path, **options: Any) -> list[Utterance | Reject]:
    """Scan a corpus. What it finds can be kept, and an error has one line for a person."""
    try:
        found = list(scan(path, **options))
    except (CorpusError, UsageError) as error:
        assert str(error) and "\n" not in str(error) and "Traceback" not in str(error)
        return []
    for one in found:
        if isinstance(one, Reject):
            assert one.reason and "\n" not in one.reason
            json.loads(one.to_json())
        else:
            assert 0 <= one.start < one.stop < 1 << 40 and type(one.start) is type(one.stop) is int
    return found


def numbers(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each number of a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from numbers(value, (*path, key))
        elif isinstance(value, int | float):
            yield (*path, key)


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def spoilt(document: Any) -> Iterator[tuple[str, Any]]:
    """Yield documents with one number replaced, and what is wrong in each."""
    for path in numbers(document):
        for value in WRONG:
            yield f"{path} = {str(value)[:20]!r}", replaced(document, path, value)


def check_lines(file: Path, line: dict[str, Any], neighbour: dict[str, Any], **options: Any) -> set[str]:
    """Scan a file of two lines, of which one has a number replaced, and return what was wrong where one was refused."""
    refused = set()
    for problem, document in spoilt(line):
        file.write_text(f"{json.dumps(document)}\n{json.dumps(neighbour)}\n", encoding="utf-8")
        found = scanned(file, **options)
        assert "Again." in [one.text for one in found if isinstance(one, Utterance)], problem
        refused |= {problem} if any(isinstance(one, Reject) for one in found) else set()
    return refused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for name in ("a.wav", "b.wav"):
        record(folder / name)
    return folder


@pytest.mark.slow
def test_lhotse_cuts(root: Path) -> None:
    line = cut(root / "a.wav", "Hello there.", start=0.02, duration=0.05)
    line["supervisions"][0]["alignment"] = {"word": [["Hello", 0.0, 0.02, 1.0], ["there", 0.02, 0.03, 1.0]]}
    refused = check_lines(root / "cuts.jsonl", line, cut(root / "b.wav", "Again."))
    assert "('recording', 'sampling_rate') = '0'" in refused
    assert {f"('start',) = {value!r}" for value in ("nan", "inf", "x", "[]", "None")} <= refused


def test_tables_of_json(root: Path) -> None:
    neighbour = {"audio_filepath": "b.wav", "text": "Again.", "channel": 0}
    line = {"audio_filepath": "a.wav", "text": "Hello", "offset": 0.02, "duration": 0.05, "channel": 0}
    refused = check_lines(root / "t.jsonl", line, neighbour, columns=CHANNELS)
    assert {f"('offset',) = {value!r}" for value in ("nan", "-inf", "x", "{}")} <= refused


@pytest.mark.parametrize("mark", [",", "\t"])
def test_tables_of_text(root: Path, mark: str) -> None:
    head, good = ["path", "text", "start", "end", "channel"], ["b.wav", "Again.", "0.01", "0.05", "0"]
    for column in (2, 3, 4):
        for value in WRITTEN:
            row = ["a.wav", "Hello", "0.01", "0.05", "0"]
            row[column] = f'"{value}"' if mark in value else value
            lines = (mark.join(line) for line in (head, row, good))
            file = write(root / ("t.csv" if mark == "," else "t.tsv"), "\n".join(lines) + "\n")
            found = scanned(file, columns=CHANNELS)
            texts = [one.text for one in found if isinstance(one, Utterance)]
            assert "Again." in texts and len(found) > 1, (head[column], value)
            assert value != "x" or texts == ["Again."], (head[column], value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pyarrow.float64(), (0.0, -1.0, math.nan, math.inf, -math.inf, 1e308, None)),
        (pyarrow.int64(), (0, -1, 2**62, None)),
        (pyarrow.uint64(), (2**64 - 1,)),
        (pyarrow.string(), ("", "x", "nan", "1e9999", None)),
        (pyarrow.bool_(), (True, False)),
        (pyarrow.list_(pyarrow.float64()), ([0.1], [], None)),
        (pyarrow.timestamp("ns"), (0, 2**62)),
        (pyarrow.binary(), (b"\xff", b"0.1")),
    ],
)
def test_tables_with_columns_of_types(root: Path, kind: pyarrow.DataType, values: tuple[Any, ...]) -> None:
    audio = [{"bytes": (root / name).read_bytes(), "path": name} for name in ("a.wav", "b.wav")]
    for column in ("start", "end", "duration", "channel"):
        for value in values:
            table = pyarrow.table(
                {"audio": audio, "text": ["Hello", "Again."], column: pyarrow.array([value, None], kind)}
            )
            folder = root.parent / "tables"
            folder.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
            found = scanned(folder, columns=CHANNELS)
            assert not found or "Again." in [one.text for one in found if isinstance(one, Utterance)], (column, value)


@pytest.mark.slow
def test_shards_of_lhotse(root: Path) -> None:
    for name in ("a", "b"):
        write(root / f"{name}.json", json.dumps({"text": f"Hello {name}.", "speaker": "s0", "language": "en"}))
    shards = pack_shar(root, root.parent / "shar")
    (file,) = shards.glob("cuts.*.jsonl.gz")
    first, second = (json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines())
    for problem, document in spoilt(first):
        file.write_bytes(gzip.compress(f"{json.dumps(document)}\n{json.dumps(second)}\n".encode()))
        found = scanned(shards)
        assert not found or "Hello b." in [one.text for one in found if isinstance(one, Utterance)], problem


def test_kaldi_segments(root: Path) -> None:
    folder = root.parent / "kaldi"
    make_kaldi(folder)
    for place in (2, 3):
        for value in WRITTEN:
            fields = ["u1", "r1", "0.00", "1.50"]
            fields[place] = value
            write(folder / "segments", f"{' '.join(fields)}\nu2 r1 1.5 -1\nu3 r2 0.25 2.01\n")
            texts = [one.text for one in scanned(folder) if isinstance(one, Utterance)]
            assert {"second words", "third"} <= set(texts), (place, value)


def test_elan(root: Path) -> None:
    document = eaf("a.wav", ("anna", "Anna", ((10, 50, "Hallo."), (60, 90, "Tag."))))
    for match in re.finditer(r'TIME_VALUE="(\d+)"', document):
        for value in WRITTEN:
            write(root / "a.eaf", document[: match.start(1)] + value + document[match.end(1) :])
            scanned(root)


@pytest.mark.parametrize("name", [name for name, given in RECOGNISED.items() if not isinstance(given, str)])
def test_what_recognisers_write(tmp_path: Path, name: str) -> None:
    for problem, document in spoilt(RECOGNISED[name]):
        for one in recogniser_results.read(write(tmp_path / "one.json", json.dumps(document))):
            if isinstance(one, Reject):
                assert one.reason and "\n" not in one.reason, problem
            else:
                assert all(math.isfinite(piece.start) and math.isfinite(piece.end) for piece in one.pieces), problem
