"""Models that features learned from the whole store, such as cluster centres: one file each, identified by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from headrace.store.names import is_name
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, read_file, storage_of

MODEL_DIGEST = "learned"
"""Key of a feature's recipe that holds the digest of the feature's model."""
SUFFIX = ".safetensors"


def model_file(feature: str) -> str:
    """Return the name of a feature's model file, relative to the root."""
    return f"models/{feature}{SUFFIX}"


def model_digest(data: bytes) -> str:
    """Return the first six bytes of the SHA-256 of a model's file, in hex."""
    return hashlib.sha256(data).hexdigest()[:12]


def digests(root: StoragePath) -> dict[str, str]:
    """Return the digest of every model in a store, by the name of its feature."""
    folder = root / "models"
    storage = storage_of(folder)
    listed = storage.list_names(folder)
    names = [name for name in listed if name.endswith(SUFFIX) and is_name(name.removesuffix(SUFFIX))]
    found = storage.map(lambda name: _digest(folder / name), names)
    return {name.removesuffix(SUFFIX): digest for name, digest in zip(names, found, strict=True) if digest}


def _digest(file: StoragePath) -> str | None:
    """Return the digest of a model's file; None if it cannot be read."""
    try:
        return model_digest(read_file(file))
    except OSError:
        return None


def features_without_model(root: StoragePath, specs: Mapping[str, FeatureSpec]) -> Iterator[str]:
    """Yield the features whose model is missing, or is not the one that they were made with."""
    made_with = {name: spec.recipe[MODEL_DIGEST] for name, spec in specs.items() if MODEL_DIGEST in spec.recipe}
    found = digests(root) if made_with else {}
    yield from (name for name, model in made_with.items() if found.get(name) != model)
