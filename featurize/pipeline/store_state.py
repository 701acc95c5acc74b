"""Check the output of a build: whether it is new, a store to resume, or something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace.featurize.pipeline.part_worker import PartTaskT, Recipe
from headrace.store import index, layout
from headrace.store.errors import DamagedStore, RecipeMismatch, StoreError, UsageError
from headrace.store.integrity import checksummed_metadata, scan_record
from headrace.store.integrity.scan_record import ScanRecord
from headrace.store.names import is_litter, shown
from headrace.store.root_attributes import RECORDED, read_attributes
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, drafts, storage_of
from headrace.store.storage.output_files import check_output_folder
from headrace.store.writer import create_store

UNFINISHED_NAMES = {".lock", "parts", drafts.DRAFTS, drafts.FORMER}
"""Names in the folder of a build that was killed before it wrote `zarr.json`."""


def check_output(out: StoragePath) -> None:
    """Check that a store can be built or resumed at `out`.

    Raises:
        UsageError: `out` is a file, or a folder that is not a store.
        NotAStore: it is a store of another format.
        StorageError: the bucket is not accessible.
        StoreError: the folder cannot be written to.
    """
    storage_of(out).check_access(out)
    if isinstance(out, Path) and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder for the store.")
    if isinstance(out, Path):
        check_output_folder(out)
    others = [name for name in storage_of(out).list_names(out) if not is_litter(name)]
    if others and read_root(out) is None and not _is_unfinished(out, others) and not _has_sealed_part(out):
        raise UsageError(
            f"--out {out} holds other things ({shown(min(others))}) and is no store; name a new or an empty folder."
        )


def _is_unfinished(out: StoragePath, names: Sequence[str]) -> bool:
    """Return whether a folder is what a build left that was killed before it wrote `zarr.json`."""
    if set(names) - UNFINISHED_NAMES or not isinstance(out, Path):
        return set(names) == {"parts"} and storage_of(out).list_names(out / "parts") == ["zarr.json"]
    left = [name for name in drafts.names_in(out / "parts") if name != "zarr.json"]
    left += [name for name in drafts.names_in(out / drafts.FORMER) if not drafts.is_draft(out / drafts.FORMER / name)]
    return ".lock" in names and not any(not is_litter(name) for name in left)


def _has_sealed_part(out: StoragePath) -> bool:
    """Return whether a part there has a seal that can be read: the store has lost its root."""
    for number in layout.sealed_parts(out):
        with suppress(DamagedStore):
            index.read_seal(out, number)
            return True
    return False


def read_root(out: StoragePath) -> dict[str, Any] | None:
    """Return the root attributes of the store, or None if they are missing or damaged.

    Damaged attributes are written again for the existing parts.
    """
    try:
        checksummed_metadata.read(out / "zarr.json")
    except DamagedStore:
        return None
    return read_attributes(out)


def root_attributes(recipe: Recipe) -> dict[str, Any]:
    """Return the root attributes of a store, except its plan. A build resumes a store whose attributes are equal."""
    spectral = recipe.preset.spectral
    return {
        "format": layout.FORMAT,
        "sample_rate": spectral.sample_rate,
        "hop": spectral.hop,
        "preset": recipe.preset.name,
        "compression": recipe.compression,
        "frontends": dict(recipe.frontends),
        "features": [spec.to_json() for spec in recipe.specs],
        RECORDED: True,
    }


def begin_store(out: StoragePath, attributes: dict[str, Any], tasks: Sequence[PartTaskT], record: ScanRecord) -> None:
    """Create the store, extend its plan, or check that the existing store has the same recipe and plan.

    Then write the record of the scan: where parts are to be added, the root names them before.

    Raises:
        RecipeMismatch: it was begun with other features or another preset.
        StoreError: it was begun with another corpus or plan.
    """
    storage_of(out).clear_temporary(out)  # of a build that was killed
    there = read_root(out)
    if there is None:
        unsealed_tasks(out, tasks)
        create_store(out, attributes)
    else:
        _extend_plan(out, there, attributes)
    scan_record.write(out, record)


def _extend_plan(out: StoragePath, there: Mapping[str, Any], attributes: dict[str, Any]) -> None:
    """Give an existing store the plan of a corpus that grew. Raises as `begin_store` does."""
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
    """Check that a store has the requested recipe.

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
    """Check the frontends of the languages that both have. New languages do not affect the others."""
    for language in sorted(found.keys() & asked.keys()):
        if found[language] != asked[language]:
            raise RecipeMismatch(
                f"Texts in {language} of {out} were read by another version: install that, or name another --out.",
                f"in store:  {found[language]}",
                f"here:      {asked[language]}",
            )


def added_specs(there: Mapping[str, Any] | None) -> dict[str, FeatureSpec]:
    """Return the specs of the features that were added to sealed parts, by name."""
    features = there["features"] if there else ()
    return {spec["name"]: FeatureSpec.from_json(spec) for spec in features if "seals" in spec}


def _brief(value: Any) -> str:
    """Format features by name and fingerprint, other values by `str`."""
    if isinstance(value, list):
        return "  ".join(f"{spec['name']} {spec['fingerprint'][:6]}" for spec in value)
    return str(value)


def unsealed_tasks(out: StoragePath, tasks: Sequence[PartTaskT]) -> list[PartTaskT]:
    """Return the tasks whose parts are not sealed yet.

    Raises:
        StoreError: a sealed part was made from other recordings, texts or recipes.
    """
    sealed = layout.sealed_parts(out)
    inputs = dict(zip(sealed, (seal["inputs"] for seal in index.read_seals(out, sealed)), strict=True))
    for task in tasks:
        if inputs.get(task.number, task.inputs) != task.inputs:
            folder = layout.part_path(out, task.number)
            raise StoreError(f"{folder} was made from other inputs: remove that folder and run the same command again.")
    return [task for task in tasks if task.number not in inputs]
