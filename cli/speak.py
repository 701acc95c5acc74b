"""`train sample`: speak a text with trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from headrace.cli import output
from headrace.cli.options import COUNT, FILE, LOCAL_PATH, STORAGE_PATH, Number, device_option, option, without_none
from headrace.store.errors import UsageError


@click.command()
@option("--text", metavar="TEXT", required=True, help="Say this text.")
@option("--language", metavar="CODE", default="en", show_default=True, help="Language of the text.")
@option("--voice", type=FILE, metavar="VOICE", help="Speak with both models of this voice, which train voice made.")
@option("--sovits", type=FILE, metavar="PATH", help="Speak with this sovits run or weight file.")
@option("--gpt", type=FILE, metavar="PATH", help="Predict semantic codes of the text with this gpt run or weight file.")
@option("--semantic", metavar="CODES", help="Speak these semantic codes, separated by spaces, instead of using --gpt.")
@option(
    "--bert",
    type=FILE,
    metavar="PATH",
    help="Make BERT features of Chinese by the network in this folder, or read them from an .npy file.",
)
@option("--reference", type=FILE, metavar="FILE", help="Take the voice from this recording of 3 to 10 seconds.")
@option("--any-length", is_flag=True, help="Take a recording that is shorter or longer.")
@option("--reference-text", metavar="TEXT", help="Text of the recording, which prompts --gpt.")
@option("--reference-language", metavar="CODE", show_default="--language", help="Language of --reference-text.")
@option("--reference-semantic", metavar="CODES", help="Semantic codes of the recording, which prompt --gpt.")
@option("--hubert", type=FILE, metavar="FOLDER", help="Make the semantic codes of the recording by this HuBERT.")
@option(
    "--speaker-vector",
    type=FILE,
    metavar="FILE",
    help="Read the speaker vector of the recording from this .npy file, for v2Pro and v2ProPlus.",
)
@option("--store", type=STORAGE_PATH, metavar="STORE", help="Take the voice from an utterance of this store.")
@option("--utterance", metavar="UTTERANCE", help="Id or number of the utterance in --store.")
@option("--out", type=LOCAL_PATH, metavar="FILE", required=True, help="Write this WAV file.")
@option("--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Seed sampling and noise.")
@option("--top-k", type=COUNT, metavar="K", default=15, show_default=True, help="Sample from the K likeliest codes.")
@option(
    "--top-p",
    type=Number(0, 1),
    metavar="P",
    default=1.0,
    show_default=True,
    help="Sample from the likeliest codes that make up this probability.",
)
@option(
    "--temperature",
    type=Number(0),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Divide the logits of codes by this; 0 always takes the likeliest.",
)
@option(
    "--repetition-penalty",
    type=Number(1),
    metavar="X",
    default=1.35,
    show_default=True,
    help="Make codes less likely that came before; 1 does not.",
)
@option(
    "--speed",
    type=Number(0.5, 2),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Speak this many times as fast.",
)
@option(
    "--pause",
    type=Number(0, 60),
    metavar="SECONDS",
    default=0.3,
    show_default=True,
    help="Be silent for so long between two sentences.",
)
@device_option
@output.handle_errors
def sample(out: Path, voice: Path | None, **options: Any) -> None:
    """Speak a text in the voice of a recording, or of an utterance of a store.

    The text is cut into sentences, which are said one after another.
    """
    if voice is not None:
        from headrace.train.voice import sample_options

        options = sample_options(voice, without_none(options))
    elif options["sovits"] is None:
        raise UsageError("Give the models by --voice, or by --sovits and --gpt.")

    from headrace.store.storage.output_files import check_output_file
    from headrace.train.inference.synthesis import SynthesisRequest, synthesize_speech

    check_output_file(out)
    speech = synthesize_speech(SynthesisRequest(**options))
    speech.write(out)
    if speech.same_codebook is False:
        output.log("it is not known whether both models use one codebook: these weights do not record it")
    rating = f", DNSMOS {speech.scores['mos']:.2f}" if speech.scores else ""
    output.log(f"{out}: {speech.seconds:.2f} s, {len(speech.codes)} codes{rating}")
