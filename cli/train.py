"""`train`: from a feature store to a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import bench, output
from headrace.cli.options import LOCAL_PATH, STORAGE_PATH
from headrace.train.config import BALANCES, DEVICES, OPTIMIZERS, PRECISIONS, PRESETS, STAGES

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath

FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train GPT-SoVITS from a store of features."""


main.add_command(bench.bench_training)


@main.command()
@click.argument("store", type=STORAGE_PATH)
@click.option("--out", type=LOCAL_PATH, required=True, help="Folder of the run.")
@click.option("--stage", type=click.Choice(STAGES), help="Which model.  [default: sovits]")
@click.option("--preset", type=click.Choice(PRESETS), help="Its sizes.  [default: v2]")
@click.option("--init", type=FILE, help="Weights to begin with: upstream's s2G, or s1 for gpt.")
@click.option("--init-discriminator", type=FILE, help="Discriminators to begin with: upstream's s2D.")
@click.option("--max-steps", type=click.IntRange(1), help="Stop after so many steps; else when interrupted.")
@click.option("--max-epochs", type=click.IntRange(1), help="Stop after so many epochs.")
@click.option("--batch-frames", type=click.IntRange(1), help="Most padded frames of a batch; else by device.")
@click.option("--max-utterances", type=click.IntRange(1), help="Most utterances of a batch; else by batch frames.")
@click.option("--where", metavar="CONDITION", help="Train on what meets it: duration < 20 and speaker != 'x'.")
@click.option("--balance", type=click.Choice(BALANCES), help="Repeat utterances of those there is little of.")
@click.option(
    "--balance-strength", type=click.FloatRange(0, 1), help="Of --balance; 1 makes all equal.  [default: 0.5]"
)
@click.option("--seed", type=click.IntRange(0), help="Of weights, order and noise.  [default: 0]")
@click.option("--device", type=click.Choice(DEVICES), help="[default: auto]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: auto]")
@click.option("--fp32-steps", type=click.IntRange(0), help="Steps before half precision.  [default: 500 of fp16]")
@click.option("--fixed-shapes", type=click.IntRange(1), metavar="N", help="Pad batches to one of N lengths.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Of gpt.  [default: scaled_adam]")
@click.option("--dpo", is_flag=True, default=None, help="gpt: also prefer right codes over spoilt ones.")
@click.option("--upstream-mask", is_flag=True, default=None, help="gpt: mask padding as upstream does, to compare.")
@click.option("--grad-accum", type=click.IntRange(1), help="Batches of an update; else 1, or 4 for gpt.")
@click.option(
    "--warmup-steps", type=click.IntRange(1), metavar="STEPS", help="Learning rate rises that long; 1000 is usual."
)
@click.option("--max-grad-norm", type=click.FloatRange(0, min_open=True), help="Clip gradients; 1.0 is usual.")
@click.option("--activation-checkpointing", is_flag=True, default=None, help="Less memory for more time.")
@click.option(
    "--activations-8bit", is_flag=True, default=None, help="Activations in 8 bits: less memory, rougher gradients."
)
@click.option("--compile", is_flag=True, default=None, help="Compile blocks of the networks; with --fixed-shapes.")
@click.option("--grow-batch", is_flag=True, default=None, help="Larger updates when validation stops improving.")
@click.option("--patience", type=click.IntRange(1), help="Stop after so many validations without a better one.")
@click.option("--checkpoint-every", type=click.IntRange(1), metavar="STEPS", help="[default: 500]")
@click.option("--validate-every", type=click.IntRange(0), metavar="STEPS", help="0 for never.  [default: 500]")
@click.option("--samples", type=click.IntRange(0), help="Speak so many held-out utterances at each validation.")
@click.option("--voice", type=FILE, help="Run or file of sovits that speaks the samples of gpt.")
@click.option("--tensorboard", is_flag=True, default=None, help="Curves, sound and pictures in RUN/tensorboard.")
@click.option("--profile", type=click.IntRange(1), metavar="STEPS", help="Tell where so many steps go, in a trace.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; what it was told need not be said again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@output.handle_errors
def run(store: StoragePath, out: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Train on STORE. Ctrl-C saves a checkpoint; --resume goes on from it as if nothing had happened."""
    # Before torch is loaded: threads of an idle OpenMP loop would spin. Beside one other busy process on two cores that
    # made a step take 5.1 s, sleeping threads 0.9 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from headrace.cli.run_progress import TrainProgress
    from headrace.cli.run_tables import print_run
    from headrace.train.config import RunConfig
    from headrace.train.trainer import loop

    given = {name: value for name, value in options.items() if value is not None}
    with TrainProgress(quiet=as_json) as progress:
        if resume:
            summary = loop.resume(out, given | {"store": store}, progress)
        else:
            summary = loop.start(RunConfig.from_options(store=store, out=out, **given), progress)
    if summary is None:
        return  # the first of several processes tells
    if as_json:
        output.print_json(summary)
    else:
        print_run(summary)


@main.command()
@click.argument("store", type=STORAGE_PATH)
@click.option("--stage", type=click.Choice(STAGES), help="Which model.  [default: sovits]")
@click.option("--preset", type=click.Choice(PRESETS), help="Its sizes.  [default: v2]")
@click.option("--init", type=FILE, help="Weights that the run would begin with: what is read depends on it.")
@click.option("--batch-frames", type=click.IntRange(1), help="Most padded frames of a batch; else by device.")
@click.option("--max-utterances", type=click.IntRange(1), help="Most utterances of a batch; else by batch frames.")
@click.option("--grad-accum", type=click.IntRange(1), help="Batches of an update; else 1, or 4 for gpt.")
@click.option("--fixed-shapes", type=click.IntRange(1), metavar="N", help="Pad batches to one of N lengths.")
@click.option("--where", metavar="CONDITION", help="Train on what meets it.")
@click.option("--balance", type=click.Choice(BALANCES), help="Repeat utterances of those there is little of.")
@click.option(
    "--balance-strength", type=click.FloatRange(0, 1), help="Of --balance; 1 makes all equal.  [default: 0.5]"
)
@click.option("--epochs", type=click.IntRange(1), help="To look ahead; else 8, or 15 for gpt.")
@click.option("--device", type=click.Choice(DEVICES), help="[default: auto]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: auto]")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), help="Of gpt.  [default: scaled_adam]")
@click.option("--dpo", is_flag=True, default=None, help="gpt: also prefer right codes over spoilt ones.")
@click.option("--activation-checkpointing", is_flag=True, default=None, help="Less memory for more time.")
@click.option(
    "--activations-8bit", is_flag=True, default=None, help="Activations in 8 bits: less memory, rougher gradients."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@output.handle_errors
def plan(store: StoragePath, epochs: int | None, as_json: bool, **options: Any) -> None:
    """Measure a few steps on STORE, and tell what a run would take: memory, time, room on cards."""
    from headrace.cli.run_progress import TrainProgress
    from headrace.cli.run_tables import print_forecast
    from headrace.train.config import RunConfig
    from headrace.train.measure.forecast import forecast

    given = {name: value for name, value in options.items() if value is not None}
    config = RunConfig.from_options(store=store, out=Path("RUN"), **given)
    with TrainProgress(quiet=as_json) as progress:
        found = forecast(config, epochs or {"sovits": 8, "gpt": 15}[config.model.stage], progress)
    if as_json:
        output.print_json(found)
    else:
        print_forecast(found)


@main.command()
@click.argument("run", type=FILE)
@click.option("--out", type=LOCAL_PATH, required=True, help="File; in a folder it is called as upstream calls it.")
@output.handle_errors
def export(run: Path, out: Path) -> None:
    """Write the newest weights of RUN as GPT-SoVITS itself loads them: half precision, with its config."""
    from headrace.train.checkpoints.trained_models import export_run

    file, version = export_run(run, out)
    click.echo(f"{file}: {version}")


@main.command()
@click.option("--sovits", type=FILE, required=True, help="Run, or upstream's file: the voice that speaks.")
@click.option("--gpt", type=FILE, help="Run, or upstream's file: what turns TEXT into codes.")
@click.option("--reference", type=FILE, help="Recording of the voice, of 3 to 10 seconds.")
@click.option("--reference-text", metavar="TEXT", help="What it says; --gpt goes on from there.")
@click.option("--reference-semantic", metavar="IDS", help="Codes of what it says.")
@click.option("--speaker-vector", type=FILE, help="Of the recording, for v2Pro and v2ProPlus: an .npy file.")
@click.option("--store", type=STORAGE_PATH, help="Instead of a recording: all that is known of")
@click.option("--utterance", metavar="UTT", help="this utterance (an id, or a number) of it.")
@click.option("--text", required=True, help="What is to be said.")
@click.option("--language", default="en", show_default=True)
@click.option("--bert", type=FILE, help="BERT features of the phones of TEXT: an .npy file.")
@click.option("--semantic", metavar="IDS", help="Codes of TEXT, numbers between spaces, instead of --gpt.")
@click.option("--out", type=LOCAL_PATH, required=True, help="WAV file.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--top-k", type=click.IntRange(1), default=15, show_default=True, help="1 says what is likeliest.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Of codes in question.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="0 takes no chances.")
@click.option("--repetition-penalty", type=click.FloatRange(1), default=1.35, show_default=True)
@click.option("--speed", type=click.FloatRange(0.5, 2), default=1.0, show_default=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@output.handle_errors
def sample(**options: Any) -> None:
    """Say a text in the voice of a recording, or of an utterance of a store."""
    from headrace.train.inference.synthesis import Saying, speak

    output.log(speak(Saying(**options)))
