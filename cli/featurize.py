"""`featurize`: from recordings and transcripts to a feature store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import feature_options, output
from headrace.featurize.corpus.formats import FORMATS
from headrace.store.errors import UsageError

if TYPE_CHECKING:
    from headrace.featurize.pipeline.build import BuildConfig
    from headrace.featurize.pipeline.presets import Preset
    from headrace.store.storage import StoragePath

SYMBOLS = ("gpt-sovits-v1", "gpt-sovits-v2", "headrace-ipa")
POSITIVE = click.FloatRange(0, min_open=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Turn recordings and transcripts into a store of features for training."""


def corpus_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `scan` and `build` both take."""
    for option in reversed(
        (
            click.argument("corpus", type=output.PLACE),
            click.option("--format", type=click.Choice(FORMATS), help="What CORPUS is; else recognised."),
            click.option("--follow-outside", is_flag=True, help="Accept recordings that lie outside CORPUS."),
            click.option("--longest", type=POSITIVE, metavar="SECONDS", help="Reject what is longer; else 3600."),
            click.option("--split", type=POSITIVE, metavar="SECONDS", help="Cut what is longer, at aligned pauses."),
            click.option("--language", metavar="CODE", default="en", show_default=True, help="Where CORPUS says none."),
            click.option("--alignments", type=output.PLACE, metavar="FOLDER", help="Laid out as CORPUS; else in it."),
            click.option(
                "--symbols", type=click.Choice(SYMBOLS), default=SYMBOLS[1], show_default=True, help="Table of phones."
            ),
            click.option("--preset", metavar="NAME", help="Recipe of the features; else gpt-sovits-v2."),
            click.option("--recipe", type=click.Path(path_type=Path), help="A recipe of one's own, in TOML."),
            click.option(
                "--features", default="wave,mel,mfcc,phones", show_default=True, help="Also what featurize add makes."
            ),
            click.option("--workers", type=click.IntRange(1), help="Processes; else one per CPU or GPU."),
            click.option("--engine", type=click.Choice(["auto", "torch", "dali"]), default="auto", show_default=True),
            click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else."),
        )
    ):
        function = option(function)
    return function


@main.command()
@corpus_options
@output.command
def scan(corpus: StoragePath, as_json: bool, **options: Any) -> None:
    """Tell what is in CORPUS, and what a store of it would cost. Writes nothing."""
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_survey
    from headrace.featurize.pipeline import build
    from headrace.featurize.pipeline.estimate import estimate, survey

    config = _config(corpus, Path("STORE"), **options)
    with BuildProgress(quiet=as_json) as progress:
        found = build.scan(config, progress)
    report = survey(found) | {"estimate": estimate(found, config)}
    if as_json:
        output.emit_json(report)
    else:
        print_survey(report)


@main.command()
@corpus_options
@click.option("--out", type=output.PLACE, required=True, help="Folder of the store.")
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler whose workers do the work.")
@click.option("--part-hours", type=POSITIVE, help="Audio per part; else by size of CORPUS.")
@click.option("--compression", type=click.Choice(["none", "zstd"]), default="none", show_default=True)
@click.option("--strict", is_flag=True, help="Exit with 3 where anything was rejected.")
@feature_options.options
@output.command
def build(corpus: StoragePath, out: StoragePath, strict: bool, as_json: bool, **options: Any) -> int:
    """Build a store from CORPUS, or finish one: what is sealed is skipped. Either may be at s3://BUCKET/PREFIX."""
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_build
    from headrace.featurize.pipeline import build

    config = _config(corpus, out, options=feature_options.values(options), **options)
    with BuildProgress(quiet=as_json) as progress:
        account = build.build(config, progress)
    if as_json:
        output.emit_json(account)
    else:
        print_build(out, account)
    return output.STRICT_EXIT if strict and account["rejects"] else 0


@main.command()
@click.argument("path", metavar="STORE", type=output.PLACE)
@click.argument("features", metavar="FEATURE[,FEATURE]")
@feature_options.options
@click.option("--workers", type=click.IntRange(1), help="Processes; else one per CPU or GPU.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler whose workers do the work.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
@output.command
def add(path: StoragePath, features: str, as_json: bool, **options: Any) -> None:
    """Add features to STORE, or finish that, and before them what they are made from. What is there is skipped.

    f0 (by Praat), energy; align (times of phones, learned or by --ctc), confidence (in texts); level, snr, silence,
    clipped, mos (DNSMOS), repeated (1 if the text came before), one number an utterance; content (by HuBERT, or MFCC),
    semantic (its codes), bert (for Chinese), speaker_vector.
    """
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_added
    from headrace.featurize.pipeline import add_features as adder
    from headrace.featurize.pipeline.feature_registry import KINDS, chosen

    if not (names := _names(features)):
        raise UsageError(f"No feature is named; choose from {', '.join(KINDS)}.")
    config = adder.AddConfig(store=path, features=chosen(names, feature_options.values(options)), **options)
    with BuildProgress(quiet=as_json) as progress:
        account = adder.add(config, progress)
    if as_json:
        output.emit_json(account)
    else:
        print_added(account["added"])


def _names(features: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in features.split(",") if name.strip())


def _config(
    corpus: StoragePath,
    out: StoragePath,
    *,
    longest: float | None,
    preset: str | None,
    recipe: Path | None,
    features: str,
    **rest: Any,
) -> BuildConfig:
    from headrace.featurize.audio.recording import USUAL, Limits
    from headrace.featurize.pipeline.build import BuildConfig

    return BuildConfig(
        corpus=corpus,
        out=out,
        preset=_preset(preset, recipe),
        features=_names(features),
        limits=Limits(longest_s=longest) if longest else USUAL,
        **rest,
    )


def _preset(preset: str | None, recipe: Path | None) -> Preset:
    from headrace.featurize.pipeline import presets

    if preset and recipe:
        raise UsageError(f"--preset {preset} and --recipe {recipe}: give one of them; a recipe can extend a preset.")
    return presets.read_recipe(recipe) if recipe else presets.named(preset or "gpt-sovits-v2")


if __name__ == "__main__":
    main()
