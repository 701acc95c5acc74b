"""What a build finds where its store shall be: nothing, what it began itself, or something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.featurize.pipeline.part_worker import PartTaskT, Recipe
from headrace.store import index, layout
from headrace.store.errors import DamagedStore, RecipeMismatch, StoreError, UsageError
from headrace.store.integrity import checksummed_metadata
from headrace.store.reader import read_attributes
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, storage_of
from headrace.store.writer import create_store

UNFINISHED_NAMES = {".lock", "parts", "tmp"}
"""What a build that was killed early leaves without a store's `zarr.json`."""


def check_output(out: StoragePath) -> None:
    """
    Raises:
        UsageError: there is something else.
        NotAStore: there is a store of another format.
        StorageError: the bucket cannot be used.
    """
    storage_of(out).check_access(out)
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder for the store.")
    if (
        set(storage_of(out).list_names(out)) - UNFINISHED_NAMES
        and read_root(out) is None
        and not layout.sealed_parts(out)
    ):
        raise UsageError(f"--out {out} holds other things and is no store; name a new or an empty folder.")


def read_root(out: StoragePath) -> dict[str, Any] | None:
    """Root attributes of the store that is there. None where none is begun, and where they are damaged: then they are
    made anew for the parts that are there."""
    try:
        checksummed_metadata.read(out / "zarr.json")
    except DamagedStore:
        return None
    return read_attributes(out)


def root_attributes(recipe: Recipe) -> dict[str, Any]:
    """Root attributes of the store, but for its plan. Equal ones mean that a build goes on where another stopped."""
    spectral = recipe.preset.spectral
    return {
        "format": layout.FORMAT,
        "sample_rate": spectral.sample_rate,
        "hop": spectral.hop,
        "preset": recipe.preset.name,
        "compression": recipe.compression,
        "frontends": dict(recipe.frontends),
        "features": [spec.to_json() for spec in recipe.specs],
    }


def begin_store(out: StoragePath, attributes: dict[str, Any], tasks: Sequence[PartTaskT]) -> None:
    """Create the store, let it grow, or see that the one that is there is this one.

    Raises:
        RecipeMismatch: it was begun with other features or another preset.
        StoreError: it was begun with another corpus.
    """
    storage_of(out).clear_temporary(out)  # of a build that was killed
    there = read_root(out)
    if there is None:
        unsealed_tasks(out, tasks)
        create_store(out, attributes)
        return
    check_recipe(out, there, attributes)
    found, asked = there["plan"], attributes["plan"]
    if found == asked:
        return
    if len(asked["grown"]) <= len(found["grown"]) and layout.sealed_parts(out):
        raise StoreError(
            f"The corpus, --part-hours or --max-segment changed since {out} was begun: build into another --out.",
            f"in store:  {found['utterances']} utterances in {found['parts']} parts",
            f"asked for: {asked['utterances']} utterances in {asked['parts']} parts",
        )
    create_store(out, attributes)  # the features that joined later are named again when the new parts have them


def check_recipe(out: StoragePath, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """
    Raises:
        RecipeMismatch: the store was begun with other features or another preset.
    """
    _check_frontends(out, found.get("frontends", {}), asked["frontends"])
    own = {**found, "features": [spec for spec in found["features"] if "seals" not in spec]}
    for key in ("preset", "compression", "features"):
        if own.get(key) != asked[key]:
            raise RecipeMismatch(
                f"{out} was begun with another {key}: ask for what it has, or name another --out.",
                f"in store:  {_brief(own.get(key))}",
                f"asked for: {_brief(asked[key])}",
            )


def _check_frontends(out: StoragePath, found: Mapping[str, str], asked: Mapping[str, str]) -> None:
    """A language that is new changes nothing for the others."""
    for language in sorted(found.keys() & asked.keys()):
        if found[language] != asked[language]:
            raise RecipeMismatch(
                f"Texts in {language} of {out} were read by another version: install that, or name another --out.",
                f"in store:  {found[language]}",
                f"here:      {asked[language]}",
            )


def added_specs(there: Mapping[str, Any] | None) -> dict[str, FeatureSpec]:
    """The features that joined a store of these root attributes."""
    features = there["features"] if there else ()
    return {spec["name"]: FeatureSpec.from_json(spec) for spec in features if "seals" in spec}


def _brief(value: Any) -> str:
    """Features by name and fingerprint, anything else as it is."""
    if isinstance(value, list):
        return "  ".join(f"{spec['name']} {spec['fingerprint'][:6]}" for spec in value)
    return str(value)


def unsealed_tasks(out: StoragePath, tasks: Sequence[PartTaskT]) -> list[PartTaskT]:
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
