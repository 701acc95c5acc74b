"""`train`: from a feature store to a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import render
from train.config import BALANCES, DEVICES, PRECISIONS, PRESETS, STAGES

if TYPE_CHECKING:
    from store.place import Place


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train GPT-SoVITS from a store of features."""


@main.command()
@click.argument("store", type=render.PLACE)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--stage", type=click.Choice(STAGES), help="Which model.  [default: sovits]")
@click.option("--preset", type=click.Choice(PRESETS), help="Its sizes.  [default: v2]")
@click.option("--max-steps", type=click.IntRange(1), help="Stop after so many steps; else when interrupted.")
@click.option("--max-epochs", type=click.IntRange(1), help="Stop after so many epochs.")
@click.option("--batch-frames", type=click.IntRange(1), help="Most padded frames of a batch; else by device.")
@click.option("--max-utterances", type=click.IntRange(1), help="Most utterances of a batch; else by batch frames.")
@click.option("--where", metavar="CONDITION", help="Train on what meets it: duration < 20 and speaker != 'x'.")
@click.option("--balance", type=click.Choice(BALANCES), help="Repeat utterances of those there is little of.")
@click.option("--evenness", type=click.FloatRange(0, 1), help="Of --balance; 1 makes all equal.  [default: 0.5]")
@click.option("--seed", type=click.IntRange(0), help="Of weights, order and noise.  [default: 0]")
@click.option("--device", type=click.Choice(DEVICES), help="[default: auto]")
@click.option("--precision", type=click.Choice(PRECISIONS), help="[default: auto]")
@click.option("--checkpoint-every", type=click.IntRange(1), metavar="STEPS", help="[default: 500]")
@click.option("--validate-every", type=click.IntRange(0), metavar="STEPS", help="0 for never.  [default: 500]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; what it was told need not be said again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@render.command
def run(store: Place, out: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Train on STORE. Ctrl-C saves a checkpoint; --resume goes on from it as if nothing had happened."""
    # Before torch is loaded: threads of an idle OpenMP loop would spin. Beside one other busy process on two cores that
    # made a step take 5.1 s, sleeping threads 0.9 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from cli.training import TrainProgress, print_run
    from train import loop
    from train.config import RunConfig

    given = {name: value for name, value in options.items() if value is not None}
    with TrainProgress(quiet=as_json) as progress:
        if resume:
            summary = loop.resume(out, given | {"store": store}, progress)
        else:
            summary = loop.start(RunConfig(store=store, out=out, **given), progress)
    if as_json:
        render.emit_json(summary)
    else:
        print_run(summary)
