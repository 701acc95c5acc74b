"""The sections of a run's configuration: every option, what it means, and which values it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from headrace.featurize.files.run_checkpoints import check_at
from headrace.store.errors import UsageError
from headrace.store.storage import parse_path
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
