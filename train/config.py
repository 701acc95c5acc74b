"""Configuration of a training run, and the options that a run keeps for life."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from headrace.featurize.files.run_checkpoints import check_at
from headrace.store.errors import RunError, UsageError
from headrace.store.storage import StoragePath, parse_path, read_file
from headrace.store.storage.local import atomic_file
from headrace.store.storage.toml_files import read_toml, typed_value
from headrace.train.models import presets, sizes
from headrace.train.parallel_form import SCHEDULES, parse_form
from headrace.train.speeds import EQUAL, parse_speeds

STAGES = ("sovits", "gpt")
PRESETS = tuple(presets.PRESETS)
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DEVICES = ("auto", "cpu", "cuda")
BALANCES = ("speaker", "language")
OPTIMIZERS = ("scaled_adam", "adamw")
CODEBOOKS = ("store", "own")
REDUCTIONS = ("fp32", "bf16", "fp16")
QUANTIZATIONS = ("int8",)
DEFAULT_SAMPLES = 2
"""Utterances that each validation synthesises for TensorBoard where `samples` is not given."""


def parse_save_every(text: str) -> tuple[int, int]:
    """Return the steps and the epochs after which checkpoints are saved to be kept; one of them or both are 0.

    Raises:
        UsageError: it is neither a number of steps nor one of epochs.
    """
    if not text:
        return 0, 0
    found = re.fullmatch(r"([1-9][0-9]{0,8}) ?(steps?|epochs?)?", text.strip())
    if not found:
        raise UsageError(f"save_every is {text!r}; give a number of steps, such as 1000, or of epochs: 2epochs.")
    return (0, int(found[1])) if (found[2] or "").startswith("epoch") else (int(found[1]), 0)


def _check_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise UsageError(f"{name} is {value!r}; choose from {', '.join(filter(None, choices))}.")


def _check_not_negative(config: object, *names: str) -> None:
    for name in names:
        if (getattr(config, name) or 0) < 0:
            raise UsageError(f"{name} is {getattr(config, name)}; it cannot be negative.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model, and the weights that it starts from."""

    stage: str = "sovits"
    """`sovits`: semantic codes and text to speech. `gpt`: text to semantic codes."""
    preset: str = "v2"
    """Sizes of the model: `v1` to `v2ProPlus` are those of GPT-SoVITS, `small` is for slow devices, `large` for much
    data, and `tiny` for tests and demonstrations."""
    init: Path | None = None
    """Weights to start from: a run, a checkpoint, or a file in upstream's format (s2G for sovits, s1 for gpt). The
    quantiser of sovits is then frozen. None starts from random weights."""
    init_discriminator: Path | None = None
    """Pretrained discriminators to start from: likewise, upstream's s2D. None takes those of the run that `init` is."""
    teacher: Path | None = None
    """A larger model that the run learns from beside its data: a run, a checkpoint or a file, as `init`. Without
    `init`, the run begins with those of its layers and channels that fit."""
    at: str = ""
    """Which checkpoint of a run is taken, for `init`, `teacher` and `voice`: `best`, `newest` or a step. Empty takes
    the best one, or the newest where none was validated."""
    init_symbols: int = 0
    """Phones that `source` knows: read from it when the run begins. 0 where it is none of Headrace's own."""
    init_codes: int = 0
    """Semantic tokens that it knows, likewise."""
    init_codebooks: str = ""
    """Digests of the codebooks that it may have been trained on, between spaces, likewise."""
    init_reads: str = ""
    """Feature from which it read what is spoken, likewise."""
    init_sizes: str = ""
    """Sizes in which `init` differs from the preset because it was pruned, likewise."""
    teacher_digest: str = ""
    """Digest of the weights of `teacher`, likewise."""
    codebook: str = ""
    """sovits only: `store` trains on the codes that the store learned, with their codebook, which stays as it is; `own`
    learns another one. Empty: the store's, where it has one and no weights are given."""
    mixed_origins: bool = False
    """Train published weights of gpt on semantic tokens that a store learned by k-means, and speak samples with a voice
    whose codes have another origin, all the same."""
    quantize: str = ""
    """`int8`: train the model to compute in INT8, as `train export --to onnx-int8` writes it. It begins with `init`,
    which is its teacher too if no other is given. Empty trains it in floating point."""
    dropout: float | None = None
    """Share of activations that each dropout layer of the networks sets to 0. None takes the preset's."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data and of the noise."""

    def __post_init__(self) -> None:
        _check_choice(self, "stage", STAGES)
        _check_choice(self, "preset", PRESETS)
        _check_choice(self, "codebook", ("", *CODEBOOKS))
        _check_choice(self, "quantize", ("", *QUANTIZATIONS))
        _check_not_negative(self, "seed", "init_symbols", "init_codes")
        check_at(self.at)
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is {self.dropout}; it must be from 0 to less than 1.")
        if self.seed >= 1 << 47:
            raise UsageError(f"seed is {self.seed}; it must be less than {1 << 47}.")
        if self.init_discriminator and self.stage != "sovits":
            raise UsageError("init_discriminator is for the stage sovits: gpt has no discriminator.")
        if self.init_sizes:
            sizes.parse_pruned(self.init_sizes, self.stage)

    @property
    def source(self) -> Path | None:
        """What the run begins with: `init` or, where there is none, `teacher`."""
        return self.init or self.teacher


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Selection, balancing and batching of utterances."""

    batch_frames: int = 0
    """Upper limit of padded frames in a batch. 0 chooses by the device."""
    max_utterances: int = 0
    """Upper limit of utterances in a batch. 0 chooses by `batch_frames`."""
    where: str = ""
    """Train only on utterances that meet this condition, in the language of `headrace.store.conditions`. Empty for
    all."""
    balance: str = ""
    """Repeat utterances of small groups: `speaker` or `language`. Empty for no repetition."""
    balance_strength: float = 0.5
    """How far `balance` goes: 0 repeats nothing, 1 makes all groups equal."""
    fixed_shapes: int = 0
    """Pad every batch to one of this many lengths, for kernels that are chosen or compiled by shape; 16 cost about 7 %
    of padding. 0 pads each batch to its longest utterance."""

    chunk_locality: int = 0
    """Steps of similar length that follow one another, so that a chunk of a compressed or remote store is read once for
    all of them. 1 for any order. 0 chooses by the store."""

    def __post_init__(self) -> None:
        _check_not_negative(self, "batch_frames", "max_utterances", "fixed_shapes", "chunk_locality")
        _check_choice(self, "balance", ("", *BALANCES))
        if not 0 <= self.balance_strength <= 1:
            raise UsageError(f"balance_strength is {self.balance_strength}; it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser, its loss, and how large an update is."""

    optimizer: str = ""
    """gpt only: `scaled_adam` as published, which is the default, or `adamw` with a warm-up and half a cosine."""
    teacher_weight: float = 0.0
    """Weight of what the `teacher` says: for gpt its share in the loss, for sovits a factor on the losses against it.
    0 takes 0.5."""
    dpo: bool = False
    """gpt only: add a preference loss for right codes over corrupted ones (DPO). Steps take twice the time."""
    upstream_mask: bool = False
    """gpt only: mask padding on the side where upstream's training code does, to compare numbers with it."""
    grad_accum: int = 0
    """Batches of one update, on each rank; those left at the end of an epoch make a smaller one. 0 takes the preset's:
    1, and 4 for gpt."""
    learning_rate: float = 0.0
    """Learning rate of sovits at its beginning; of gpt, the highest one, or the constant one after the first update of
    the published schedule. 0 takes the preset's."""
    text_rate_factor: float = 0.0
    """sovits only: factor on the learning rate of the parts that read phones. 0 takes 0.4, which is published."""
    lr_decay: float = 0.0
    """sovits only: factor on the learning rate for each epoch. 0 takes 0.999875, which is published."""
    mel_weight: float = 0.0
    """sovits only: weight of the mel loss. 0 takes 45, which is published."""
    kl_weight: float = 0.0
    """sovits only: weight of the KL divergence of posterior and prior. 0 takes 1, which is published."""
    warmup_steps: int = 0
    """Updates over which the learning rate rises; 1000 is usual. gpt then falls along half a cosine until `max_steps`,
    instead of following the published schedule. 0 for no warm-up."""
    max_grad_norm: float = 0.0
    """Gradients of a larger norm are scaled down to it; 1.0 is usual. 0 for no limit."""
    grow_batch: bool = False
    """Double the batches of an update, up to four times as many, when the validation loss stops falling."""

    def __post_init__(self) -> None:
        _check_choice(self, "optimizer", ("", *OPTIMIZERS))
        _check_not_negative(self, "grad_accum", "warmup_steps", "max_grad_norm", "learning_rate", "text_rate_factor")
        _check_not_negative(self, "mel_weight", "kl_weight")
        if not 0 <= self.teacher_weight <= 1:
            raise UsageError(f"teacher_weight is {self.teacher_weight}; it must be from 0 to 1.")
        if not 0 <= self.lr_decay <= 1:
            raise UsageError(f"lr_decay is {self.lr_decay}; it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision and memory use of computation."""

    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is a device."""
    precision: str = "auto"
    """`fp32`, `fp16`, `bf16`, or `auto`: fp16 on CUDA, fp32 on a CPU."""
    fp32_steps: int | None = None
    """Steps in float32 before half precision begins. None: 500 before fp16, none before bf16."""
    activation_checkpointing: bool = False
    """Compute blocks again in the backward pass instead of keeping their activations: less memory, more time."""
    activations_8bit: bool = False
    """Keep activations of the generator, or of gpt, in 8 bits until the backward pass: less memory, and gradients that
    deviate a little."""
    compile: bool | None = None
    """Compile blocks of the networks into a few kernels each, once for each of `fixed_shapes`. None: on CUDA, if the
    run is long enough to pay for it."""
    cuda_graphs: bool | None = None
    """Launch the forward and backward pass of a batch as one CUDA graph, which is captured once for each of
    `fixed_shapes`. None: if the run is long enough to pay for it, and nothing hinders."""
    microbatches: int = 0
    """Compute each batch in this many pieces at least, one after the other: less memory, more time. 0 for one."""

    def __post_init__(self) -> None:
        _check_choice(self, "device", DEVICES)
        _check_choice(self, "precision", PRECISIONS)
        _check_not_negative(self, "fp32_steps", "microbatches")
        if self.activations_8bit and self.activation_checkpointing:
            raise UsageError("activations_8bit and activation_checkpointing save the same memory: choose one of them.")
        if self.compile and self.activations_8bit:
            raise UsageError("compile and activations_8bit both choose what is kept for the backward pass: choose one.")
        if self.cuda_graphs and self.activation_checkpointing:
            raise UsageError(
                "cuda_graphs cannot hold activation_checkpointing, which sets random numbers back: choose one of them."
            )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """When a run saves, validates and stops."""

    max_steps: int = 0
    """Stop after this many steps. 0 for no limit."""
    max_epochs: int = 0
    """Stop after this many epochs. 0 for no limit."""
    epoch_steps: int = 0
    """Steps of an epoch, over which the learning rate of a run falls that `max_epochs` alone bounds: counted when it
    begins. 0 where that is not so."""
    checkpoint_every: int = 500
    """Steps between checkpoints. There is always one at the end."""
    save_every: str = ""
    """Save a checkpoint after every so many steps (`1000`) or epochs (`2 epochs`), and keep it beside the newest and
    the best. Empty keeps no others."""
    keep: int = 5
    """Keep the newest so many of those that `save_every` saves."""
    checkpoint_to: str = ""
    """Copy each checkpoint to this folder or `s3://BUCKET/PREFIX` too, with config.json and metrics.jsonl. A run that
    is resumed in an empty folder is restored from there. Empty for no copies."""
    validate_every: int = 500
    """Steps between validations; there is one at the end too. 0 for none."""
    patience: int = 0
    """Stop after this many validations without a better loss; 3 is usual. 0 for never."""

    def __post_init__(self) -> None:
        _check_not_negative(self, "max_steps", "max_epochs", "epoch_steps", "validate_every", "patience")
        if self.checkpoint_every < 1:
            raise UsageError(f"checkpoint_every is {self.checkpoint_every}; it must be at least 1.")
        if self.keep < 1:
            raise UsageError(f"keep is {self.keep}; it must be at least 1.")
        parse_save_every(self.save_every)
        parse_path(self.checkpoint_to)
        if self.patience and not self.validate_every:
            raise UsageError("patience follows the validation loss: validate_every cannot be 0 with it.")


@dataclass(frozen=True, kw_only=True)
class MonitoringConfig:
    """Samples, TensorBoard and profiles, beside the metrics of a run."""

    samples: int | None = None
    """Held-out utterances that each validation synthesises into RUN/samples/. None: two with TensorBoard, else none."""
    voice: Path | None = None
    """gpt only: the sovits model that speaks the samples, a run or a file of weights."""
    tensorboard: bool = False
    """Write RUN/tensorboard/ too."""
    profile: int = 0
    """Steps to profile, after the first three of this start."""

    def __post_init__(self) -> None:
        _check_not_negative(self, "samples", "profile")


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """What the processes of a run exchange. One process exchanges nothing."""

    parallel: str = "dp"
    """`dp`: each process has the whole model. `fsdp`: each keeps a part of it, of its gradients and of its optimisers,
    and gathers a block when it computes it. `hsdp:RxS`: R copies of the model, each in parts on S processes. gpt only:
    `tp:N` cuts heads and hidden channels of each layer over N processes, and `pp:SxM` sends M parts of a batch through
    S processes that have some layers each."""
    pipeline_schedule: str = "1f1b"
    """pp only: `gpipe` sends all parts forward and then all back, `1f1b` one back after one forward, which takes less
    memory, `interleaved` does so with two groups of layers on each process, which wait less."""
    average_every: int = 0
    """Sum gradients within each machine only, and average the models of the machines after every so many steps, and
    before validations and checkpoints: another way of the optimiser, for slow links. 0 sums over all processes."""
    reduce: str = "fp32"
    """`fp32`, `bf16` or `fp16`: gradients are summed over processes in this format. Half the bits take half the time
    on a slow network, and leave gradients less exact."""
    speeds: str = EQUAL
    """Sharing of each step's frames over processes: `equal`, a number for each process (`1,0.45`), or `auto`: by what a
    frame takes each of them, measured in the first steps and in each epoch. `batch_frames` and `max_utterances` then
    limit the mean over processes."""
    overlap: bool = True
    """Send gradients while the backward pass computes others, instead of after it. The sums are the same."""
    check_weights_every: int = 500
    """Steps between checks that all processes have the same weights; there is one before each checkpoint too. 0 for
    none but these."""
    rank_timeout: float = 60.0
    """Seconds without progress after which a process stands still, and the job ends; ten times the usual step, if that
    is longer. A start, a validation and a checkpoint may take ten times as long."""

    def __post_init__(self) -> None:
        _check_choice(self, "reduce", REDUCTIONS)
        _check_choice(self, "pipeline_schedule", SCHEDULES)
        if parse_speeds(self.speeds) is None and parse_form(self.parallel).is_sharded:
            raise UsageError(
                "speeds=auto measures what a frame takes each process, and processes that share a model wait for one "
                f"another: give numbers, or another parallel than {self.parallel}."
            )
        if self.average_every and parse_form(self.parallel).is_sharded:
            raise UsageError(f"average_every averages whole models: leave it out, or parallel {self.parallel}.")
        _check_not_negative(self, "check_weights_every", "average_every")
        if self.rank_timeout <= 0:
            raise UsageError(f"rank_timeout is {self.rank_timeout}; it must be greater than 0.")


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
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    compute: ComputeConfig = ComputeConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    distributed: DistributedConfig = DistributedConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

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
        for field in fields(before):
            values = getattr(before, field.name), getattr(after, field.name)
            if values[0] != values[1]:
                yield f"--{field.name.replace('_', '-')}", *values
