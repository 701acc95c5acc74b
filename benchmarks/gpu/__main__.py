"""Measure on a CUDA device, and write one page.

    python -m benchmarks.gpu [--only NAME] [--dry-run] [--upstream DIR] [--device cpu --small]

Each piece replaces its own part of `benchmarks/results/gpu-CARD.md`, so that they can be measured one at a time. After
nine minutes a piece is stopped: the page then has what it had measured, and says so. So it is with one that fails.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from benchmarks import report
from benchmarks.gpu import Bench, OutOfTime, Page, Piece, Table, limited
from benchmarks.gpu.pieces import PIECES

LIMIT_S = 540.0
"""Of a piece: machines are lent for ten minutes a command."""


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice([piece.name for piece in PIECES]))
@click.option("--dry-run", is_flag=True, help="List what would be measured.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="Small inputs, to see that everything runs.")
@click.option("--upstream", type=click.Path(exists=True, file_okay=False), help="A copy of GPT-SoVITS.")
@click.option("--site", type=click.Path(exists=True, file_okay=False), help="Folder of packages that it needs.")
@click.option("--limit", default=LIMIT_S, show_default=True, help="Seconds of a piece at most.")
@click.option("--out", type=click.Path(path_type=Path), default=report.RESULTS, help="Folder of the page.")
def main(
    names: tuple[str, ...],
    dry_run: bool,
    device: str,
    small: bool,
    upstream: str | None,
    site: str | None,
    limit: float,
    out: Path,
) -> None:
    import torch

    chosen = [piece for piece in PIECES if not names or piece.name in names]
    if dry_run:
        for piece in chosen:
            click.echo(f"{piece.name:12} {piece.measures}")
        return
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("There is no CUDA device here: --device cpu --small runs the same code on a CPU.")
    page = Page(torch.cuda.get_device_name(0) if device == "cuda" else "CPU", small, out)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device=device, small=small, folder=Path(folder), upstream=upstream or "", site=site or "")
        for piece in chosen:
            start = time.perf_counter()
            tables, ended = measured(piece, bench, limit)
            seconds = time.perf_counter() - start
            page.add(piece, tables, seconds, ended)
            failed += [piece.name] if ended else []
            click.echo("\n\n".join([f"{piece.name}: {seconds:.0f} s", *(table.markdown() for table in tables)]))
    click.echo(f"{page.markdown}, {page.json}")
    if failed:
        sys.exit(f"Error: these failed or took too long, see above: {', '.join(failed)}")


def measured(piece: Piece, bench: Bench, limit: float) -> tuple[list[Table], str]:
    """Measure a piece. Returns its tables, and why there are no more; empty if there are all."""
    tables: dict[str, Table] = {}
    try:
        with limited(limit):
            for table in piece.run(bench):
                tables[table.title] = table
    except OutOfTime:
        return list(tables.values()), f"it was stopped after {limit:.0f} s"
    except Exception as error:  # noqa: BLE001 whatever fails on a machine that nobody has seen, others are measured
        traceback.print_exc()
        return list(tables.values()), f"it failed ({type(error).__name__})"
    return list(tables.values()), ""


if __name__ == "__main__":
    main()
