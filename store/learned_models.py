"""What features learned from the whole store before they were made: a file each, known by its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, storage_of

MODEL_DIGEST = "learned"
"""The field of a recipe that holds the digest of what the feature learned."""
SUFFIX = ".safetensors"


def model_file(feature: str) -> str:
    """Where its model lies in a store."""
    return f"models/{feature}{SUFFIX}"


def model_digest(data: bytes) -> str:
    """Six bytes, in hex, of the SHA-256 of a model's file."""
    return hashlib.sha256(data).hexdigest()[:12]


def digests(root: StoragePath) -> dict[str, str]:
    """Of all models that are there, by the name of their feature."""
    found = [name for name in storage_of(root / "models").list_names(root / "models") if name.endswith(SUFFIX)]
    data = storage_of(root).map(lambda name: (root / "models" / name).read_bytes(), found)
    return {name.removesuffix(SUFFIX): model_digest(content) for name, content in zip(found, data, strict=True)}


def features_without_model(root: StoragePath, specs: Mapping[str, FeatureSpec]) -> Iterator[str]:
    """Features whose model is not there, or is not the one that they were made with."""
    made_with = {name: spec.recipe[MODEL_DIGEST] for name, spec in specs.items() if MODEL_DIGEST in spec.recipe}
    there = digests(root) if made_with else {}
    yield from (name for name, model in made_with.items() if there.get(name) != model)
