"""Commands that messages advise: quoted for a shell, so that they can be copied as they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from headrace.store.errors import NotAStore
from headrace.store.names import is_litter, shown
from headrace.store.storage import StoragePath, storage_of

SHOWN_IDS = 3
"""Utterances that a message names. It says where the others are."""
BUILD_AGAIN = "run featurize build again, or store import if that made it; it continues where it stopped"


def command(*words: object) -> str:
    """Return a command as it is typed. The first word may hold several: `featurize add`."""
    first, *others = map(str, words)
    return " ".join([first, *map(shlex.quote, others)])


def is_imported(recipes: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a store was imported from GPT-SoVITS, by the recipes of its features.

    What was made elsewhere does not say by which weights; all that Headrace makes by a network does.
    """
    return any(
        ("network" in recipe or recipe.get("quantiser") == "gpt-sovits") and "weights" not in recipe
        for recipe in recipes
    )


_INSIDE = re.compile(
    r"((?P<root>.*)[/\\])?(parts[/\\][0-9]+|index(?=[/\\]))([/\\](zarr\.json|.*(?<![/\\]zarr\.json)))?"
)
"""A path inside a part, or inside the index. A store may lie in a folder with such a name: its root is the longest, and
has its `zarr.json` itself."""


def run_verify(inside: StoragePath) -> str:
    """Return the advice `run store verify STORE`, by the path of a file in it, or of a folder in a part."""
    return f"run {command('store verify', _store_of(inside))}"


def run_repair(inside: StoragePath) -> str:
    """Return the advice `run store repair STORE`, likewise."""
    return f"run {command('store repair', _store_of(inside))}"


def _store_of(inside: StoragePath) -> str:
    found = _INSIDE.fullmatch(str(inside))
    if found:
        return found["root"] or "."
    return str(inside.parent)


def not_a_store(path: StoragePath) -> NotAStore:
    """Return the error for a place that holds no store, with what can be done there.

    A store is not advised where something else lies, since no build would begin there.
    """
    names: list[str] = []
    with suppress(OSError):
        names = sorted(name for name in storage_of(path).list_names(path) if not is_litter(name))
    if isinstance(path, Path) and (stores := [name for name in names if (path / name / "parts").is_dir()]):
        return NotAStore(f"{path} is not a Headrace store, but {path / stores[0]} may be one: name that.")
    if names or (isinstance(path, Path) and path.is_file()):
        held = f"it holds other things ({shown(names[0])})" if names else "it is a file"
        return NotAStore(f"{path} is not a Headrace store, {held}: name the folder of a store.")
    return NotAStore(f"{path} is not a Headrace store: make one with {command('featurize build CORPUS --out', path)}.")


def first_of(ids: Sequence[str]) -> str:
    """Return the first of some ids for a message: `a.wav, b.wav, c.wav and 44 more`."""
    rest = f" and {len(ids) - SHOWN_IDS:,} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(ids[:SHOWN_IDS]) + rest
