"""Features that are learned over several stores: one model from the parts of all of them, kept in each."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.featurize.features import learned_state
from headrace.featurize.features.derived import Derived, LearningLog, parts_to_learn_from
from headrace.featurize.pipeline.feature_steps import FeatureStep, check_same_recipe, specs_of_store
from headrace.store import learned_models
from headrace.store.advice import command
from headrace.store.errors import StoreError
from headrace.store.root_attributes import read_attributes
from headrace.store.storage import StoragePath


def merge_steps(plans: Sequence[Sequence[FeatureStep]]) -> list[list[Derived]]:
    """Return the features of several plans, each after those that it needs, in groups that end before one that learns.

    Stores may lack different features that another one needs.
    """
    features = {step.feature.name: step.feature for plan in plans for step in plan}
    left = [[step.feature.name for step in plan] for plan in plans]
    groups: list[list[Derived]] = []
    while names := [plan[0] for plan in left if plan]:
        name = next((name for name in names if not any(name in plan[1:] for plan in left)), names[0])
        left = [[other for other in plan if other != name] for plan in left]
        if features[name].learns or not groups:
            groups.append([])
        groups[-1].append(features[name])
    return groups


def learn_over(roots: Sequence[StoragePath], feature: Derived, log: LearningLog) -> None:
    """Give several stores one model of a feature: learn it, or copy it from those that have it.

    A model that only some have since the command was killed is the one that all get. The caller holds the write locks.

    Raises:
        RecipeMismatch: the stores have other recipes of what it is learned from.
        StoreError: a store learned it from itself alone.
    """
    known = [specs_of_store(read_attributes(root)) for root in roots]
    specs = [feature.spec(of_store) for of_store in known]
    for root, spec in zip(roots, specs, strict=True):
        check_same_recipe(
            spec, specs[0], f"{root} is made otherwise than {roots[0]}: learn {feature.name} in each alone"
        )
    digests = [learned_models.digests(root).get(feature.name) for root in roots]
    having = [root for root, digest in zip(roots, digests, strict=True) if digest]
    if len(having) == len(roots) and len(set(digests)) == 1:
        return
    alone = [root for root in having if learned_state.learned_over(root, feature.name) < 2]
    if alone or len(set(filter(None, digests))) > 1:
        other = (alone or having)[0]
        remedy = f"run {command('featurize drop', other, feature.name)}, and the same command again"
        raise StoreError(f"{other} learned {feature.name} otherwise than all of these stores together: {remedy}.")
    if not having:
        parts = parts_to_learn_from(feature, list(zip(roots, known, strict=True)))
        log(f"{feature.name} is learned from {len(parts)} parts of {len(roots)} stores")
        learned_state.write(roots[0], specs[0], feature.learn(parts, log), stores=len(roots))
        having = [roots[0]]
    for root in roots:
        if root not in having:
            learned_state.copy(having[0], root, feature.name)
