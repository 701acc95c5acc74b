"""`train sample`: speak a text with trained models."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import COUNT, FILE, LOCAL_PATH, STORAGE_PATH, Number, at_option, option, without_none
from headrace.store.errors import UsageError
from headrace.store.storage import read_file

if TYPE_CHECKING:
    from headrace.train.inference.synthesis import Speaker, SpokenSentence, SynthesisRequest
    from headrace.train.inference.voice_networks import VoiceNetworks


@click.command()
@option("--text", metavar="TEXT", help="Say this text.")
@option("--text-file", type=FILE, metavar="FILE", help="Say each line of this text, as a WAV file of its own in --out.")
@option("--language", metavar="CODE", default="en", show_default=True, help="Language of the text.")
@option(
    "--dictionary",
    type=FILE,
    metavar="FILE",
    show_default="that of --store",
    help="Read the words in this file as it says: lines of word, reading and language with tabs between them.",
)
@option(
    "--g2pw",
    type=FILE,
    metavar="FOLDER",
    help="Read Chinese characters of several readings by the network in this folder, where no phrase tells.",
)
@option(
    "--voice",
    type=FILE,
    metavar="VOICE",
    help="Speak with both models of this voice, which train voice made, or train export --to onnx.",
)
@option(
    "--runtime",
    type=click.Choice(["torch", "onnx"]),
    show_default="as --voice is",
    help="Compute by torch, or by ONNX Runtime, without torch, a --voice of train export --to onnx.",
)
@option("--sovits", type=FILE, metavar="PATH", help="Speak with this sovits run or weight file.")
@option("--gpt", type=FILE, metavar="PATH", help="Predict semantic codes of the text with this gpt run or weight file.")
@at_option("Speak with this checkpoint of runs: best, newest, or a step.")
@option("--mixed-origins", is_flag=True, help="Speak with models whose codes have different origins all the same.")
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
@option("--out", type=LOCAL_PATH, metavar="PATH", help="Write this WAV file; of --text-file, into this folder.")
@option("--stream", is_flag=True, help="Write raw audio to stdout, each sentence as soon as it is spoken.")
@option(
    "--phone-models",
    type=STORAGE_PATH,
    metavar="STORE",
    show_default="--store, or that of a run",
    help="Check by the phone models of this store, which align learned, that all words are said.",
)
@option(
    "--attempts",
    type=COUNT,
    metavar="N",
    default=4,
    show_default=True,
    help="Say a sentence at most N times until it comes out whole.",
)
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
@option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Compute on this device; mps is Apple's.",
)
@output.handle_errors
def sample(
    text: str | None,
    text_file: Path | None,
    out: Path | None,
    stream: bool,
    voice: Path | None,
    runtime: str | None,
    **options: Any,
) -> None:
    """Speak a text in the voice of a recording, or of an utterance of a store.

    The text is cut into sentences, which are said one after another. Of --text-file each line becomes a WAV file of
    its own, which is named by the number of the line.
    """
    began = time.perf_counter()
    if (text is None) == (text_file is None):
        raise UsageError("Say what to speak either by --text or by --text-file.")
    if (out is None) != stream:
        raise UsageError("Say where the speech goes: either --out, or --stream into a pipe.")
    if stream and sys.stdout.isatty():
        raise UsageError("--stream writes raw audio, which no terminal shows: pipe it into a player or a file.")
    exported = _exported_voice(voice, runtime)
    options = _models(voice, options) if exported is None else _models_of_onnx(exported, options)
    lines = _lines(text_file) if text_file is not None else {0: text or ""}
    files = {} if out is None else _output_files(out, lines, single=text_file is None)

    from headrace.train.inference.synthesis import Speaker, SynthesisRequest

    options["at"] = options.get("at") or ""
    request = SynthesisRequest(**options)
    speaker = Speaker(request, output.log, None if exported is None else _load_onnx(exported, request))
    loaded = time.perf_counter()
    spoken = {number: speaker.speak(line, check=not stream) for number, line in lines.items()}
    if stream:
        _stream(speaker, itertools.chain.from_iterable(spoken.values()), began, loaded)
    for number, file in files.items():
        _write(speaker, spoken[number], file)
    if speaker.without_bert:
        output.log("Chinese was spoken without the features of BERT, which GPT-SoVITS reads of it: give them by --bert")
    if speaker.unchecked:
        output.log(f"it was not checked whether words were skipped or repeated: {speaker.unchecked}")
    if speaker.same_codebook is False:
        output.log("it is not known whether both models use one codebook: these weights do not record it")


def _exported_voice(voice: Path | None, runtime: str | None) -> Path | None:
    """Return the folder of `train export --to onnx` that is to speak; None where torch computes."""
    if runtime == "onnx" and voice is None:
        raise UsageError("--runtime onnx speaks with a folder that train export --to onnx wrote: give it by --voice.")
    is_exported = voice is not None and (voice / "onnx.json").exists()
    return voice if runtime == "onnx" or (runtime is None and is_exported) else None


def _models(voice: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a request that torch computes."""
    if voice is not None:
        from headrace.train.voice import sample_options

        return sample_options(voice, without_none(options))
    if options["sovits"] is None:
        raise UsageError("Give the models by --voice, or by --sovits and --gpt.")
    return options


_ONLY_TORCH = {
    "sovits": "the models are those of --voice: leave it out",
    "gpt": "the models are those of --voice: leave it out",
    "at": "the models are those of --voice: leave it out, or export with it",
    "hubert": "it was given to train export, or give the codes of the recording by --reference-semantic",
    "phone_models": "phone models are computed by torch: leave it out",
    "mixed_origins": "both models of --voice are of one origin: leave it out",
}
"""What an exported voice cannot do, and what to do."""


def _models_of_onnx(voice: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a request that ONNX Runtime computes. Raises UsageError for what it cannot do."""
    for name, reason in _ONLY_TORCH.items():
        if options[name]:
            raise UsageError(f"--{name.replace('_', '-')} is not for an exported voice: {reason}.")
    if options["device"] not in ("auto", "cpu"):
        raise UsageError(f"--device {options['device']} is not for an exported voice, which speaks on the CPU.")
    if options["bert"] is not None and options["bert"].is_dir():
        raise UsageError(
            "--bert is a folder, and BERT is computed by torch: give an .npy file with the features of the text."
        )
    return options | {"sovits": voice, "gpt": voice if options["semantic"] is None else None}


def _load_onnx(voice: Path, request: SynthesisRequest) -> VoiceNetworks:
    from headrace.train.deployment.onnx_voice import OnnxRuntimeVoice

    return OnnxRuntimeVoice(voice, decoder=request.gpt is not None)


def _lines(file: Path) -> dict[int, str]:
    """Return the lines of a text file that are not empty, by their numbers from 1. Raises UsageError."""
    try:
        content = read_file(file).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"Cannot read --text-file {file}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--text-file {file} is not in UTF-8, at byte {error.start}: save it in that.") from error
    lines = {number: line.strip() for number, line in enumerate(content.splitlines(), 1) if line.strip()}
    if not lines:
        raise UsageError(f"--text-file {file} holds no text.")
    return lines


def _output_files(out: Path, lines: Iterable[int], *, single: bool) -> dict[int, Path]:
    """Return the WAV file of each line, after checking that the first one can be written."""
    from headrace.store.storage.local import make_folder
    from headrace.store.storage.output_files import check_output_file

    files = {0: out} if single else {number: out / f"{number:04d}.wav" for number in lines}
    if not single:
        make_folder(out)
    check_output_file(next(iter(files.values())))
    return files


def _write(speaker: Speaker, sentences: Iterable[SpokenSentence], file: Path) -> None:
    """Write sentences into one file, and say what became of them."""
    speech = speaker.join(list(sentences))
    speech.write(file)
    for number, sentence in enumerate(speech.sentences, 1):
        _remark(number, sentence)
    rating = f", DNSMOS {speech.scores['mos']:.2f}" if speech.scores else ""
    count = f", {len(speech.sentences)} sentences" if len(speech.sentences) > 1 else ""
    output.log(f"{file}: {speech.seconds:.2f} s, {len(speech.codes)} codes{count}{rating}")


def _stream(speaker: Speaker, sentences: Iterable[SpokenSentence], began: float, loaded: float) -> None:
    """Write sentences to stdout as soon as each is spoken, and say when the first one was heard."""
    from headrace.train.models.wave_output import raw_audio

    rate, samples = speaker.sample_rate, 0
    for number, sentence in enumerate(sentences, 1):
        parts = ([speaker.pause()] if number > 1 else []) + [sentence.wave]
        for wave in parts:
            sys.stdout.buffer.write(raw_audio(wave, rate))
            samples += len(wave)
        sys.stdout.buffer.flush()
        if number == 1:
            heard = time.perf_counter()
            output.log(
                f"first sound after {heard - began:.2f} s, {heard - loaded:.2f} s after the models were loaded; raw "
                f"audio: 16 bit, little-endian, mono, {rate} Hz"
            )
        _remark(number, sentence)
    output.log(f"{samples / rate:.2f} s, {number} sentences, in {time.perf_counter() - loaded:.2f} s")


def _remark(number: int, sentence: SpokenSentence) -> None:
    """Name a sentence that did not come out whole."""
    if sentence.doubt:
        beginning = sentence.text if len(sentence.text) <= 60 else f"{sentence.text[:59]}…"
        times = f"said {sentence.attempts} times" if sentence.attempts > 1 else "said once"
        output.log(f"sentence {number} ({beginning}): {sentence.doubt}; {times}")
