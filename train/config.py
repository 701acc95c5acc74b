"""Configuration of a training run: its sections together, its files, and the options that it keeps for life."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from headrace.store.errors import RunError, UsageError
from headrace.store.storage import StoragePath, parse_path, read_file
from headrace.store.storage.local import atomic_file
from headrace.store.storage.toml_files import read_toml, typed_value
from headrace.train.config_sections import (
    DEFAULT_SAMPLES,
    ComputeConfig,
    DataConfig,
    DistributedConfig,
    ModelConfig,
    MonitoringConfig,
    OptimConfig,
    ScheduleConfig,
)
from headrace.train.parallel_form import parse_form

SECTIONS = {
    "model": ModelConfig,
    "data": DataConfig,
    "optim": OptimConfig,
    "compute": ComputeConfig,
    "schedule": ScheduleConfig,
    "distributed": DistributedConfig,
    "monitoring": MonitoringConfig,
}
KEPT_FOR_LIFE = ("model", "data", "optim")
"""Sections that a resumed run cannot change: with other values it would be another run."""
SECTION_OF = {field.name: name for name, section in SECTIONS.items() for field in fields(section)}
"""Option to the section that has it. No two sections have options of one name."""
FOUND_BY_RUN = (
    "init_symbols",
    "init_codes",
    "init_codebooks",
    "init_reads",
    "init_sizes",
    "teacher_digest",
    "epoch_steps",
)
"""Fields that are no options: a run finds them when it begins."""
OPTIONS = tuple(name for name in SECTION_OF if name not in FOUND_BY_RUN)
"""Names of all options of a run, those of a section together."""
CHOSEN_BY_RUN = ("codebook", "batch_frames", "max_utterances", "chunk_locality")
"""Options that a run chooses itself where they are empty or 0, and then keeps for life."""
FORMER_NAMES = {
    "evenness": "balance_strength",
    "misaligned": "upstream_mask",
    "accumulate": "grad_accum",
    "warmup": "warmup_steps",
    "max_norm": "max_grad_norm",
    "grow": "grow_batch",
    "recompute": "activation_checkpointing",
    "float8": "activations_8bit",
}
"""Names in config.json of runs that were made when it had no sections."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Configuration of a training run. A size of 0 is chosen by the run, or means no limit.

    Sections are given whole, or built from options by name:

    >>> RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), stage="gpt", max_steps=10).schedule.max_steps
    10
    """

    store: StoragePath
    out: Path
    """Folder of the run: config.json, metrics.jsonl, curves.png, checkpoints/."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)

    def __post_init__(self) -> None:
        self._check_stage()
        self._check_quantize()
        if self.monitoring.samples and not self.schedule.validate_every:
            raise UsageError("samples are synthesised by validations: validate_every cannot be 0 with them.")
        if self.optim.grow_batch and not self.schedule.validate_every:
            raise UsageError("grow_batch follows the validation loss: validate_every cannot be 0 with it.")
        self._check_form()
        if self.compute.compile and not self.data.fixed_shapes:
            raise UsageError("compile makes kernels for each length of batches: give fixed_shapes too, 4 to 16.")
        if self.compute.cuda_graphs and not self.data.fixed_shapes:
            raise UsageError("cuda_graphs are captured for each length of batches: give fixed_shapes too, 4 to 16.")
        if self.compute.cuda_graphs and self.optim.dpo:
            raise UsageError("cuda_graphs cannot hold dpo, whose corrupted sequences have any length: choose one.")

    def _check_form(self) -> None:
        form, parallel = parse_form(self.distributed.parallel), self.distributed.parallel
        for name in ("compile", "activations_8bit"):
            if form.is_sharded and getattr(self.compute, name):
                raise UsageError(f"{name} needs the whole model in each process: leave it out, or parallel.")
        if form.readers_share > 1 and self.model.stage != "gpt":
            raise UsageError(f"parallel {parallel} divides the layers of gpt: sovits has fsdp and hsdp:RxS.")
        whole = {"dpo": self.optim.dpo, "upstream_mask": self.optim.upstream_mask, "teacher": self.model.teacher}
        for name in (name for name, value in whole.items() if value and form.kind == "pp"):
            raise UsageError(f"{name} needs the whole model in each process: leave it out, or parallel {parallel}.")

    def _check_stage(self) -> None:
        optim, monitoring = self.optim, self.monitoring
        if optim.teacher_weight and not self.model.teacher and not self.model.quantize:
            raise UsageError("teacher_weight weighs what a teacher says: give one by --teacher.")
        gpt_only = {
            "optimizer": optim.optimizer,
            "dpo": optim.dpo,
            "upstream_mask": optim.upstream_mask,
            "mixed_origins": self.model.mixed_origins,
            "voice": monitoring.voice,
        }
        given = [name for name, value in gpt_only.items() if value]
        if self.model.stage == "sovits" and given:
            raise UsageError(f"{' and '.join(given)}: only for the stage gpt; leave it out, or give --stage gpt.")
        of_sovits = ("text_rate_factor", "lr_decay", "mel_weight", "kl_weight")
        given = [name for name in of_sovits if getattr(optim, name)]
        if self.model.stage == "gpt" and given:
            raise UsageError(f"{' and '.join(given)}: only for the stage sovits; leave it out.")
        if self.model.stage == "gpt" and monitoring.samples and not monitoring.voice:
            raise UsageError("samples of the stage gpt are spoken by a sovits model: give one by --voice.")

    def _check_quantize(self) -> None:
        if not self.model.quantize:
            return
        if not self.model.init:
            raise UsageError("quantize begins with a trained model: give one by --init.")
        beside = {
            "activations_8bit": self.compute.activations_8bit,
            "compile": self.compute.compile,
            "cuda_graphs": self.compute.cuda_graphs,
            f"parallel {self.distributed.parallel}": parse_form(self.distributed.parallel).is_sharded,
        }
        if given := [name for name, value in beside.items() if value]:
            raise UsageError(f"quantize cannot be combined with {' and '.join(given)}: leave one of them out.")

    @classmethod
    def from_options(cls, *, store: StoragePath, out: Path, **options: Any) -> RunConfig:
        """Return the config with these options, given by their own names and without sections.

        Raises:
            TypeError: there is no option of this name.
            UsageError: a value is not allowed, or not beside another one.
        """
        return cls(store=store, out=out).with_options(**options)

    def with_options(self, **changes: Any) -> RunConfig:
        """Return a copy with options changed, likewise by name; `store` and `out` are options too."""
        top = {name: changes.pop(name) for name in ("store", "out") if name in changes}
        if unknown := [name for name in changes if name not in SECTION_OF]:
            raise TypeError(f"RunConfig has no option {unknown[0]!r}; it has {', '.join(SECTION_OF)}.")
        sections: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            sections.setdefault(SECTION_OF[name], {})[name] = value
        changed = {section: replace(getattr(self, section), **values) for section, values in sections.items()}
        return replace(self, **top, **changed)

    @property
    def sample_count(self) -> int:
        """Utterances that each validation synthesises."""
        monitoring = self.monitoring
        if monitoring.samples is not None:
            return monitoring.samples
        return DEFAULT_SAMPLES if monitoring.tensorboard and (self.model.stage == "sovits" or monitoring.voice) else 0

    def options(self) -> dict[str, Any]:
        """Return all options, by name. `from_options` makes the same config from them."""
        return {name: getattr(getattr(self, SECTION_OF[name]), name) for name in OPTIONS}

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json: `store`, `out`, and an object for each section."""
        sections = {name: asdict(getattr(self, name)) for name in SECTIONS}
        for values in sections.values():
            values |= {name: str(value) for name, value in values.items() if isinstance(value, Path)}
        return {"store": str(self.store), "out": str(self.out), **sections}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        """Read the content of config.json, also as it was before it had sections. Unknown options are ignored.

        Raises:
            ValueError, KeyError, TypeError, UsageError: it is not the content of a config.json.
        """
        if not isinstance(data, Mapping):
            raise TypeError("not a JSON object")
        options: dict[str, Any] = {}
        for name, value in data.items():
            options |= value if name in SECTIONS else {FORMER_NAMES.get(name, name): value}
        known = {name: value for name, value in options.items() if name in SECTION_OF}
        if known.get("stage", "sovits") == "sovits":
            known.setdefault("codebook", "own")  # there was no other when this was not recorded
        known.setdefault("chunk_locality", 1)  # likewise: the order of a run that was made before stays
        known = {name: _typed(name, value) for name, value in known.items()}
        return cls.from_options(store=parse_path(options["store"]), out=Path(options["out"]), **known)


def _typed(name: str, value: Any) -> Any:
    """Return a value that was read from a file in the type of its option. Raises ValueError if it is of another."""
    (annotation,) = (field.type for field in fields(SECTIONS[SECTION_OF[name]]) if field.name == name)
    return typed_value(name, value, str(annotation))


def read_options(path: Path) -> dict[str, Any]:
    """Read options of a run from a TOML file, by name, as for `RunConfig.with_options`.

    Raises:
        UsageError: it cannot be read, a key is no option, or a value is of another type or not allowed.
    """
    given = read_toml(path, "The config")
    if unknown := [name for name in given if name not in OPTIONS]:
        raise UsageError(f"The config {path}: {unknown[0]!r} is no option; there are {', '.join(OPTIONS)}.")
    try:
        options = {name: _typed(name, value) for name, value in given.items()}
        for name, value in options.items():  # each for itself: the command line may give the one that it needs
            SECTIONS[SECTION_OF[name]](**{name: value})
    except (ValueError, UsageError) as error:
        raise UsageError(f"The config {path}: {error}") from error
    return options


def write_options(options: Mapping[str, Any], path: Path) -> None:
    """Write options of a run into a TOML file, in the order of the sections. `read_options` returns the same.

    Args:
        options: by name; those that are None, which TOML does not have, are left out.
    """
    from headrace.store.storage.output_files import output_file  # loads NumPy, which --help does not need

    there = {name: options[name] for name in OPTIONS if options.get(name) is not None}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in there.items()}
    with output_file(path) as draft:
        draft.write_text(tomli_w.dumps(plain), encoding="utf-8")


def config_path(out: Path) -> Path:
    """Return the path of a run's config.json."""
    return out / "config.json"


def write_config(config: RunConfig, out: Path) -> None:
    """Write config.json of a run into its folder, which is not always `config.out`: a draft may be moved there."""
    with atomic_file(config_path(out)) as file:
        file.write((json.dumps(config.to_json(), indent=1) + "\n").encode())


def read_config(out: Path) -> RunConfig:
    """Read config.json of a run.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = config_path(out)
    try:
        return RunConfig.from_json(json.loads(read_file(path)))
    except OSError as error:
        raise RunError(f"{out} is not the folder of a run: give one that train run has made.") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, UsageError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise RunError(f"{path} is damaged ({reason[:200]}): start a new run with another --out.") from error


def resumed(out: Path, given: Mapping[str, Any], saved: RunConfig | None = None) -> RunConfig:
    """Return the config of a run that is resumed: what it was started with, changed by the options given now.

    Args:
        out: folder of the run.
        given: options by name, as for `RunConfig.with_options`. Those of `CHOSEN_BY_RUN` that are empty or 0 leave what
            the run chose.
        saved: what it was started with; None reads it from config.json.
    Raises:
        RunError: `out` holds no run, or an option that a run keeps for life is given another value.
    """
    if saved is None:
        saved = read_config(out)
    changes = {name: value for name, value in given.items() if value or name not in CHOSEN_BY_RUN}
    now = saved.with_options(**({"profile": 0} | changes), out=out)
    changed = list(changes_for_life(saved, now))
    if changed:
        raise RunError(
            f"{out} was started with another {' and '.join(option for option, _, _ in changed)}: leave that out to "
            "resume, or start a new run.",
            *(f"{option}: {before} in {out}, {after} now" for option, before, after in changed),
        )
    return now


def changes_for_life(saved: RunConfig, now: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yield each option that a run keeps and that differs: its name on the command line, and both values."""
    for section in KEPT_FOR_LIFE:
        before, after = getattr(saved, section), getattr(now, section)
        for option in fields(before):
            values = getattr(before, option.name), getattr(after, option.name)
            if values[0] != values[1]:
                yield f"--{option.name.replace('_', '-')}", *values
