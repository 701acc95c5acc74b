"""`featurize split` and `featurize join-texts`: from recordings that nobody has cut or transcribed to a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import (
    LOCAL_PATH,
    POSITIVE,
    STORAGE_PATH,
    Number,
    json_option,
    option,
    workers_option,
)

if TYPE_CHECKING:
    from headrace.store.storage import StoragePath


@click.command()
@click.argument("corpus", type=STORAGE_PATH)
@option("--out", type=LOCAL_PATH, required=True, metavar="LIST", help="Write the list here, a .tsv.")
@option(
    "--pause",
    type=POSITIVE,
    metavar="SECONDS",
    default=0.5,
    show_default=True,
    help="End a segment at a silence of this length.",
)
@option(
    "--min-length",
    type=POSITIVE,
    metavar="SECONDS",
    default=0.3,
    show_default=True,
    help="Join a shorter segment with the next, or leave it out where it lies alone.",
)
@option(
    "--max-length",
    type=POSITIVE,
    metavar="SECONDS",
    default=15.0,
    show_default=True,
    help="Cut a longer segment at its longest silences, or leave it out where it has none.",
)
@option(
    "--silence",
    type=Number(0),
    metavar="SECONDS",
    default=0.05,
    show_default=True,
    help="Keep this much silence at each end of a segment.",
)
@option(
    "--level",
    type=Number(max=0),
    metavar="DB",
    show_default="by the speech and the noise of each recording",
    help="Take for speech what is louder, in dB of full scale.",
)
@option(
    "--hysteresis",
    type=Number(0),
    metavar="DB",
    default=4.0,
    show_default=True,
    help="Extend speech, once begun, over what is at most this much quieter.",
)
@option(
    "--language", metavar="CODE", default="en", show_default=True, help="Language that is spoken in the recordings."
)
@option("--follow-outside", is_flag=True, help="Accept recordings that lie outside CORPUS.")
@workers_option("one per CPU")
@json_option
@output.handle_errors
def split(
    corpus: StoragePath,
    out: Path,
    as_json: bool,
    pause: float,
    min_length: float,
    max_length: float,
    silence: float,
    level: float | None,
    hysteresis: float,
    **options: Any,
) -> None:
    """Cut long recordings at silence: write a list of segments, whose texts `featurize join-texts` adds.

    CORPUS is a recording, or a folder of them. No audio is copied: LIST points into the recordings, and
    `featurize build LIST` reads it.
    """
    from headrace.cli.progress import PartsProgress
    from headrace.cli.tables import print_split
    from headrace.featurize.segmentation.segments import Bounds
    from headrace.featurize.segmentation.speech_activity import Activity
    from headrace.featurize.segmentation.split import SplitConfig
    from headrace.featurize.segmentation.split import split as split_recordings

    bounds = Bounds(pause=pause, shortest=min_length, longest=max_length, silence=silence)
    activity = Activity(level=level, hysteresis=hysteresis)
    with PartsProgress("cut", quiet=as_json, what="recordings") as progress:
        report = split_recordings(
            SplitConfig(corpus=corpus, out=out, activity=activity, bounds=bounds, **options), progress
        )
    if as_json:
        output.print_json(report)
    else:
        print_split(out, report)


@click.command("join-texts")
@click.argument("segments", type=LOCAL_PATH)
@click.argument("results", type=LOCAL_PATH)
@option(
    "--out", type=LOCAL_PATH, required=True, metavar="LIST", help="Write the list here, a .tsv; it may be SEGMENTS."
)
@json_option
@output.handle_errors
def join_texts(segments: Path, results: Path, out: Path, as_json: bool) -> None:
    """Add the texts that a speech recogniser found to SEGMENTS, a list of `featurize split`.

    RESULTS is a .json or .jsonl, or a folder of them, as Whisper, faster-whisper, WhisperX, whisper.cpp, Transformers,
    FunASR and NeMo write them. Texts find their segments by the times of words, or else of sentences.
    """
    from headrace.cli.tables import print_joined_texts
    from headrace.featurize.segmentation.join_texts import join_texts as join

    report = join(segments, results, out)
    if as_json:
        output.print_json(report)
    else:
        print_joined_texts(out, report)
