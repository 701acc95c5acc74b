"""Files of what features learn from the whole store before their first part is computed.

Each feature has a file STORE/models/NAME.safetensors, which holds arrays and the FeatureSpec that they were learned
for. It is written atomically, and its digest is in the recipe of the feature. It stays when the store grows: new parts
use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from headrace.store import learned_models
from headrace.store.errors import StoreError
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, read_file, storage_of


def write(root: StoragePath, spec: FeatureSpec, arrays: Mapping[str, np.ndarray], stores: int = 1) -> str:
    """Write what a feature learned.

    Args:
        spec: of the feature, without the digest of the model.
        arrays: by name.
        stores: number of stores that it was learned from.
    Returns:
        The digest of the model.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"spec": json.dumps(spec.to_json(), sort_keys=True)} | ({"stores": str(stores)} if stores > 1 else {})
    data: bytes = save(contiguous, metadata=metadata)
    storage_of(root).write_atomic(root, learned_models.model_file(spec.name), data)
    return learned_models.model_digest(data)


def learned_for(root: StoragePath, feature: str) -> FeatureSpec:
    """Return the spec that `write` was called with. Raises StoreError where the file is damaged."""
    try:
        return FeatureSpec.from_json(json.loads(_metadata(root, feature)["spec"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(root, feature) from error


def learned_over(root: StoragePath, feature: str) -> int:
    """Return the number of stores that it was learned from. Raises StoreError where the file is damaged."""
    try:
        return int(_metadata(root, feature).get("stores", "1"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(root, feature) from error


def copy(source: StoragePath, target: StoragePath, feature: str) -> None:
    """Copy what a feature learned from one store to another."""
    name = learned_models.model_file(feature)
    storage_of(target).write_atomic(target, name, read_file(source / name))


def _metadata(root: StoragePath, feature: str) -> Any:
    """Return what the file says of itself."""
    data = read_file(root / learned_models.model_file(feature))
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def read(root: StoragePath, spec: FeatureSpec) -> dict[str, np.ndarray]:
    """Read what a feature learned, by name. Raises StoreError where the file is missing, damaged or another one."""
    try:
        data = read_file(root / learned_models.model_file(spec.name))
        if learned_models.model_digest(data) == spec.recipe[learned_models.MODEL_DIGEST]:
            arrays: dict[str, np.ndarray] = load(data)
            return arrays
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise _damaged(root, spec.name) from error
    raise _damaged(root, spec.name)


def check(arrays: Mapping[str, np.ndarray], feature: str, **expected: tuple[str | int, ...]) -> None:
    """Check what a feature learned before anything is computed with it.

    Args:
        expected: by the name of an array, the kind of its dtype (`f`, `i`, `u`) and its shape. A dimension with a name
            has the same length wherever the name is.
    Raises:
        StoreError: an array is missing, has another kind or shape, or holds numbers that are not finite.
    """
    lengths: dict[str | int, int] = {}
    for name, (kind, *shape) in expected.items():
        array = arrays.get(name)
        if array is None or array.dtype.kind != kind or array.ndim != len(shape):
            fault = "is missing, or of another kind"
        elif any(
            lengths.setdefault(of, of if isinstance(of, int) else n) != n
            for of, n in zip(shape, array.shape, strict=True)
        ):
            fault = f"has the shape {array.shape}, which does not fit"
        elif not np.isfinite(array).all():
            fault = "holds numbers that are not finite"
        else:
            continue
        raise StoreError(
            f"What {feature} learned, in models/{feature}{learned_models.SUFFIX}, is damaged: {name} {fault}. Remove "
            "that file, and run the same command again."
        )


def _damaged(root: StoragePath, feature: str) -> StoreError:
    return StoreError(
        f"{root / learned_models.model_file(feature)} is not what {feature} was made with: put that file back, "
        "or remove it and run the same command again."
    )
