"""`featurize`: compute a feature store from recordings and transcripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output, untranscribed
from headrace.cli.feature_options import feature_options, pop_feature_options
from headrace.cli.fence import Commands
from headrace.cli.metrics_options import (
    machine_collectors,
    metrics_config,
    metrics_options,
    open_metrics,
    pop_metrics_options,
)
from headrace.cli.options import (
    FILE,
    POSITIVE,
    STORAGE_PATH,
    Number,
    device_option,
    json_option,
    option,
    scheduler_option,
    split_names,
    store_argument,
    strict_option,
    without_none,
    workers_option,
)
from headrace.featurize.corpus.formats.known_formats import FORMATS
from headrace.store.errors import UsageError

if TYPE_CHECKING:
    from headrace.cli.progress import BuildProgress
    from headrace.featurize.pipeline.build import BuildConfig
    from headrace.featurize.pipeline.observer import BuildObserver
    from headrace.featurize.pipeline.presets import Preset
    from headrace.featurize.telemetry.exporter import MetricsExporter
    from headrace.store.storage import StoragePath

SYMBOLS = ("gpt-sovits-v1", "gpt-sovits-v2", "headrace-ipa")
PRESET = "gpt-sovits-v2"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Turn recordings and transcripts into a store of features for training."""


main.add_command(untranscribed.split)
main.add_command(untranscribed.join_texts)

_CORPUS_OPTIONS = (
    click.argument("corpus", type=STORAGE_PATH),
    option(
        "--format",
        type=click.Choice(FORMATS),
        metavar="NAME",
        show_default="recognised",
        help="Format of CORPUS: list, ljspeech, kaldi, lhotse, table, tree or that of a published corpus.",
    ),
    option(
        "--columns",
        metavar="WHAT=COLUMN,...",
        show_default="by their names",
        help="Read these columns of a table: audio, text, speaker, language, start, end, duration, phones, channel.",
    ),
    option(
        "--audio",
        type=STORAGE_PATH,
        metavar="DIR",
        help="Look in this folder for recordings that are not where CORPUS says.",
    ),
    option("--follow-outside", is_flag=True, help="Accept recordings that lie outside CORPUS."),
    option(
        "--max-duration",
        type=POSITIVE,
        metavar="SECONDS",
        show_default="3600",
        help="Reject utterances longer than this many seconds.",
    ),
    option(
        "--min-peak",
        type=Number(max=0),
        metavar="DB",
        show_default="-60",
        help="Reject utterances that peak below this, in dB of full scale, before they are levelled.",
    ),
    option(
        "--max-segment",
        type=POSITIVE,
        metavar="SECONDS",
        help="Split utterances longer than this many seconds at pauses of their alignment.",
    ),
    option(
        "--language",
        metavar="CODE",
        default="en",
        show_default=True,
        help="Language of utterances for which CORPUS names none.",
    ),
    option(
        "--alignments",
        type=STORAGE_PATH,
        metavar="DIR",
        show_default="CORPUS",
        help="Read alignments from this folder, which is laid out as CORPUS.",
    ),
    option(
        "--symbols",
        type=click.Choice(SYMBOLS),
        show_default="gpt-sovits-v2; headrace-ipa if CORPUS has languages that only it can write",
        help="Write phones as symbols of this table.",
    ),
    option(
        "--dictionary",
        type=FILE,
        metavar="FILE",
        show_default="that of the store",
        help="Read the words in this file as it says: lines of word, reading and language with tabs between them.",
    ),
    option(
        "--g2pw",
        type=FILE,
        metavar="FOLDER",
        help="Read Chinese characters of several readings by the network in this folder, where no phrase tells.",
    ),
    option("--strip-markup", is_flag=True, help="Drop tags, noises in brackets and marks of prosody from texts."),
    option("--preset", metavar="NAME", show_default=PRESET, help="Compute the features by this named recipe."),
    option("--recipe", type=FILE, metavar="FILE", help="Compute the features by a recipe of your own, a TOML file."),
    option(
        "--features",
        metavar="NAMES",
        default="wave,mel,mfcc,phones",
        show_default=True,
        help="Compute these features, separated by commas; those of `featurize add` may be among them.",
    ),
    workers_option("one per CPU or GPU"),
    option(
        "--engine",
        type=click.Choice(["auto", "torch", "dali"]),
        default="auto",
        show_default=True,
        help="Compute spectral features with this library.",
    ),
    device_option,
    json_option,
)


def corpus_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `scan` and `build` both take to a command."""
    for option_ in reversed(_CORPUS_OPTIONS):
        function = option_(function)
    return function


@main.command()
@corpus_options
@option(
    "--text-seconds",
    type=Number(0),
    metavar="SECONDS",
    default=10,
    show_default=True,
    help="Read texts for at most this long, in random order.",
)
@output.handle_errors
def scan(corpus: StoragePath, as_json: bool, text_seconds: float, **options: Any) -> None:
    """Report what CORPUS contains, and estimate the size of its store. Writes nothing.

    Texts are read as a build reads them: what cannot become phones is reported before anything is decoded.
    """
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_survey
    from headrace.featurize.pipeline import build
    from headrace.featurize.pipeline.estimate import estimate, summarize_corpus
    from headrace.featurize.pipeline.text_check import check_texts

    config = _config(corpus, Path("STORE"), **options)
    with BuildProgress(quiet=as_json) as progress:
        found = build.scan(config, progress)
    asked, config = config.symbols, config.with_languages_of(found.utterances)
    texts = check_texts(found.root, found.utterances, config.recipe, budget_seconds=text_seconds)
    report = summarize_corpus(found) | {"texts": texts.to_json() if texts.read else None}
    report |= {"symbols": {"table": config.symbols, "reason": build.symbols_reason(config, asked)}}
    report |= {"estimate": estimate(found, config)}
    if as_json:
        output.print_json(report)
    else:
        print_survey(report)


@main.command()
@option("--out", type=STORAGE_PATH, required=True, help="Write the store here.")
@corpus_options
@scheduler_option
@option(
    "--part-hours",
    type=POSITIVE,
    metavar="HOURS",
    show_default="by the size of CORPUS",
    help="Put this many hours of audio into a part.",
)
@option(
    "--compression",
    type=click.Choice(["none", "zstd"]),
    default="none",
    show_default=True,
    help="Compress the arrays of the store.",
)
@option(
    "--max-rejects",
    type=Number(0, 100),
    metavar="PERCENT",
    default=50,
    show_default=True,
    help="Stop as soon as it is evident that more utterances than this are rejected.",
)
@strict_option
@metrics_options
@feature_options
@output.handle_errors
def build(
    corpus: StoragePath, out: StoragePath, max_rejects: float, strict: bool, as_json: bool, **options: Any
) -> int:
    """Build a store from CORPUS, or resume a build.

    Parts that are finished are skipped. CORPUS and the store may be folders or s3://BUCKET/PREFIX.
    """
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_build
    from headrace.featurize.pipeline import build

    metrics = metrics_config(pop_metrics_options(options))
    config = _config(corpus, out, options=pop_feature_options(options), max_rejects=max_rejects / 100, **options)
    with open_metrics(metrics) as exporter, BuildProgress(quiet=as_json) as progress:
        account = build.build(config, _with_metrics(progress, exporter, out))
    if as_json:
        output.print_json(account)
    else:
        print_build(out, account)
    return output.STRICT_EXIT if strict and account["rejects"] else 0


def _with_metrics(progress: BuildProgress, exporter: MetricsExporter | None, out: StoragePath) -> BuildObserver:
    """Return the observer of a build whose metrics are exported, if they are."""
    if exporter is None:
        return progress
    from headrace.featurize.pipeline.build_metrics import BuildMetrics
    from headrace.featurize.pipeline.observer import CompositeBuildObserver
    from headrace.featurize.telemetry.exporter import common_labels

    metrics = BuildMetrics(common_labels(out))
    exporter.add(*machine_collectors("featurize build", out), metrics)
    return CompositeBuildObserver(progress, metrics)


@main.command()
@store_argument
@click.argument("features", metavar="FEATURE[,FEATURE]")
@feature_options
@workers_option("one per CPU or GPU")
@device_option
@scheduler_option
@json_option
@output.handle_errors
def add(path: StoragePath, features: str, as_json: bool, **options: Any) -> None:
    """Add features to STORE, or resume adding them.

    STORE may be a list of stores in a text file: what a feature learns is then learned from all of them.

    Features that others are computed from are added first. Parts that are finished are skipped.

    \b
    f0              fundamental frequency of each frame, by Praat
    energy          energy of each frame
    align           start and end of each phone
    confidence      how well the text fits the audio
    level           level in dB of full scale
    snr             signal-to-noise ratio in dB
    silence         share of silent frames
    clipped         share of clipped samples
    bandwidth       highest frequency in Hz
    dc_offset       mean of the samples, as a share of their level
    reverberation   reverberation time in seconds
    mos             opinion score, by DNSMOS
    repeated        1 if the speaker said the same text before
    content         content of each frame, by HuBERT or as MFCC
    semantic        semantic tokens: content, quantised
    bert            BERT features of Chinese texts
    speaker_vector  embedding of the speaker
    """
    from headrace.cli.progress import BuildProgress
    from headrace.cli.tables import print_added
    from headrace.featurize.pipeline import add_features as adder
    from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES, create_features
    from headrace.store.multi_store import store_paths
    from headrace.store.storage import parse_path

    if not (names := split_names(features)):
        raise UsageError(f"No feature is named; choose from {', '.join(DERIVED_FEATURES)}.")
    config = adder.AddConfig(store=path, features=create_features(names, pop_feature_options(options)), **options)
    with BuildProgress(quiet=as_json) as progress:
        account = adder.add(config, progress)
    if as_json:
        output.print_json(account)
        return
    of_one = {str(root): account for root in store_paths(path)[:1]}
    for store, made in account.get("stores", of_one).items():
        if "stores" in account:
            output.print_line(store)
        print_added(**made, file=parse_path(store) / "add.json")


@main.command()
@store_argument
@click.argument("features", metavar="FEATURE[,FEATURE]")
@json_option
@output.handle_errors
def drop(path: StoragePath, features: str, as_json: bool) -> None:
    """Drop features that were added to STORE, or resume dropping them.

    Another recipe can be added then. STORE may be a list of stores in a text file.
    """
    from headrace.cli.progress import BuildProgress
    from headrace.featurize.pipeline.drop_features import drop as drop_features
    from headrace.store.multi_store import store_paths

    if not (names := split_names(features)):
        raise UsageError("No feature is named: name those to drop, separated by commas.")
    with BuildProgress(quiet=as_json) as progress:
        dropped = {str(store): drop_features(store, names, progress) for store in store_paths(path)}
    if as_json:
        output.print_json({"dropped": dropped})


def _config(
    corpus: StoragePath,
    out: StoragePath,
    *,
    max_duration: float | None,
    min_peak: float | None,
    max_segment: float | None,
    preset: str | None,
    recipe: Path | None,
    features: str,
    columns: str | None,
    dictionary: Path | None,
    g2pw: Path | None,
    **rest: Any,
) -> BuildConfig:
    from headrace.featurize.audio.recording import Limits
    from headrace.featurize.corpus.formats.table_files import parse_columns
    from headrace.featurize.pipeline.build import BuildConfig
    from headrace.featurize.text.dictionary import read
    from headrace.featurize.text.languages.sinitic.polyphone_network import inspect

    return BuildConfig(
        corpus=corpus,
        out=out,
        preset=_preset(preset, recipe),
        features=split_names(features),
        limits=Limits(**without_none({"max_duration_s": max_duration, "min_peak_db": min_peak})),
        max_segment_s=max_segment,
        columns=parse_columns(columns) if columns else None,
        dictionary=read(dictionary) if dictionary else None,
        g2pw=inspect(g2pw) if g2pw else None,
        **rest,
    )


def _preset(name: str | None, recipe: Path | None) -> Preset:
    from headrace.featurize.pipeline import presets

    if name and recipe:
        raise UsageError(f"--preset {name} and --recipe {recipe}: give one of them; a recipe can extend a preset.")
    return presets.read_recipe(recipe) if recipe else presets.get_preset(name or PRESET)


if __name__ == "__main__":
    main(prog_name="featurize")
