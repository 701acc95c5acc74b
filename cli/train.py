"""`train`: train GPT-SoVITS from a feature store, export it, and speak with it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import bench, compare, export_model, output, speak, tune
from headrace.cli.fence import Commands
from headrace.cli.metrics_options import (
    machine_collectors,
    metrics_config,
    metrics_options,
    open_metrics,
    pop_metrics_options,
)
from headrace.cli.options import (
    COUNT,
    FILE,
    LOCAL_PATH,
    POSITIVE,
    STORAGE_PATH,
    Number,
    at_option,
    gpus_option,
    json_option,
    option,
    store_argument,
    without_none,
)
from headrace.cli.run_options import PLAN, RUN, VOICE, config_option, given_options, run_options
from headrace.store.errors import UsageError

if TYPE_CHECKING:
    from headrace.cli.run_progress import TrainProgress
    from headrace.featurize.telemetry.exporter import MetricsExporter
    from headrace.store.storage import StoragePath
    from headrace.train.config import RunConfig
    from headrace.train.monitoring.observer import Observer
    from headrace.train.voice import VoiceConfig

EPOCHS = {"sovits": 8, "gpt": 15}
"""Epochs that GPT-SoVITS trains each stage by default."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train GPT-SoVITS from a feature store, export it, and speak with it."""


main.add_command(bench.bench_training)
main.add_command(speak.sample)
main.add_command(tune.tune)
main.add_command(export_model.export)
main.add_command(compare.compare)


@main.command()
@store_argument
@option("--out", type=LOCAL_PATH, metavar="RUN", required=True, help="Write the run into this folder.")
@option("--resume", is_flag=True, help="Resume the run in --out. Its options need not be repeated.")
@gpus_option
@config_option
@option("--save-config", type=LOCAL_PATH, metavar="FILE", help="Save the options of the run for --config.")
@run_options(*RUN)
@metrics_options
@option("--summary", type=FILE, hidden=True, help="Write the summary into this file, for the launcher of --gpus.")
@json_option
@output.handle_errors
def run(
    path: StoragePath,
    out: Path,
    resume: bool,
    gpus: int | None,
    config: Path | None,
    save_config: Path | None,
    summary: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a model from STORE.

    Ctrl-C saves a checkpoint and ends the run. With --resume it continues from there, with the same result; with --gpus
    or under torchrun, the same command continues.
    """
    from headrace.train import launcher

    metrics = pop_metrics_options(options)
    launcher.end_with_launcher()
    with launcher.refusals():
        given = given_options(config, options)
        if save_config is not None and launcher.process_rank() == 0:
            _save_config(save_config, path, out, given, continues=resume or gpus is not None)
        if gpus is None:
            result = _run(path, out, resume, given, metrics, quiet=as_json)
        else:
            from headrace.cli.launched_run import run_on_gpus

            result = run_on_gpus(gpus, path, out, given, metrics, quiet=as_json)
    if result is not None:  # only the first of several processes has one
        _report_run(result, summary, as_json)


def _save_config(file: Path, path: StoragePath, out: Path, given: dict[str, Any], *, continues: bool) -> None:
    """Save all options of a run that starts, or of the run in `out` that continues."""
    from headrace.train.config import RunConfig, config_path, resumed, write_options
    from headrace.train.launcher import launched_elastically

    if (continues or launched_elastically()) and config_path(out).exists():
        run = resumed(out, given)
    else:
        run = RunConfig.from_options(store=path, out=out, **given)
    write_options(run.options(), file)


def _run(
    path: StoragePath, out: Path, resume: bool, given: dict[str, Any], metrics: dict[str, Any], *, quiet: bool
) -> dict[str, Any] | None:
    """Train in this process, alone or as one of several, and return the summary of the run."""
    from headrace.train.launcher import launched_elastically, process_rank

    exported = open_metrics(metrics_config(metrics, process_rank()))  # a port that is taken is told before torch loads
    # Set before torch is loaded: idle OpenMP threads must not spin. Beside another busy process on two cores, a step
    # takes 5.1 s with spinning threads and 0.9 s with sleeping ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of connections to a process that has ended: C++ stacks

    from headrace.cli.run_progress import TrainProgress
    from headrace.train.config import RunConfig
    from headrace.train.trainer import loop

    with exported as exporter, TrainProgress(quiet=quiet) as progress:
        changes, observer = given | {"store": path}, _with_metrics(progress, exporter, out)
        if launched_elastically():
            return loop.start_or_resume(RunConfig.from_options(store=path, out=out, **given), changes, observer)
        if resume:
            return loop.resume(out, changes, observer)
        return loop.start(RunConfig.from_options(store=path, out=out, **given), observer)


def _with_metrics(progress: TrainProgress, exporter: MetricsExporter | None, out: Path) -> Observer:
    """Return the observer of a run whose metrics are exported, if they are.

    The first process of each machine exports the figures of all GPUs of that machine.
    """
    if exporter is None:
        return progress
    from headrace.featurize.telemetry.exporter import common_labels
    from headrace.train.launcher import local_rank, process_rank
    from headrace.train.monitoring.observer import CompositeObserver
    from headrace.train.monitoring.run_metrics import RunMetrics

    metrics = RunMetrics(out, common_labels(out), process_rank())
    exporter.add(metrics, *(machine_collectors("train run", out) if local_rank() == 0 else ()))
    return CompositeObserver(progress, metrics)


def _report_run(result: dict[str, Any], summary: Path | None, as_json: bool) -> None:
    """Print the summary of a run, or write it for the launcher, which prints it."""
    from headrace.cli.run_tables import print_run

    if summary is not None:
        summary.write_text(json.dumps(result), encoding="utf-8")
    elif as_json:
        output.print_json(result)
    else:
        print_run(result)


@main.command()
@store_argument
@option("--out", type=LOCAL_PATH, metavar="VOICE", required=True, help="Write the voice into this folder.")
@option("--sovits-steps", type=COUNT, metavar="STEPS", show_default="8 epochs", help="Train sovits for so many steps.")
@option("--gpt-steps", type=COUNT, metavar="STEPS", show_default="15 epochs", help="Train gpt for so many steps.")
@option("--init-sovits", type=FILE, metavar="PATH", help="Start sovits from a run, an export or a weight file.")
@option("--init-gpt", type=FILE, metavar="PATH", help="Start gpt from a run, an export or a weight file.")
@option(
    "--codes",
    type=int,
    metavar="N",
    show_default="1024, for tiny 64",
    help="Learn a codebook of this size where STORE has no semantic tokens.",
)
@option("--samples", type=COUNT, metavar="N", default=4, show_default=True, help="Speak at most N samples at the end.")
@gpus_option
@option("--mixed-origins", is_flag=True, help="Train published weights of gpt on codes that STORE learned by k-means.")
@run_options(*VOICE)
@json_option
@output.handle_errors
def voice(
    path: StoragePath,
    out: Path,
    gpus: int | None,
    as_json: bool,
    samples: int,
    codes: int | None,
    mixed_origins: bool,
    **options: Any,
) -> None:
    """Train both models from STORE, and speak with them; or resume that.

    STORE may be a list of stores in a text file. Both models are trained on its semantic tokens, which are added where
    it has none. Whatever stops the command, the same command continues, with the same result.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as in `train run`

    from headrace.cli.run_progress import TrainProgress
    from headrace.cli.run_tables import print_run
    from headrace.train.voice import VoiceConfig, train_voice

    sovits = {"init": options.pop("init_sovits"), "init_discriminator": options.pop("init_discriminator")}
    stages: dict[str, dict[str, Any]] = {"sovits": sovits, "gpt": {"init": options.pop("init_gpt")}}
    stages["gpt"] |= {"mixed_origins": True} if mixed_origins else {}
    for stage, given in stages.items():
        steps = options.pop(f"{stage}_steps")
        given |= {"max_steps": steps} if steps else {"max_epochs": EPOCHS[stage]}
    by_stage = {stage: without_none(given) for stage, given in stages.items()}
    config = VoiceConfig(store=path, out=out, options=without_none(options), stages=by_stage, samples=samples)
    train = None if gpus is None else partial(_train_stage, gpus, quiet=as_json)
    with TrainProgress(quiet=as_json) as progress:
        summary = train_voice(config, lambda: _add_codes(config, codes, as_json), progress, train)
    if as_json:
        output.print_json(summary)
        return
    for stage in stages:
        print_run(summary[stage])
    for said in summary["samples"]:
        output.print_line(f"{said.get('file', said.get('failed'))}: {said['text']}")


def _train_stage(gpus: int, run: RunConfig, given: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Train one stage of a voice in one process for each GPU."""
    from headrace.cli.launched_run import run_on_gpus

    return run_on_gpus(gpus, run.store, run.out, given, {}, quiet=quiet)


def _add_codes(config: VoiceConfig, codes: int | None, quiet: bool) -> None:
    """Add semantic tokens to the store of a voice: by the weights that sovits starts from, or clusters of its own."""
    from headrace.cli.progress import BuildProgress
    from headrace.featurize.pipeline.add_features import AddConfig, add
    from headrace.featurize.pipeline.feature_registry import create_features

    run = config.run("sovits")
    if run.model.init is None and codes is None and run.model.preset == "tiny":
        codes = 64
    features = create_features(["semantic"], {"semantic": {"sovits": run.model.init, "codes": codes}})
    with BuildProgress(quiet=quiet) as progress:
        add(AddConfig(store=config.store, features=features, device=run.compute.device), progress)


@main.command()
@store_argument
@option(
    "--epochs", type=COUNT, metavar="EPOCHS", show_default="8, for gpt 15", help="Estimate a run of this many epochs."
)
@option(
    "--cards",
    metavar="[Mx]NxCARD,...",
    help="Compare --parallel on these: 8xH100, or 2x8xA100-40 for two machines of eight.",
)
@option(
    "--network",
    type=POSITIVE,
    metavar="GBIT/S",
    show_default="100",
    help="Rate of each machine of --cards to the others.",
)
@run_options(*PLAN)
@json_option
@output.handle_errors
def plan(
    path: StoragePath, epochs: int | None, cards: str | None, network: float | None, as_json: bool, **options: Any
) -> None:
    """Estimate the memory and the time that a run on STORE takes.

    A few steps are measured. The result says how many frames a batch may have on usual cards.
    """
    from headrace.cli.run_progress import TrainProgress
    from headrace.cli.run_tables import print_forecast
    from headrace.train.config import RunConfig
    from headrace.train.measure.clusters import NETWORK_GBIT, parse_clusters
    from headrace.train.measure.forecast import forecast

    config = RunConfig.from_options(store=path, out=Path("RUN"), **without_none(options))
    clusters = parse_clusters(cards) if cards else ()
    if network and not cards:
        raise UsageError("--network is that of the machines of --cards: give these too.")
    with TrainProgress(quiet=as_json) as progress:
        found = forecast(config, epochs or EPOCHS[config.model.stage], progress, clusters, network or NETWORK_GBIT)
    if as_json:
        output.print_json(found)
    else:
        print_forecast(found)


@main.command("list")
@click.argument("run", type=FILE)
@json_option
@output.handle_errors
def list_checkpoints(run: Path, as_json: bool) -> None:
    """List the checkpoints of RUN, or of both runs of a voice: steps, losses, ages and sizes."""
    from headrace.cli.run_tables import print_checkpoints
    from headrace.train.checkpoints.trained_models import describe_checkpoints

    found = describe_checkpoints(run)
    if as_json:
        output.print_json(found)
    else:
        print_checkpoints(found)


@main.command()
@click.argument("run", type=FILE)
@option("--out", type=LOCAL_PATH, metavar="RUN", required=True, help="Write the pruned run or voice into this folder.")
@option(
    "--channels",
    type=Number(0, 1, min_open=True, max_open=True),
    metavar="X",
    default=0.3,
    show_default=True,
    help="Prune this share of the channels.",
)
@option(
    "--layers",
    type=Number(0, 1, max_open=True),
    metavar="X",
    default=0.0,
    show_default=True,
    help="Prune this share of the layers of gpt too.",
)
@option(
    "--store",
    type=STORAGE_PATH,
    metavar="STORE",
    help="Keep what matters most over STORE, instead of the largest weights and evenly spaced layers.",
)
@at_option("Prune this checkpoint: best, newest, or a step.")
@json_option
@output.handle_errors
def prune(
    run: Path, out: Path, channels: float, layers: float, store: StoragePath | None, at: str | None, as_json: bool
) -> None:
    """Prune the model of RUN, or both models of a voice, to fewer channels, and gpt to fewer layers.

    The result is a run without any step, which train run --resume trains on: pruned models need that.
    """
    from headrace.cli.run_tables import print_pruned
    from headrace.train import voice
    from headrace.train.trainer.pruned_run import prune_run

    options: dict[str, Any] = {"layers": layers, "at": at or "", "store": store, "log": output.log}
    is_voice = (run / voice.FILE).exists()
    pruned = (
        voice.prune_voice(run, out, channels, **options) if is_voice else [prune_run(run, out, channels, **options)]
    )
    if as_json:
        output.print_json(pruned)
    else:
        print_pruned(pruned)


if __name__ == "__main__":
    main(prog_name="train")
