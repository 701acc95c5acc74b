"""What a training run is told, and what of it must not change while it lasts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from headrace.store.errors import RunError, UsageError
from headrace.store.storage import StoragePath, parse_path

STAGES = ("sovits", "gpt")
PRESETS = ("tiny", "v1", "v2", "v2Pro", "v2ProPlus")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DEVICES = ("auto", "cpu", "cuda")
BALANCES = ("speaker", "language")
OPTIMIZERS = ("scaled_adam", "adamw")
SAMPLES = 2
"""Utterances that are spoken where TensorBoard is to show some, and nobody says how many."""
BOUND = (
    "stage", "preset", "init", "init_discriminator", "seed", "batch_frames", "max_utterances", "where", "balance",
    "evenness", "fixed_shapes", "optimizer", "dpo", "misaligned", "accumulate", "warmup", "max_norm", "grow",
)  # fmt: skip
"""Fields that a run keeps for life: with another value it would be another run."""
FILES = ("init", "init_discriminator", "voice")
OF_GPT = ("optimizer", "dpo", "misaligned", "voice")
"""Fields that mean nothing to sovits."""
NOT_NEGATIVE = (
    "seed", "batch_frames", "max_utterances", "max_steps", "max_epochs", "validate_every", "fp32_steps", "accumulate",
    "warmup", "max_norm", "patience", "profile", "fixed_shapes", "samples",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Of the sizes, 0 means: chosen by the run, or no limit."""

    store: StoragePath
    out: Path
    """Folder of the run: config.json, metrics.jsonl, curves.png, checkpoints/."""
    stage: str = "sovits"
    """`sovits`: codes and text to speech. `gpt`: text to codes."""
    preset: str = "v2"
    """Sizes of the model: `v2` are GPT-SoVITS v2's, `tiny` is for tests and demonstrations."""
    init: Path | None = None
    """Weights to begin with, one of upstream's files: s2G for sovits, whose quantiser then stays as it is; s1 for gpt.
    None begins from nothing."""
    init_discriminator: Path | None = None
    """Discriminators to begin with, upstream's s2D."""
    seed: int = 0
    batch_frames: int = 0
    """Most padded frames of a batch. 0 chooses by the device."""
    max_utterances: int = 0
    """Most utterances of a batch. 0 chooses by `batch_frames`."""
    where: str = ""
    """Train on the utterances that meet this condition, in the language of `store.conditions`. Empty for all."""
    balance: str = ""
    """Repeat the utterances of small groups: of each `speaker` or `language`. Empty for no repetition."""
    evenness: float = 0.5
    """How far `balance` goes: 0 repeats nothing, 1 makes all groups equal."""
    fixed_shapes: int = 0
    """Pad batches to one of so many lengths, for kernels that are chosen or compiled by shape: 16 cost about 7 % of
    padding. 0 pads each to its longest utterance."""
    max_steps: int = 0
    """Stop after this many steps. 0 for no limit."""
    max_epochs: int = 0
    """Stop after this many epochs. 0 for no limit."""
    precision: str = "auto"
    fp32_steps: int | None = None
    """Steps in float32 before half precision begins. None: 500 before fp16, none before bf16."""
    device: str = "auto"
    optimizer: str = ""
    """Of gpt: `scaled_adam` as published, which is what empty means, or `adamw` with a warm-up and half a cosine."""
    dpo: bool = False
    """gpt: add a loss that prefers right codes over spoilt ones, for twice the time."""
    misaligned: bool = False
    """gpt: mask padding on the side where upstream's training code does, to compare numbers with it."""
    accumulate: int = 0
    """Batches of one update, on each rank; those left at the end of an epoch make a smaller one. 0 takes the preset's:
    1, and 4 for gpt."""
    warmup: int = 0
    """Updates over which the learning rate rises to what it should be: 1000 is usual. gpt then falls along half a
    cosine until `max_steps`, instead of keeping the published rates. 0 for none."""
    max_norm: float = 0.0
    """Gradients of a larger norm are scaled down to it: 1.0 is usual. 0 for never."""
    recompute: bool = False
    """Compute blocks again in the backward pass instead of keeping what they made: less memory, more time."""
    float8: bool = False
    """Keep activations of the generator, or of the decoder of text, in 8 bits until the backward pass: less memory, and
    gradients that stray a little."""
    compile: bool = False
    """Make blocks of the networks into a few kernels each, once for every one of `fixed_shapes`."""
    grow: bool = False
    """Double the batches of an update, up to four times as many, when the validation loss stops falling."""
    profile: int = 0
    """Steps to profile, after the first three of this start."""
    patience: int = 0
    """Stop after so many validations without a better loss: 3 is usual. 0 for never."""
    checkpoint_every: int = 500
    """Steps between checkpoints. There is always one at the end."""
    validate_every: int = 500
    """Steps between validations; there is one at the end too. 0 for none."""
    samples: int | None = None
    """Held-out utterances that each validation speaks, into RUN/samples/. None: two with TensorBoard, else none."""
    voice: Path | None = None
    """gpt: a run of sovits, or a file of such weights, that speaks the samples."""
    tensorboard: bool = False
    """Write RUN/tensorboard/ too."""

    def __post_init__(self) -> None:
        for name, choices in (
            ("stage", STAGES),
            ("preset", PRESETS),
            ("precision", PRECISIONS),
            ("device", DEVICES),
        ):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(choices)}.")
        if self.optimizer not in ("", *OPTIMIZERS):
            raise UsageError(f"optimizer is {self.optimizer!r}; choose from {', '.join(OPTIMIZERS)}.")
        for name in NOT_NEGATIVE:
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it cannot be negative.")
        if self.balance not in ("", *BALANCES):
            raise UsageError(f"balance is {self.balance!r}; choose from {', '.join(BALANCES)}.")
        if not 0 <= self.evenness <= 1:
            raise UsageError(f"evenness is {self.evenness}; it must be from 0 to 1.")
        if self.init_discriminator and self.stage != "sovits":
            raise UsageError("init_discriminator is for the stage sovits: a decoder of text has no discriminator.")
        if self.stage == "sovits" and (given := [name for name in OF_GPT if getattr(self, name)]):
            raise UsageError(f"{' and '.join(given)}: for the stage gpt alone; leave it out, or give --stage gpt.")
        if self.samples and self.stage == "gpt" and not self.voice:
            raise UsageError("samples of the stage gpt are spoken by a sovits model: give one by --voice.")
        if self.samples and not self.validate_every:
            raise UsageError("samples are spoken by validations: validate_every cannot be 0 with them.")
        if (self.grow or self.patience) and not self.validate_every:
            raise UsageError("grow and patience follow the validation loss: validate_every cannot be 0 with them.")
        if self.float8 and self.recompute:
            raise UsageError("float8 and recompute are two ways to save the same memory: choose one of them.")
        if self.compile and not self.fixed_shapes:
            raise UsageError("compile makes kernels for each length of batches: give fixed_shapes too, 4 to 16.")
        if self.compile and self.float8:
            raise UsageError("compile and float8 both choose what waits for the backward pass: give one of them.")
        if self.checkpoint_every < 1:
            raise UsageError(f"checkpoint_every is {self.checkpoint_every}; it must be at least 1.")

    @property
    def spoken(self) -> int:
        """Utterances that each validation speaks."""
        if self.samples is not None:
            return self.samples
        return SAMPLES if self.tensorboard and (self.stage == "sovits" or self.voice) else 0

    def to_json(self) -> dict[str, Any]:
        paths = {name: str(value) for name in ("store", "out", *FILES) if (value := getattr(self, name)) is not None}
        return {**asdict(self), **paths}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        paths = {name: Path(known[name]) for name in ("out", *FILES) if known.get(name) is not None}
        return cls(**(known | paths | {"store": parse_path(known["store"])}))


def config_path(out: Path) -> Path:
    return out / "config.json"


def resumed(out: Path, given: Mapping[str, Any]) -> RunConfig:
    """The config of a run that goes on: what it was started with, changed by what is given now.

    Args:
        out: folder of the run.
        given: fields of `RunConfig` that were asked for this time.
    Raises:
        RunError: `out` holds no run, or a field that a run keeps for life is given another value.
    """
    path = config_path(out)
    if not path.exists():
        raise RunError(f"{out} holds no run to resume: leave out --resume to start one.")
    try:
        saved = RunConfig.from_json(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise RunError(f"{path} is damaged ({error!r}): start a new run with another --out.") from error
    now = replace(saved, **({"profile": 0} | dict(given)), out=out)
    changed = [name for name in BOUND if getattr(now, name) != getattr(saved, name)]
    if changed:
        raise RunError(
            f"{out} was started with another {' and '.join(changed)}: leave that out to resume, or start a new run.",
            *(f"{name}: {getattr(saved, name)} in {out}, {getattr(now, name)} now" for name in changed),
        )
    return now
