"""Training data of a run: a store checked against what the model reads, and its utterances selected and split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headrace import store as stores
from headrace.store.advice import command, is_imported
from headrace.store.errors import RecipeMismatch, RunError, StoreError
from headrace.store.lineage import utterances_before_growth
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.selection import Selection, measure, select
from headrace.store.storage import StoragePath
from headrace.train.config_sections import DataConfig
from headrace.train.data.balance import repetitions
from headrace.train.data.batch_plan import held_out

Requirements = Mapping[str, Mapping[str, Any]]
"""Feature name to the fields of its recipe that a model needs, and their values."""

ADDED_FEATURES = frozenset({"content", "semantic", "bert", "speaker_vector"})
"""Features that are added to a store after it is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """A store, and the utterances of it that a run is trained and validated on."""

    store: Store
    training: np.ndarray
    """(N,) int64: utterances to train on, ascending."""
    validation: np.ndarray
    """(V,) int64: utterances never trained on, ascending."""
    selection: Selection
    """Utterances that training and validation are taken from."""
    repeated: np.ndarray | None
    """(N,) float64: how often each utterance of `training` comes in an epoch on average; None for once."""

    def lines(self) -> list[str]:
        """Return lines that tell the user what the run is trained on."""
        split = f"training on {measure(self.store, self.training)}; {measure(self.store, self.validation)} held out"
        if self.repeated is None:
            return [*self.selection.lines(), split]
        epoch = measure(self.store, self.training, self.repeated)
        balance = f"balance: an epoch has {epoch}; none comes more than {self.repeated.max():.1f} times on average"
        return [*self.selection.lines(), split, balance]

    def to_json(self) -> dict[str, Any]:
        """Return the selection, and the sizes of training, validation and an epoch, as a JSON object."""
        return {
            **self.selection.to_json(),
            "training": asdict(measure(self.store, self.training)),
            "validation": asdict(measure(self.store, self.validation)),
            "epoch": asdict(measure(self.store, self.training, self.repeated)),
        }


def open_training_data(
    path: StoragePath,
    needed: Callable[[Store], Requirements],
    config: DataConfig,
) -> TrainingData:
    """Open a store for training, check it against what the model reads, and select and split its utterances.

    Args:
        needed: returns, for a store, the features that the model reads and the recipes that it expects.
    Raises:
        NotAStore, DamagedStore: as `store.open`.
        StoreError: a feature is missing, the build was not finished, or the store holds no utterance.
        RecipeMismatch: a feature was made by another recipe than the model expects.
        UsageError: `where` is no condition on what the store holds, or nothing meets it.
    """
    store = stores.open(path)
    needs = needed(store)
    _check_features(path, needs, store.features)
    for name, expected in needs.items():
        _check_recipe(path, name, store.features[name].recipe, expected)
    store.require_complete()
    if not len(store):
        raise StoreError(f"{path} holds no utterance: {path / 'rejects.jsonl'} tells why.")
    selection = select(store, config.where)
    selected = np.flatnonzero(selection.mask)
    is_validation = held_out(store.own_ids[selected])
    training, groups = selected[~is_validation], {"speaker": store.speakers, "language": store.languages}
    repeated = None
    if config.balance:
        repeated = repetitions(groups[config.balance][training], store.frames[training], config.balance_strength)
    return TrainingData(
        store=store, training=training, validation=selected[is_validation], selection=selection, repeated=repeated
    )


def check_same_store(store: Store, trained_on: str, features: Iterable[str]) -> None:
    """Check that a store is the one that a run was trained on.

    Args:
        trained_on: `fingerprint_of` these features in the store of the run.
    Raises:
        RunError: it is another store, or it has grown since.
    """
    now = store.fingerprint_of(features)
    if now == trained_on:
        return
    before = utterances_before_growth(store, trained_on, features)
    if before is not None:
        raise RunError(
            f"{store.path} grew since this run was trained on it, from {before} utterances to {len(store)}: start "
            "a new run, which may begin with this one by --init."
        )
    raise RunError(
        f"{store.path} is not the store that this run was trained on: give that one, or start a new run.",
        f"store now:      {now}",
        f"store of run:   {trained_on}",
    )


def _check_features(path: StoragePath, needs: Requirements, present: Mapping[str, FeatureSpec]) -> None:
    """Check that the store has all features; the error says how to make those that are missing."""
    missing = [name for name in needs if name not in present]
    if not missing:
        return
    commands = []
    if not ADDED_FEATURES.issuperset(missing):
        built = ",".join(name for name in needs if name not in ADDED_FEATURES)
        imported = is_imported(spec.recipe for spec in present.values())
        made = "import one with store import DIR" if imported else "build a store with featurize build CORPUS"
        commands.append(f"{made} --out STORE --features {built}")
    if to_add := [name for name in missing if name in ADDED_FEATURES]:
        commands.append(f"run {command('featurize add', 'STORE' if commands else path, ','.join(to_add))}")
    raise StoreError(
        f"{path} holds {', '.join(present)}, but this stage reads {', '.join(missing)} too: {', then '.join(commands)}."
    )


def _check_recipe(path: StoragePath, feature: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that a feature has the recipe that the model expects."""
    differing = {key for key, value in expected.items() if found.get(key) != value}
    if not differing:
        return

    def describe(recipe: Mapping[str, Any]) -> str:
        return " ".join(f"{key}={recipe.get(key)}" for key in expected if key in differing)

    rows = [("", "in store", "expected"), *((key, found.get(key, "-"), value) for key, value in expected.items())]
    raise RecipeMismatch(
        f"{path} holds {feature} made with {describe(found)}, but this model expects {describe(expected)}: "
        "build another store with featurize build CORPUS --out STORE --preset gpt-sovits-v2.",
        *(f"{key:<12} {a!s:<14} {b!s:<14} {'differs' if key in differing else ''}".rstrip() for key, a, b in rows),
    )
