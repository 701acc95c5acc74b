"""Opens a store for training: checks that it holds what the model reads, made as the model expects, and sets utterances
aside for validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import store as stores
from store.errors import RecipeMismatch, StoreError
from store.reader import Store
from train.plan import held_out

Requirements = Mapping[str, Mapping[str, Any]]
"""Feature name to the fields of its recipe that matter, and their values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    store: Store
    training: np.ndarray
    """(N,) int64: utterances to train on, ascending."""
    validation: np.ndarray
    """(V,) int64: utterances never trained on, ascending."""


def open_data(path: Path, needs: Requirements) -> Data:
    """
    Raises:
        NotAStore, DamagedStore: as `store.open`.
        StoreError: a feature is missing, the build was not finished, or there is nothing in it.
        RecipeMismatch: a feature was made otherwise than the model expects.
    """
    store = stores.open(path)
    missing = [name for name in needs if name not in store.features]
    if missing:
        raise StoreError(
            f"{path} holds {', '.join(store.features)}, but this stage reads {', '.join(missing)} too: build a store "
            f"with featurize build CORPUS --out STORE --features {','.join(needs)}."
        )
    for name, expected in needs.items():
        _check_recipe(path, name, store.features[name].recipe, expected)
    if not store.complete:
        raise StoreError(f"{path} is not complete: run featurize build again, it goes on with what is not sealed yet.")
    if not len(store):
        raise StoreError(f"{path} holds no utterance: {path / 'rejects.jsonl'} tells why.")
    held = held_out(store.ids)
    return Data(store=store, training=np.flatnonzero(~held), validation=np.flatnonzero(held))


def _check_recipe(path: Path, feature: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    differing = {key for key, value in expected.items() if found.get(key) != value}
    if not differing:
        return

    def said(recipe: Mapping[str, Any]) -> str:
        return " ".join(f"{key}={recipe.get(key)}" for key in expected if key in differing)

    rows = [("", "in store", "expected"), *((key, found.get(key, "-"), value) for key, value in expected.items())]
    raise RecipeMismatch(
        f"{path} holds {feature} made with {said(found)}, but this model expects {said(expected)}: "
        "build another store with featurize build CORPUS --out STORE --preset gpt-sovits-v2.",
        *(f"{key:<12} {a!s:<14} {b!s:<14} {'differs' if key in differing else ''}".rstrip() for key, a, b in rows),
    )
