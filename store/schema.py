"""Frozen dataclasses that the featurizer, the store and the trainer share. None of them does any I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from headrace.store.names import check_names

Axis = Literal["frames", "phones", "tokens", "utterance"]
"""What a feature's rows count. `frames`, `phones` and `tokens` are ragged: one length per utterance each.
`utterance` has one row per utterance."""

DTYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
"""Types of the numbers of features."""
SYMBOL_TABLES = ("gpt-sovits-v1", "gpt-sovits-v2", "headrace-ipa")
"""Symbol tables of phones. Each is the beginning of the next: ids of one mean the same in those after it."""
SCALARS = (str, int, float, bool, type(None))
"""Types of the values of a recipe."""

Stage = Literal["scan", "decode", "text", "align", "features"]


ArchiveKind = Literal["tar", "zip", "parquet", "arrow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where a recording lies in an archive, or in a table that holds recordings."""

    archive: str
    """POSIX path of the archive, relative to the root of the corpus."""
    kind: ArchiveKind
    place: tuple[int, int]
    """In a tar the first byte of the recording, and their number. In a zip the first byte of its local header, and the
    number of compressed bytes. In a table the number of the row group or record batch, and that of the row in it."""
    check: int = 0
    """In a tar the CRC-32C of its header, in a zip the CRC-32 of its content: another archive has another one."""
    column: str = ""
    """Of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A segment of recorded speech, and what is known of it before it is decoded."""

    id: str
    """Unique in the corpus, as `utterance_id` makes it."""
    audio: str
    """POSIX path of the recording, relative to the root of the corpus, or absolute if it lies outside."""
    start: int
    """First sample, at the recording's own rate."""
    stop: int
    """One past the last sample, according to the recording's header."""
    sample_rate: int
    """Of the recording, in Hz."""
    channel: int = field(default=-1, compare=False)
    """Channel of the recording that is heard, from 0; -1 for the mean of all. `id` tells it, too."""
    size: int
    """Of the recording, in bytes. With `id` it reveals a file that was replaced between two runs."""
    modified: tuple[int, ...] = field(default=(), compare=False)
    """When the recording, and the other files that are read for it, were last modified, in nanoseconds: a hint that
    they were replaced by others of the same size. In a bucket, numbers made of their entity tags; 0 without a tag."""
    speaker: str
    language: str
    """Lower-case ISO code: en, zh, ja, ko, yue, ..."""
    text: str
    phones: str = ""
    """Names of symbols separated by spaces, used as they are; empty if phones are to be made from the text."""
    alignment: str = ""
    """POSIX path, like that of `audio`, of a TextGrid or a `.lab` with times; or an alignment as JSON; or empty."""
    member: Member | None = field(default=None, compare=False)
    """Where the recording lies if it is in an archive: `audio` is then its name there, and is no file."""

    @property
    def seconds(self) -> float:
        """Return the duration in seconds."""
        return (self.stop - self.start) / self.sample_rate


def utterance_id(audio: str, span: tuple[int, int] | None = None, channel: int = -1) -> str:
    """Return the id of an utterance.

    Args:
        audio: its recording.
        span: first sample and one past the last, if it is a segment of the recording.
        channel: that is heard; -1 for all of them.
    """
    segment = "#{}-{}".format(*span) if span else ""
    return audio + segment + (f"#channel{channel}" if channel >= 0 else "")


MAX_REASON = 1000
"""Characters of a reason, at most."""


def escape_surrogates(text: str) -> str:
    """Return a text with halves of characters, which cannot be written as UTF-8, as `\\udcff`."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Reject:
    """An utterance that is not in the store, and the reason, in words that a person can act on."""

    id: str
    stage: Stage
    reason: str

    def __post_init__(self) -> None:
        """Make both texts printable: an id may hold bytes that are not UTF-8, and a reason quotes the corpus."""
        object.__setattr__(self, "id", escape_surrogates(self.id))
        if len(self.reason) > MAX_REASON or not self.reason.isprintable():
            line = " ".join(self.reason[:MAX_REASON].split())
            escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
            object.__setattr__(self, "reason", "".join(escaped))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reject:
        """Return the reject that an object of JSON describes.

        Raises:
            KeyError, TypeError, ValueError: it describes none.
        """
        name, stage, reason = data["id"], data["stage"], data["reason"]
        if not (isinstance(name, str) and isinstance(reason, str)):
            raise ValueError("a reject holds something else than text")
        if stage not in get_args(Stage):
            raise ValueError(f"there is no stage {str(stage)[:40]!r} of rejects")
        return cls(name, stage, reason)

    def to_json(self) -> str:
        """Return the reject as a line of `rejects.jsonl`."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """A feature of a store: its shape, and everything that its numbers depend on."""

    name: str
    axis: Axis
    dtype: str
    """Name of a NumPy dtype: float16, int16, ..."""
    channels: int | None
    """Width of a row; None if a row is a scalar."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """JSON scalars. Features with equal recipes hold equal numbers."""
    codebook: str = field(default="", compare=False)
    """Of semantic tokens, the digest of the codebook that they are numbers of; empty if it is not known. It follows
    from the recipe, and is not in the fingerprint."""

    @property
    def fingerprint(self) -> str:
        """Return the first six bytes of the SHA-256 of this spec in canonical JSON, in hex."""
        return digest(self._fields())[:12]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Return the shape of a row: () or (channels,)."""
        return () if self.channels is None else (self.channels,)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Return the names of the array's dimensions, for xarray. Each feature has a channel dimension of its own."""
        return (self.axis,) if self.channels is None else (self.axis, f"{self.name}_channel")

    def to_json(self) -> dict[str, Any]:
        """Return the spec and its fingerprint as a JSON object."""
        codebook = {"codebook": self.codebook} if self.codebook not in ("", self.recipe.get("learned")) else {}
        return {**self._fields(), **codebook, "fingerprint": self.fingerprint}

    def _fields(self) -> dict[str, Any]:
        """Return the fields that the numbers depend on."""
        fields = asdict(self)
        del fields["codebook"]
        return fields

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """Return the spec that `to_json` made this object of. Other keys are ignored.

        Raises:
            DamagedStore: the name cannot be that of a feature.
            KeyError: a key is missing.
            ValueError: a value is none of this format.
        """
        check_names([data["name"]], "A store")
        spec = cls(
            **{key: data[key] for key in ("name", "axis", "dtype", "channels", "recipe")},
            codebook=_codebook(data),
        )
        recipe, channels = spec.recipe, spec.channels
        valid = {
            "name": isinstance(spec.name, str),
            "axis": spec.axis in get_args(Axis),
            "dtype": spec.dtype in DTYPES,
            "channels": channels is None or (type(channels) is int and 0 < channels < 1 << 30),
            "codebook": isinstance(spec.codebook, str) and len(spec.codebook) <= 64,
            "recipe": isinstance(recipe, dict) and all(isinstance(value, SCALARS) for value in recipe.values()),
        }
        for key, holds in valid.items():
            if not holds:
                raise ValueError(f"the {key} of feature {str(spec.name)[:40]!r} is {str(data.get(key))[:60]!r}")
        return spec


def _codebook(data: Mapping[str, Any]) -> Any:
    """Return the codebook of a feature: as it is recorded, or the clusters that `semantic` learned."""
    recipe = data["recipe"]
    learned = recipe.get("learned", "") if isinstance(recipe, dict) and data["name"] == "semantic" else ""
    return data.get("codebook", learned)


def digest(data: Any) -> str:
    """Return the SHA-256, in hex, of `data` as JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
