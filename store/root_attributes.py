"""Reads the attributes of a store's root, and checks that they are those of this format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from headrace.store import json_text, layout
from headrace.store.advice import command, not_a_store
from headrace.store.errors import DamagedStore, NotAStore
from headrace.store.integrity import checksummed_metadata
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, read_file
from headrace.store.writer import Compression

MAX_PARTS = 100_000_000
RECORDED = "scan"
"""Attribute: whether the store has a record of the scan of its corpus."""
MAX_FORMAT_CHARACTERS = 40
"""Longest name of a format that a message quotes."""


def read_attributes(path: StoragePath) -> dict[str, Any]:
    """Read the root attributes of a store.

    Raises:
        NotAStore: there is no store, or one of another format.
        DamagedStore: the root is not what was written, or lacks something; the message names the remedy.
    """
    file = path / "zarr.json"
    try:
        document = json_text.parse(read_file(file))
        found = document["attributes"]["format"]
    except (OSError, ValueError, KeyError, TypeError):
        if layout.sealed_parts(path):
            raise DamagedStore(
                f"{file} is missing or damaged, but there are parts: run {command('store repair', path)}."
            ) from None
        raise not_a_store(path) from None
    if found != layout.FORMAT:
        raise NotAStore(
            f"{path} has format {str(found)[:MAX_FORMAT_CHARACTERS]!r}, this version reads {layout.FORMAT!r}: read it "
            "with the version of Headrace that made it, or build it again."
        )
    checksummed_metadata.check(file, document, path)
    attributes: dict[str, Any] = document["attributes"]
    try:
        _check(attributes)
    except KeyError as error:
        raise DamagedStore(f"{file} lacks {error}: run {command('store verify', path)}.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedStore(f"{file} cannot be used, {str(error)[:200]}: run {command('store verify', path)}.") from None
    return attributes


def _check(attributes: Mapping[str, Any]) -> None:
    for key in ("sample_rate", "hop"):
        _expect(_is_integer(attributes[key], 1, 1 << 30), key, attributes[key])
    _expect(isinstance(attributes["preset"], str), "preset", attributes["preset"])
    compression = attributes.get("compression", "none")
    _expect(compression in get_args(Compression), "compression", compression)
    frontends = attributes.get("frontends", {})
    _expect(all(isinstance(text, str) for text in frontends.values()), "frontends", frontends)
    recorded = attributes.get(RECORDED, False)
    _expect(isinstance(recorded, bool), RECORDED, recorded)
    for feature in attributes["features"]:
        FeatureSpec.from_json(feature)
        _expect(isinstance(feature.get("seals", ""), str), "seals", feature.get("seals"))
    plan = attributes["plan"]
    _expect(_is_integer(plan["parts"], 0, MAX_PARTS), "plan.parts", plan["parts"])
    _expect(_is_integer(plan["utterances"], 0, 1 << 40), "plan.utterances", plan["utterances"])
    for ranges in plan.get("grown", ()):
        for first, stop in ranges:
            _expect(
                _is_integer(stop, 0, plan["parts"]) and _is_integer(first, 0, stop), "plan.grown", plan.get("grown")
            )


def _expect(condition: bool, key: str, value: object) -> None:
    if not condition:
        raise ValueError(f"its {key} is {str(value)[:60]!r}")


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
