"""`featurize`: from recordings and transcripts to a feature store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import render
from featurize.formats import FORMATS
from store.errors import UsageError

if TYPE_CHECKING:
    from featurize.build import BuildConfig
    from featurize.presets import Preset


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Turn recordings and transcripts into a store of features for training."""


def corpus_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `scan` and `build` both take."""
    for option in reversed(
        (
            click.argument("corpus", type=click.Path(path_type=Path)),
            click.option("--format", type=click.Choice(FORMATS), help="What CORPUS is; else recognised."),
            click.option("--follow-outside", is_flag=True, help="Accept recordings that lie outside CORPUS."),
            click.option("--preset", default="gpt-sovits-v2", show_default=True, help="Recipe of the features."),
            click.option("--features", default="wave,mel,mfcc,phones", show_default=True, help="Comma-separated."),
            click.option("--workers", type=click.IntRange(1), help="Processes; else one per core."),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else."),
        )
    ):
        function = option(function)
    return function


@main.command()
@corpus_options
@render.command
def scan(corpus: Path, as_json: bool, **options: Any) -> None:
    """Tell what is in CORPUS, and what a store of it would cost. Writes nothing."""
    from cli.progress import BuildProgress
    from cli.report import print_survey
    from featurize import build as builder
    from featurize.survey import estimate, survey

    config = _config(corpus, Path("STORE"), quiet=as_json, **options)
    with BuildProgress(quiet=as_json) as progress:
        found = builder.scan(config, progress)
    report = survey(found)
    recipe = builder.plan(found, config)[0].recipe
    report["estimate"] = estimate(found, recipe, workers=config.workers) | {"preset": config.preset.name}
    if as_json:
        render.emit_json(report)
    else:
        print_survey(report)


@main.command()
@corpus_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the store.")
@click.option("--engine", type=click.Choice(["auto", "torch"]), default="auto", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler whose workers do the work.")
@click.option("--part-hours", type=click.FloatRange(0, min_open=True), help="Audio per part; else by size of CORPUS.")
@click.option("--compression", type=click.Choice(["none", "zstd"]), default="none", show_default=True)
@click.option("--strict", is_flag=True, help="Exit with 3 where anything was rejected.")
@render.command
def build(corpus: Path, out: Path, engine: str, strict: bool, as_json: bool, **options: Any) -> int:
    """Build a store from CORPUS, or finish one: what is sealed is skipped."""
    from cli.progress import BuildProgress
    from cli.report import print_build
    from featurize import build as builder

    config = _config(corpus, out, quiet=as_json, **options)
    if not as_json:
        render.say(f"engine torch: {'asked for' if engine == 'torch' else 'the one there is'}")
    with BuildProgress(quiet=as_json) as progress:
        account = builder.build(config, progress)
    if as_json:
        render.emit_json(account)
    else:
        print_build(out, account)
    return render.STRICT_EXIT if strict and account["rejects"] else 0


def _config(
    corpus: Path,
    out: Path,
    *,
    quiet: bool,
    preset: str,
    features: str,
    workers: int | None,
    device: str,
    **rest: Any,
) -> BuildConfig:
    from featurize.build import BuildConfig

    config = BuildConfig(
        corpus=corpus,
        out=out,
        preset=_preset(preset),
        features=tuple(name.strip() for name in features.split(",") if name.strip()),
        workers=workers or os.cpu_count() or 1,
        device=_device(device, quiet),
        **rest,
    )
    if not quiet:
        render.say(f"workers {config.workers}: {'asked for' if workers else 'one per core'}")
    return config


def _preset(name: str) -> Preset:
    from featurize.presets import PRESETS

    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}; choose from {', '.join(PRESETS)}.")
    return PRESETS[name]


def _device(asked: str, quiet: bool) -> str:
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UsageError("--device cuda was asked for, but torch sees no CUDA device here: use --device cpu.")
    device = "cuda" if there and asked != "cpu" else "cpu"
    reason = "asked for" if asked != "auto" else "a CUDA device is there" if there else "no CUDA device is there"
    if not quiet:
        render.say(f"device {device}: {reason}")
    return device
