"""`train compare`: what voices cost, and what they sound like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import COUNT, FILE, LOCAL_PATH, STORAGE_PATH, at_option, option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace.store.storage import StoragePath


@click.command()
@click.argument("voices", type=FILE, metavar="VOICE...", nargs=-1, required=True)
@option("--store", type=STORAGE_PATH, metavar="STORE", required=True, help="Say held-out utterances of this store.")
@option("--utterances", type=COUNT, metavar="N", default=8, show_default=True, help="Say at most N utterances.")
@at_option("Compare this checkpoint of runs: best, newest, or a step.")
@option("--json", "json_file", type=LOCAL_PATH, metavar="FILE", help="Write the results into this JSON file too.")
@option("--plot", type=LOCAL_PATH, metavar="FILE", help="Plot costs against quality into this PNG file too.")
@output.handle_errors
def compare(
    voices: tuple[Path, ...],
    store: StoragePath,
    utterances: int,
    at: str | None,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Compare voices: size, speed, memory and quality.

    A VOICE is a voice, a run, a file of weights, or a folder that train export --to onnx wrote. Each says the same
    codes of utterances, in processes of its own on the CPU. The first one is the whole one, from which the distance of
    the others is measured.
    """
    from headrace.store.storage.output_files import check_output_file, output_file
    from headrace.train.comparison.voice_comparison import compare_voices

    for file in filter(None, (json_file, plot)):
        check_output_file(file)
    found = compare_voices(voices, store, count=utterances, at=at or "", log=output.log)
    if json_file is not None:
        with output_file(json_file) as draft:
            draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from headrace.train.comparison.comparison_plot import draw_comparison

        draw_comparison(found, plot)
    _print(found)


def _print(found: Mapping[str, Any]) -> None:
    """Print what was measured, with a column for each voice."""
    voices: Sequence[Mapping[str, Any]] = found["voices"]
    table = output.make_table("", "recordings", *(one["voice"] for one in voices), numbers=True)
    table.columns[0].no_wrap = True

    def add(heading: str, form: str, values: Sequence[Any], recordings: Any = None) -> None:
        told = ["" if value is None else form.format(value) for value in (recordings, *values)]
        if any(told):
            table.add_row(heading, *told)

    def of_voices(name: str) -> list[Any]:
        return [one[name] for one in voices]

    add("computed by", "{}", of_voices("runtime"))
    add("MB", "{:,.1f}", [size / 1e6 for size in of_voices("bytes")])
    add("parameters, M", "{:,.1f}", [count / 1e6 for count in of_voices("parameters")])
    for place, cost in enumerate(voices[0]["costs"]):
        costs = [one["costs"][place] for one in voices]
        threads = "1 thread" if cost["threads"] == 1 else f"{cost['threads']} threads"
        add(f"speech s/CPU s, {threads}", "{:.2f}", [one["speech_per_cpu_s"] for one in costs])
        add(f"first sound s, {threads}", "{:.2f}", [one["first_sound_s"] for one in costs])
        add(f"peak MB, {threads}", "{:,.0f}", [one["peak_bytes"] / 1e6 for one in costs])
    add("log-mel off the first", "{:.3f}", of_voices("mel_distance"))
    add("as a share of two utterances", "{:.3f}", of_voices("mel_share"))
    add("log-mel off the recordings", "{:.3f}", of_voices("mel_distance_to_recordings"))
    add("DNSMOS", "{:.2f}", of_voices("mos"), found["recordings"]["mos"])
    add("word errors", "{:.1%}", of_voices("word_errors"), found["recordings"]["word_errors"])
    add("loss of codes", "{:.3f}", of_voices("loss"))
    add("codes in the 3 likeliest", "{:.1%}", of_voices("accuracy"))
    output.print_tables(table)
    output.print_line(f"{len(found['utterances'])} utterances of {found['store']}, {found['seconds']:.1f} s")
