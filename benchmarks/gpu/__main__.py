"""Measure on a CUDA device, and write one page.

    python -m benchmarks.gpu [--only NAME] [--dry-run] [--upstream DIR] [--device cpu --small]

Each piece takes less than nine minutes and replaces its own part of `benchmarks/results/gpu-CARD.md`, so that they can
be measured one at a time. A piece that fails is named, and the others are measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from benchmarks import report
from benchmarks.gpu import Bench, Page
from benchmarks.gpu.pieces import PIECES


@click.command()
@click.option("--only", "names", multiple=True, type=click.Choice([piece.name for piece in PIECES]))
@click.option("--dry-run", is_flag=True, help="List what would be measured.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--small", is_flag=True, help="Small inputs, to see that everything runs.")
@click.option("--upstream", type=click.Path(exists=True, file_okay=False), help="A copy of GPT-SoVITS.")
@click.option("--site", type=click.Path(exists=True, file_okay=False), help="Folder of packages that it needs.")
@click.option("--out", type=click.Path(path_type=Path), default=report.RESULTS, help="Folder of the page.")
def main(
    names: tuple[str, ...],
    dry_run: bool,
    device: str,
    small: bool,
    upstream: str | None,
    site: str | None,
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
            try:
                tables = piece.run(bench)
            except Exception:  # noqa: BLE001 whatever fails on a machine that nobody has seen, the other pieces are measured
                traceback.print_exc()
                failed.append(piece.name)
                continue
            seconds = time.perf_counter() - start
            page.add(piece, tables, seconds)
            click.echo("\n\n".join([f"{piece.name}: {seconds:.0f} s", *(table.markdown() for table in tables)]))
    click.echo(f"{page.markdown}, {page.json}")
    if failed:
        sys.exit(f"Error: these failed, see above: {', '.join(failed)}")


if __name__ == "__main__":
    main()
