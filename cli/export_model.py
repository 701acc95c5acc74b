"""`train export`: trained weights for GPT-SoVITS, or as graphs of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import FILE, LOCAL_PATH, STORAGE_PATH, at_option, option
from headrace.store.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.store.storage import StoragePath
    from headrace.train.models.speech_reference import Reference

GPT_SOVITS, INT8 = "gpt-sovits", "onnx-int8"


@click.command()
@click.argument("run", type=FILE)
@option(
    "--out",
    type=LOCAL_PATH,
    metavar="PATH",
    required=True,
    help="Write this file; in a folder it is named as GPT-SoVITS names it. ONNX: write this new folder.",
)
@option(
    "--to",
    type=click.Choice([GPT_SOVITS, "onnx", INT8]),
    default=GPT_SOVITS,
    show_default=True,
    help="Export for GPT-SoVITS, or for ONNX Runtime, as it is or smaller and faster in INT8.",
)
@at_option("Export this checkpoint: best, newest, or a step.")
@option("--mixed-origins", is_flag=True, help="Export a model that was trained on MFCC too.")
@option(
    "--store",
    type=STORAGE_PATH,
    metavar="STORE",
    show_default="that of the voice",
    help="ONNX: export an utterance of this store along. INT8: calibrate on its utterances.",
)
@option(
    "--utterance",
    metavar="UTTERANCE",
    show_default="that of the voice",
    help="ONNX: id or number of the utterance that is exported along, as a reference to speak with.",
)
@option("--hubert", type=FILE, metavar="FOLDER", help="ONNX: export HuBERT along, for codes of recordings.")
@output.handle_errors
def export(
    run: Path, out: Path, to: str, store: StoragePath | None, utterance: str | None, hubert: Path | None, **options: Any
) -> None:
    """Export the best weights of RUN, or of both runs of a voice.

    For GPT-SoVITS they are in half precision, with their config, as it loads them. As ONNX they are graphs that are
    compared with torch before they appear; in INT8 they are compared with those too. ONNX takes files of weights in
    place of RUN too.
    """
    options["at"] = options["at"] or ""
    if hubert is not None and to != "onnx":
        raise UsageError("--hubert is for --to onnx, whose hubert.onnx serves a folder in INT8 too: leave it out.")
    if to == GPT_SOVITS:
        if store is not None or utterance is not None:
            raise UsageError("--store and --utterance are for --to onnx and onnx-int8: leave them out.")
        _export_gpt_sovits(run, out, options)
        return
    if options["mixed_origins"]:
        raise UsageError(f"--mixed-origins is for --to {GPT_SOVITS}: leave it out.")
    _export_onnx(run, out, store, utterance, options["at"], hubert, int8=to == INT8)


def _export_gpt_sovits(run: Path, out: Path, options: dict[str, Any]) -> None:
    from headrace.train import voice
    from headrace.train.checkpoints.trained_models import export_run

    is_voice = (run / voice.FILE).exists()
    options["log"] = output.log
    exported = voice.export_voice(run, out, **options) if is_voice else [export_run(run, out, **options)]
    for file, version in exported:
        click.echo(f"{file}: {version}")


def _export_onnx(
    run: Path, out: Path, store: StoragePath | None, utterance: str | None, at: str, hubert: Path | None, *, int8: bool
) -> None:
    from headrace.train.deployment import onnx_export
    from headrace.train.inference.network_features import load_hubert
    from headrace.train.voice import default_reference, store_of_voice

    calibrating = (store or store_of_voice(run)) if int8 else None
    no_store = UsageError("INT8 is calibrated on utterances of a store: give it by --store.")
    if int8 and calibrating is None and run.is_file():  # files of weights do not say that they were trained for INT8
        raise no_store
    networks = onnx_export.load_networks(run, at, output.log)
    if not networks.part(trained=False).stages:
        calibrating = None
    elif int8 and calibrating is None:
        raise no_store
    given = None if int8 and utterance is None else store
    reference = default_reference(run, given, utterance, networks.generator, output.log)
    if hubert is not None and networks.generator is None:
        raise UsageError("--hubert needs a SoVITS generator, whose quantiser makes the codes: leave it out.")
    if int8:
        utterances: Sequence[Reference] = ()
        if calibrating is not None:
            utterances = onnx_export.calibration_utterances(calibrating, networks, output.log)
        content = onnx_export.export_int8(networks, out, utterances, reference=reference, log=output.log)
    else:
        hears = None if hubert is None or networks.generator is None else load_hubert(hubert, networks.generator)
        content = onnx_export.export_onnx(networks, out, reference=reference, hubert=hears, log=output.log)
    click.echo(f"{out}: {content['precision']}, {len(content['graphs'])} graphs, {content['bytes'] / 1e6:.1f} MB")
