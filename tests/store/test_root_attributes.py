"""The root of a store is read as it was written, or refused: each bound of its attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.store import json_text, layout
from headrace.store.errors import DamagedStore, NotAStore
from headrace.store.integrity.checksummed_metadata import with_checksum
from headrace.store.root_attributes import MAX_FORMAT_CHARACTERS, MAX_PARTS, read_attributes
from tests.helpers.parts import ATTRIBUTES, SPECS

PLAN = ATTRIBUTES["plan"]
WIDE = 1 << 30


def write_root(root: Path, **changes: Any) -> Path:
    """Write a root with some attributes changed. Its checksum holds."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": ATTRIBUTES | changes}
    (root / "zarr.json").write_bytes(with_checksum(document))
    return root


def grown(*ranges: object, parts: int = 3) -> dict[str, Any]:
    return {"plan": PLAN | {"parts": parts, "grown": [list(ranges)]}}


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("sample_rate", "hop") for value in (1, WIDE)),
        *({"plan": PLAN | {"parts": value}} for value in (0, MAX_PARTS)),
        *({"plan": PLAN | {"utterances": value}} for value in (0, 1 << 40)),
        *(grown(one) for one in ([0, 0], [0, 3], [1, 2], [3, 3])),
        {"compression": "zstd"}, {"frontends": {}}, {"frontends": {"en": "espeak"}}, {"scan": True}, {"scan": False},
        {"features": []}, {"features": [SPECS[0].to_json() | {"seals": "0" * 8}]},
    ],
)  # fmt: skip
def test_what_is_within_bounds_is_read_as_it_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = read_attributes(write_root(tmp_path, **changes))
    assert {key: found[key] for key in changes} == changes


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("sample_rate", "hop") for value in (0, -1, WIDE + 1, True, 1.0, "1", None)),
        *({"plan": PLAN | {"parts": value}} for value in (-1, MAX_PARTS + 1, True, None)),
        *({"plan": PLAN | {"utterances": value}} for value in (-1, (1 << 40) + 1, 1.5)),
        *(grown(one) for one in ([0, 4], [2, 1], [-1, 1], [-2, -1], [0, 1.0], [False, 1], [0, 1, 2], 3)),
        {"plan": []}, {"plan": None}, {"preset": 3}, {"preset": None}, {"compression": "lzma"}, {"compression": None},
        {"frontends": {"en": 3}}, {"frontends": ["en"]}, {"scan": 1}, {"scan": None}, {"scan": "yes"},
        {"features": None}, {"features": [3]}, {"features": [SPECS[0].to_json() | {"seals": 3}]},
        {"features": [SPECS[0].to_json() | {"axis": "hours"}]},
    ],
)  # fmt: skip
def test_what_is_not_is_refused_with_the_remedy(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DamagedStore, match=r"zarr\.json (cannot be used,|lacks) .*: run store verify"):
        read_attributes(write_root(tmp_path, **changes))


@pytest.mark.parametrize("key", ["sample_rate", "hop", "preset", "features", "plan"])
def test_what_is_lacking_is_named(tmp_path: Path, key: str) -> None:
    attributes = {name: value for name, value in ATTRIBUTES.items() if name != key}
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (tmp_path / "zarr.json").write_bytes(with_checksum(document))
    with pytest.raises(DamagedStore, match=rf"zarr\.json lacks '{key}': run store verify"):
        read_attributes(tmp_path)


def test_a_checksum_that_does_not_hold_is_told_before_anything_else(tmp_path: Path) -> None:
    file = write_root(tmp_path, hop=0) / "zarr.json"
    file.write_bytes(file.read_bytes().replace(b"32000", b"32001"))
    with pytest.raises(DamagedStore, match="is not what was written"):
        read_attributes(tmp_path)


def test_a_long_name_of_a_format_is_quoted_in_part(tmp_path: Path) -> None:
    quoted = "x" * MAX_FORMAT_CHARACTERS
    with pytest.raises(NotAStore, match=f"has format '{quoted}', this version reads '{layout.FORMAT}'"):
        read_attributes(write_root(tmp_path, format="x" * 1000))


@pytest.mark.parametrize("content", [None, b"", b"[]", b"3", b"{}", b'{"attributes": 3}', b"[" * 100_000, b"\xff"])
def test_without_a_root_there_is_a_store_only_where_parts_are(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(NotAStore, match="is not a Headrace store"):
        read_attributes(tmp_path)
    part = tmp_path / layout.part_name(0)
    part.mkdir(parents=True)
    (part / "zarr.json").write_text(json.dumps({}))
    with pytest.raises(DamagedStore, match="is missing or damaged, but there are parts: run store repair"):
        read_attributes(tmp_path)


def test_json_that_nests_too_deeply_is_no_value() -> None:
    assert json_text.parse(b'{"a": [1, null]}') == {"a": [1, None]}
    for data in ("[" * 100_000, b"[" * 100_000, "{", b"\xff"):
        with pytest.raises(ValueError):
            json_text.parse(data)
