"""Plan which features to add to a store, in which order, and check the recipes of existing ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from headrace.featurize.features.derived import Derived
from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES
from headrace.featurize.pipeline.presets import buildable_features
from headrace.store import learned_models
from headrace.store.advice import command
from headrace.store.errors import RecipeMismatch, StoreError
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStep:
    """A feature to make in all parts."""

    feature: Derived
    specs: Mapping[str, FeatureSpec]
    """Specs of the feature, and of those that exist before it."""

    @property
    def spec(self) -> FeatureSpec:
        """Return the spec of the feature."""
        return self.specs[self.feature.name]


def specs_of_store(attributes: Mapping[str, Any]) -> dict[str, FeatureSpec]:
    """Return the specs in a store's root attributes, by name."""
    return {spec["name"]: FeatureSpec.from_json(spec) for spec in attributes["features"]}


def plan_steps(
    features: Sequence[Derived],
    there: Mapping[str, FeatureSpec],
    digests: Mapping[str, str] = MappingProxyType({}),
    added: Collection[str] = (),
    store: object = "STORE",
) -> list[FeatureStep]:
    """Return what to make, in order: before each feature whatever it needs and the store does not have.

    Args:
        features: those asked for.
        there: specs of the features that the store has.
        digests: by feature, of what was learned already. What is made from something that is still to be
            learned has another spec once it is: `run_steps` replaces it.
        added: those of `there` that were added to sealed parts. New parts of a store that grows do not have them, so
            they are steps again if a feature needs them and their recipe is known.
        store: path of the store, for the remedies of errors.
    Raises:
        StoreError: something is needed that only a build can make.
        RecipeMismatch: a feature is there, made otherwise.
    """
    asked = {feature.name: feature for feature in features}
    known = dict(there)
    steps: dict[str, FeatureStep] = {}

    def same_as_default(name: str) -> Derived | None:
        default = DERIVED_FEATURES[name]() if name in DERIVED_FEATURES else None
        same = default and default.spec(known, digests.get(name, "")).fingerprint == there[name].fingerprint
        return default if same else None

    def visit(feature: Derived) -> None:
        for name in feature.needs:
            if name not in known:
                visit(asked.get(name) or _default(name, feature, known))
            elif name in added and name not in steps and (again := asked.get(name) or same_as_default(name)):
                visit(again)
        model = there[feature.name].recipe.get(learned_models.MODEL_DIGEST, "") if feature.name in there else ""
        spec = feature.spec(known, digests.get(feature.name, model))
        drop = command("featurize drop", store, spec.name)
        check_same_recipe(there.get(spec.name, spec), spec, f"keep it, or run {drop} first")
        known[spec.name] = spec
        steps[spec.name] = FeatureStep(feature=feature, specs=dict(known))

    for feature in asked.values():
        if feature.name not in steps:
            visit(feature)
    return list(steps.values())


def _default(name: str, feature: Derived, known: Mapping[str, FeatureSpec]) -> Derived:
    """Return a needed feature with its default options.

    Raises:
        StoreError: only a build can make it.
    """
    if name in DERIVED_FEATURES:
        return DERIVED_FEATURES[name]()
    there, wanted = ", ".join(known) or "no features", ",".join(buildable_features([*known, name, feature.name]))
    raise StoreError(
        f"{feature.name} is made from {name}, and there {'is' if len(known) == 1 else 'are'} only {there}: "
        f"featurize build CORPUS --out STORE --features {wanted}."
    )


def check_same_recipe(found: FeatureSpec, asked: FeatureSpec, remedy: str) -> None:
    """Check that two specs of a feature are the same.

    Raises:
        RecipeMismatch: they differ; its details list all fields and mark the differing ones.
    """
    if found.fingerprint == asked.fingerprint:
        return
    one, other = ({"dtype": spec.dtype, "channels": spec.channels, **spec.recipe} for spec in (found, asked))
    fields = {key: (one.get(key, "-"), other.get(key, "-")) for key in {**one, **other}}
    differing = {key: pair for key, pair in fields.items() if pair[0] != pair[1]}
    in_store, wanted = (" ".join(f"{key}={pair[n]}" for key, pair in differing.items()) for n in (0, 1))
    rows = [
        ("", "in store", "asked for", ""),
        *((k, *v, "differs" if k in differing else "") for k, v in fields.items()),
    ]
    raise RecipeMismatch(
        f"The store has {found.name} made with {in_store}, and {wanted} was asked for: {remedy}.",
        *(f"{key:<26} {a!s:<16} {b!s:<16} {mark}".rstrip() for key, a, b, mark in rows),
    )
