"""The nouns that the featurizer, the store and the trainer share. All frozen; none does any I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Axis = Literal["frames", "phones", "tokens", "utterance"]
"""What a feature's rows count. `frames`, `phones` and `tokens` are ragged: one length per utterance each.
`utterance` has one row per utterance."""

Stage = Literal["scan", "decode", "text", "align", "features"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One stretch of recorded speech and what is known of it before any sample is decoded."""

    id: str
    """Identity in the corpus: `audio`, plus `#start-stop` in source samples where it is a segment. Unique."""
    audio: str
    """POSIX path of the recording relative to the corpus root, or absolute where it lies outside."""
    start: int
    """First sample, at the recording's own rate."""
    stop: int
    """One past the last sample, by the recording's header."""
    sample_rate: int
    """Of the recording, in Hz."""
    size: int
    """Of the recording, in bytes: with `id` it notices a file that was swapped between two runs."""
    speaker: str
    language: str
    """Lower-case ISO code: en, zh, ja, ko, yue, ..."""
    text: str
    phones: str = ""
    """Names of symbols between spaces, taken as they are; empty where the text is to be read."""
    alignment: str = ""
    """POSIX path, like `audio`'s, of a TextGrid or a `.lab` with times; or an alignment itself, as JSON; or empty."""

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Reject:
    """An utterance that did not get in, and why, in words a person can act on."""

    id: str
    stage: Stage
    reason: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """One feature of a store: its shape and everything that changes its numbers."""

    name: str
    axis: Axis
    dtype: str
    """NumPy name: float16, int16, ..."""
    channels: int | None
    """Width of a row; None for one scalar per row."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """JSON scalars. Two features with equal recipes hold equal numbers."""

    @property
    def fingerprint(self) -> str:
        """Six bytes, in hex, of the SHA-256 of this spec in canonical JSON."""
        return digest(asdict(self))[:12]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return () if self.channels is None else (self.channels,)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of an array's dimensions, as xarray wants them: no two features share their channels."""
        return (self.axis,) if self.channels is None else (self.axis, f"{self.name}_channel")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fingerprint": self.fingerprint}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        return cls(**{key: data[key] for key in ("name", "axis", "dtype", "channels", "recipe")})


def digest(data: Any) -> str:
    """SHA-256, in hex, of `data` as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
