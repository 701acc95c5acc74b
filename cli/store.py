"""`store`: look at a feature store and check it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import render

if TYPE_CHECKING:
    from store.place import Place
    from store.reader import Store


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at a feature store and check it. A store is never changed by that."""


path_argument = click.argument("path", metavar="STORE", type=render.PLACE)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")


@main.command()
@path_argument
@json_option
@render.command
def info(path: Place, as_json: bool) -> None:
    """Tell what is in STORE."""
    import store
    from cli.report import print_info

    opened = store.open(path)
    report = _describe(opened)
    if as_json:
        render.emit_json(report)
    else:
        print_info(opened, report)


def _describe(opened: Store) -> dict[str, Any]:
    attributes = opened.attributes
    return {
        "preset": attributes["preset"],
        "sample_rate": opened.sample_rate,
        "hop": opened.hop,
        "utterances": len(opened),
        "hours": opened.hours,
        "parts": len(opened.parts),
        "parts_planned": attributes["plan"]["parts"],
        "complete": opened.complete,
        "rejects": len(_lines(opened.path / "rejects.jsonl")),
        "speakers": dict(Counter(opened.speakers.tolist()).most_common()),
        "languages": dict(Counter(opened.languages.tolist()).most_common()),
        "aligned": int(opened.column("aligned").sum()),
        "fingerprint": opened.fingerprint,
        "features": [_describe_feature(opened, name) for name in opened.features],
    }


def _describe_feature(opened: Store, name: str) -> dict[str, Any]:
    import numpy as np

    spec = opened.features[name]
    rows = int(opened.lengths(spec.axis).sum(dtype=np.int64))
    size = rows * np.dtype(spec.dtype).itemsize * (spec.channels or 1)
    return spec.to_json() | {"row": spec.channels or "scalar", "rows": rows, "bytes": size, "size": render.size(size)}


def _lines(path: Place) -> list[str]:
    return path.read_bytes().decode().splitlines() if path.exists() else []


@main.command()
@path_argument
@json_option
@render.command
def verify(path: Place, as_json: bool) -> int:
    """Check every checksum and every law of STORE. Exits with 1 where anything is wrong."""
    from store.layout import sealed_parts
    from store.verify import verify as find_problems

    problems = list(find_problems(path))
    parts = len(sealed_parts(path))
    if as_json:
        found = [{"where": problem.where, "what": problem.what} for problem in problems]
        render.emit_json({"parts": parts, "problems": found})
    else:
        for problem in problems:
            click.echo(f"{problem.where}: {problem.what}")
        click.echo(f"{parts} parts checked, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    return 1 if problems else 0


@main.command()
@path_argument
@click.argument("utterance", metavar="UTT")
@click.option("--out", type=click.Path(path_type=Path), help="PNG to write; else named after UTT, here.")
@render.command
def show(path: Place, utterance: str, out: Path | None) -> None:
    """Draw waveform, mel and phones of the utterance UTT (an id, or a number) of STORE into a PNG."""
    import store
    from cli.draw import draw_utterance

    opened = store.open(path)
    number = int(utterance) if utterance.isdigit() and int(utterance) < len(opened) else opened.find(utterance)
    target = out or Path(opened.ids[number].replace("/", "_")).with_suffix(".png")
    draw_utterance(opened, number, target)
    click.echo(str(target))
