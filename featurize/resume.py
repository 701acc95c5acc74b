"""What a build finds where its store shall be: nothing, what it began itself, or something else."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurize.worker import PartTask
from store import index, layout, place
from store.errors import RecipeMismatch, StoreError, UsageError
from store.place import Place
from store.reader import read_attributes
from store.schema import FeatureSpec
from store.writer import create

BEGUN = {".lock", "parts", "tmp"}
"""What a build that was killed early leaves without a store's `zarr.json`."""


def check_out(out: Place) -> None:
    """
    Raises:
        UsageError: there is something else.
        StorageError: the bucket cannot be used.
    """
    place.check(out)
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder for the store.")
    if set(place.names(out)) - BEGUN and not (out / "zarr.json").exists():
        raise UsageError(f"--out {out} holds other things and is no store; name a new or an empty folder.")


@contextmanager
def only_builder(out: Place) -> Iterator[None]:
    """Hold the store's lock: two commands at once would do everything twice.

    A bucket has no lock that ends with its holder. Nothing depends on it: two builds write the same bytes.

    Raises:
        StoreError: another one holds it.
    """
    if not isinstance(out, Path):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(f"Another featurize command is writing {out}: wait until it is done.") from None
        yield


def begin(out: Place, attributes: dict[str, Any]) -> None:
    """Create the store, or see that the one that is there is this one.

    Raises:
        RecipeMismatch: it was begun with other features or another preset.
        StoreError: it was begun with another corpus.
    """
    place.clear_drafts(out)  # of a build that was killed
    if not (out / "zarr.json").exists():
        create(out, attributes)
    found = read_attributes(out)
    found["features"] = [spec for spec in found["features"] if "seals" not in spec]  # the others joined later
    for key in ("preset", "compression", "features"):
        if found.get(key) != attributes[key]:
            raise RecipeMismatch(
                f"{out} was begun with another {key}: ask for what it has, or name another --out.",
                f"in store:  {_brief(found.get(key))}",
                f"asked for: {_brief(attributes[key])}",
            )
    if found["plan"] != attributes["plan"]:
        raise StoreError(
            f"The corpus or --part-hours changed since {out} was begun: build into another --out.",
            f"in store:  {found['plan']['utterances']} utterances in {found['plan']['parts']} parts",
            f"asked for: {attributes['plan']['utterances']} utterances in {attributes['plan']['parts']} parts",
        )


def joined(out: Place) -> dict[str, FeatureSpec]:
    """The features that joined the store that is there, if one is."""
    features = read_attributes(out)["features"] if (out / "zarr.json").exists() else []
    return {spec["name"]: FeatureSpec.from_json(spec) for spec in features if "seals" in spec}


def _brief(value: Any) -> str:
    """Features by name and fingerprint, anything else as it is."""
    if isinstance(value, list):
        return "  ".join(f"{spec['name']} {spec['fingerprint'][:6]}" for spec in value)
    return str(value)


def pending(out: Place, tasks: Sequence[PartTask]) -> list[PartTask]:
    """What is not sealed yet. What is sealed was made from the same recordings, texts and recipes.

    Raises:
        StoreError: it was not.
    """
    sealed = layout.sealed_parts(out)
    inputs = dict(zip(sealed, (seal["inputs"] for seal in index.read_seals(out, sealed)), strict=True))
    for task in tasks:
        if inputs.get(task.number, task.inputs) != task.inputs:
            folder = layout.part_path(out, task.number)
            raise StoreError(f"{folder} was made from other inputs: remove that folder and run the same command again.")
    return [task for task in tasks if task.number not in inputs]
