"""TOML files that a person writes: recipes of features, and options of a run."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

from headrace.store.errors import UsageError
from headrace.store.storage import read_file

_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("a string", (str,)),
    "Path": ("a path", (str,)),
    "bool": ("true or false", (bool,)),
    "None": ("null", (type(None),)),
}


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        what: it is, for messages: `The recipe`.
    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_file(path).decode())
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{what} {path} is not TOML: {error}.") from error
    except RecursionError:
        raise UsageError(f"{what} {path} is nested too deeply: its values are numbers and strings.") from None


def typed_value(key: str, value: Any, annotation: str) -> Any:
    """Return a value in the type of its field.

    Whole numbers are accepted where any number is, booleans are not. No number is infinite, or longer than 62 bits.

    Args:
        annotation: the type of the field, such as `int | None`, as `dataclasses.fields` gives it.
    Raises:
        ValueError: it is of another type.
    """
    kinds = annotation.split(" | ")
    kind = next((kind for kind in kinds if type(value) in _KINDS[kind][1]), None)
    if kind is None or (kind == "Path" and "\0" in value):
        expected = " or ".join(_KINDS[kind][0] for kind in kinds if kind != "None")
        raise ValueError(f"{key}={repr(value)[:60]}: {key} must be {expected}")
    if kind in ("int", "float") and not (math.isfinite(value) and abs(value) < 1 << 62):
        raise ValueError(f"{key}={repr(value)[:60]}: {key} must be finite, and less than 2 to the power of 62")
    if kind == "Path":
        return Path(value)
    return float(value) if kind == "float" else value
