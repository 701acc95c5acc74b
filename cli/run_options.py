"""Options of a training run, for the commands that start one or look ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headrace.cli.options import COUNT, FILE, POSITIVE, Number, at_option, option, without_none
from headrace.train.config import read_options
from headrace.train.config_sections import (
    BALANCES,
    CODEBOOKS,
    DEVICES,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    QUANTIZATIONS,
    REDUCTIONS,
    STAGES,
)
from headrace.train.parallel_form import SCHEDULES

NOT_NEGATIVE = click.IntRange(0)


def _flag(*names: str, help: str) -> Any:
    """Return an option without a value. It is None where it is not given, so that a resumed run keeps its own."""
    return option(*names, is_flag=True, default=None, help=help)


_OPTIONS = {
    "stage": option("--stage", type=click.Choice(STAGES), show_default="sovits", help="Train this stage."),
    "preset": option("--preset", type=click.Choice(PRESETS), show_default="v2", help="Use a model of these sizes."),
    "init": option(
        "--init",
        type=FILE,
        metavar="PATH",
        help="Start from a run, a checkpoint, an export, or weights of GPT-SoVITS: s2G for sovits, s1 for gpt.",
    ),
    "init_discriminator": option(
        "--init-discriminator",
        type=FILE,
        metavar="PATH",
        show_default="those of --init, where that is a run",
        help="Start the discriminators from a run, a checkpoint, or weights of GPT-SoVITS (s2D).",
    ),
    "teacher": option(
        "--teacher",
        type=FILE,
        metavar="PATH",
        help="Learn from this larger model too: a run, a checkpoint, or weights of GPT-SoVITS.",
    ),
    "teacher_weight": option(
        "--teacher-weight",
        type=Number(0, 1, min_open=True),
        metavar="X",
        show_default="0.5",
        help="Weigh what the teacher says: its share in the loss of gpt, a factor on its losses for sovits.",
    ),
    "at": at_option("Take this checkpoint of runs that --init, --teacher and --voice name: best, newest, or a step."),
    "codebook": option(
        "--codebook",
        type=click.Choice(CODEBOOKS),
        show_default="store, where it learned one and there is no --init",
        help="Train sovits on the codes of STORE, or learn a codebook.",
    ),
    "mixed_origins": _flag("--mixed-origins", help="Combine weights and codes of different origins all the same."),
    "quantize": option(
        "--quantize",
        type=click.Choice(QUANTIZATIONS),
        help="Train the model of --init for export in INT8. It learns from itself, if --teacher is not given.",
    ),
    "max_steps": option("--max-steps", type=COUNT, metavar="STEPS", help="Stop after this many steps."),
    "max_epochs": option("--max-epochs", type=COUNT, metavar="EPOCHS", help="Stop after this many epochs."),
    "batch_frames": option(
        "--batch-frames",
        type=COUNT,
        metavar="FRAMES",
        show_default="by the device",
        help="Put at most this many frames into a batch, padding included.",
    ),
    "max_utterances": option(
        "--max-utterances",
        type=COUNT,
        metavar="N",
        show_default="by --batch-frames",
        help="Put at most this many utterances into a batch.",
    ),
    "where": option(
        "--where",
        metavar="CONDITION",
        help="Train only on utterances that meet a condition, such as \"duration < 20 and speaker != 'x'\".",
    ),
    "balance": option(
        "--balance", type=click.Choice(BALANCES), help="Repeat utterances of speakers or languages that are rare."
    ),
    "balance_strength": option(
        "--balance-strength",
        type=Number(0, 1),
        metavar="X",
        show_default="0.5",
        help="Balance this much: 0 repeats nothing, 1 makes all groups equal.",
    ),
    "seed": option(
        "--seed", type=NOT_NEGATIVE, metavar="N", show_default="0", help="Seed the weights, the order and the noise."
    ),
    "device": option("--device", type=click.Choice(DEVICES), show_default="auto", help="Train on this device."),
    "precision": option(
        "--precision",
        type=click.Choice(PRECISIONS),
        show_default="auto",
        help="Compute in this precision. `auto` is fp16 on CUDA and fp32 on a CPU.",
    ),
    "fp32_steps": option(
        "--fp32-steps",
        type=NOT_NEGATIVE,
        metavar="STEPS",
        show_default="500 before fp16",
        help="Compute this many steps in fp32 before half precision begins.",
    ),
    "fixed_shapes": option(
        "--fixed-shapes", type=COUNT, metavar="N", help="Pad each batch to one of N lengths instead of its own."
    ),
    "chunk_locality": option(
        "--chunk-locality",
        type=COUNT,
        metavar="STEPS",
        show_default="by STORE",
        help="Let so many steps of similar length follow one another, to read chunks fewer times.",
    ),
    "optimizer": option(
        "--optimizer",
        type=click.Choice(OPTIMIZERS),
        show_default="scaled_adam",
        help="Train gpt with this optimiser.",
    ),
    "dpo": _flag("--dpo", help="Add a preference loss (DPO) to gpt: right codes over corrupted ones."),
    "upstream_mask": _flag(
        "--upstream-mask", help="Mask the padding of gpt where GPT-SoVITS masks it, to compare numbers."
    ),
    "grad_accum": option(
        "--grad-accum",
        type=COUNT,
        metavar="N",
        show_default="1, for gpt 4",
        help="Accumulate the gradients of N batches for each update.",
    ),
    "learning_rate": option(
        "--learning-rate",
        type=POSITIVE,
        metavar="X",
        show_default="1e-4, for gpt 0.002",
        help="Learn at this rate; with a warm-up it is the highest one.",
    ),
    "text_rate_factor": option(
        "--text-rate-factor",
        type=POSITIVE,
        metavar="X",
        show_default="0.4",
        help="Scale the learning rate of the parts of sovits that read phones.",
    ),
    "lr_decay": option(
        "--lr-decay",
        type=Number(0, 1, min_open=True),
        metavar="X",
        show_default="0.999875",
        help="Scale the learning rate of sovits by this after each epoch.",
    ),
    "mel_weight": option(
        "--mel-weight", type=POSITIVE, metavar="X", show_default="45", help="Weight the mel loss of sovits by this."
    ),
    "kl_weight": option(
        "--kl-weight", type=POSITIVE, metavar="X", show_default="1", help="Weight the KL divergence of sovits by this."
    ),
    "dropout": option(
        "--dropout",
        type=Number(0, 1, max_open=True),
        metavar="X",
        show_default="the preset's",
        help="Set this share of activations to 0 in each dropout layer.",
    ),
    "warmup_steps": option(
        "--warmup-steps",
        type=COUNT,
        metavar="STEPS",
        help="Raise the learning rate over this many updates; 1000 is usual.",
    ),
    "max_grad_norm": option(
        "--max-grad-norm", type=POSITIVE, metavar="X", help="Clip gradients to this norm; 1.0 is usual."
    ),
    "activation_checkpointing": _flag(
        "--activation-checkpointing", help="Recompute activations in the backward pass: less memory, more time."
    ),
    "activations_8bit": _flag(
        "--activations-8bit", help="Store activations in 8 bits: less memory, gradients less exact."
    ),
    "microbatches": option(
        "--microbatches", type=COUNT, metavar="N", help="Compute each batch in N pieces: less memory, more time."
    ),
    "compile": option(
        "--compile/--no-compile",
        "compile",
        default=None,
        show_default="--compile on CUDA with --fixed-shapes, if the run is long",
        help="Compile blocks of the networks. It needs --fixed-shapes.",
    ),
    "cuda_graphs": option(
        "--cuda-graphs/--no-cuda-graphs",
        "cuda_graphs",
        default=None,
        show_default="--cuda-graphs on CUDA with --fixed-shapes, unless the run is short",
        help="Launch the forward and backward pass of a batch as one. It needs --fixed-shapes.",
    ),
    "grow_batch": _flag("--grow-batch", help="Accumulate more batches when the validation loss stops falling."),
    "patience": option(
        "--patience", type=COUNT, metavar="N", help="Stop after N validations without a better loss; 3 is usual."
    ),
    "checkpoint_every": option(
        "--checkpoint-every",
        type=COUNT,
        metavar="STEPS",
        show_default="500",
        help="Save a checkpoint after every so many steps.",
    ),
    "save_every": option(
        "--save-every",
        metavar="N|Nepochs",
        help="Save a checkpoint after every so many steps or epochs, and keep it beside the newest and the best.",
    ),
    "keep": option("--keep", type=COUNT, metavar="N", show_default="5", help="Keep so many of --save-every at most."),
    "checkpoint_to": option(
        "--checkpoint-to",
        metavar="PLACE",
        help="Copy checkpoints to this folder or s3://BUCKET/PREFIX too. --resume restores an empty RUN from there.",
    ),
    "validate_every": option(
        "--validate-every",
        type=NOT_NEGATIVE,
        metavar="STEPS",
        show_default="500",
        help="Validate after every so many steps; 0 turns validation off.",
    ),
    "parallel": option(
        "--parallel",
        metavar="FORM",
        show_default="dp",
        help="What processes have: dp the whole model, fsdp parts of it, hsdp:RxS R copies on S each; and for gpt tp:N "
        "parts of each layer, pp:SxM S groups of layers, through which M parts of a batch go.",
    ),
    "pipeline_schedule": option(
        "--pipeline-schedule",
        type=click.Choice(SCHEDULES),
        show_default="1f1b",
        help="Order in which --parallel pp computes parts of a batch.",
    ),
    "average_every": option(
        "--average-every",
        type=COUNT,
        metavar="STEPS",
        help="Sum gradients within each machine only, and average the machines after every so many steps.",
    ),
    "reduce": option(
        "--reduce",
        type=click.Choice(REDUCTIONS),
        show_default="fp32",
        help="Sum gradients over processes in this format.",
    ),
    "speeds": option(
        "--speeds",
        metavar="equal|auto|X,...",
        show_default="equal",
        help="Share out each step by these speeds of the processes, such as 1,0.45, or by measured ones.",
    ),
    "overlap": option(
        "--overlap/--no-overlap",
        "overlap",
        default=None,
        show_default="--overlap",
        help="Send gradients during the backward pass, or after it.",
    ),
    "check_weights_every": option(
        "--check-weights-every",
        type=NOT_NEGATIVE,
        metavar="STEPS",
        show_default="500",
        help="Check that all processes have the same weights after every so many steps.",
    ),
    "rank_timeout": option(
        "--rank-timeout",
        type=POSITIVE,
        metavar="SECONDS",
        show_default="60",
        help="End the job when one of its processes makes no progress for so long.",
    ),
    "samples": option(
        "--samples",
        type=NOT_NEGATIVE,
        metavar="N",
        show_default="2 with --tensorboard",
        help="Synthesise N held-out utterances in each validation.",
    ),
    "voice": option(
        "--voice", type=FILE, metavar="PATH", help="Speak the samples of gpt with this sovits run or weight file."
    ),
    "tensorboard": _flag("--tensorboard", help="Write curves, plots and samples to RUN/tensorboard."),
    "profile": option("--profile", type=COUNT, metavar="STEPS", help="Profile this many steps, and write a trace."),
}
"""By the name that the option has in `headrace.train.config.RunConfig`."""

RUN = tuple(_OPTIONS)
"""Options of `train run`."""
VOICE = (
    *("preset", "init_discriminator", "batch_frames", "max_utterances", "where", "balance", "balance_strength", "seed"),
    *("device", "precision", "checkpoint_every"),
)
"""Options of `train voice`: those of both runs."""
PLAN = (
    *("stage", "preset", "init", "teacher", "codebook", "batch_frames", "max_utterances", "grad_accum", "fixed_shapes"),
    *(
        "where",
        "balance",
        "balance_strength",
        "device",
        "precision",
        "optimizer",
        "dpo",
        "activation_checkpointing",
        "activations_8bit",
        "cuda_graphs",
        "speeds",
    ),
)
"""Options of `train plan`: those that change memory and time."""
TUNE = (
    *("stage", "preset", "init", "init_discriminator", "max_steps", "batch_frames", "max_utterances", "where"),
    *("balance", "balance_strength", "seed", "device", "precision"),
)
"""Options of `train tune`: those of all its runs. A file may give others."""
BENCH = (
    *("stage", "preset", "init", "batch_frames", "max_utterances", "grad_accum", "where", "device", "precision"),
    "activation_checkpointing",
)
"""Options of `train bench`."""


config_option = option(
    "--config", type=FILE, metavar="FILE", help="Take options from this TOML file where they are not given here."
)


def given_options(config: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given: on the command line, or else in a file of `config_option`."""
    if config is None:
        return without_none(options)
    return read_options(config) | without_none(options)


def run_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds these options of a run to a command. An option that is not given is None."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = _OPTIONS[name](function)
        return function

    return decorate
