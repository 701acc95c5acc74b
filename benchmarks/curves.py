"""Training from nothing: do losses fall, and do they fall alike in every precision?

    python -m benchmarks.curves STORE FOLDER [--steps N] [--device cpu|cuda]

Trains the tiny SoVITS on STORE once in every precision that the device has, makes semantic codes with the quantiser
that it learnt in float32, and trains the tiny text-to-semantic decoder on those. All runs of a model begin with the
same weights and see the same batches. Runs lie in FOLDER, and go on where they were stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import report
from headrace import store
from headrace.featurize.spectral.dsp import mfcc_content
from headrace.store import index, layout
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.writer import Part, create_store, write_part
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig
from headrace.train.models.layers import length_mask
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import CompositeObserver
from headrace.train.trainer import loop

FIRST, LAST = 20, 50
"""Steps at the beginning and at the end that means are taken of; precisions are compared by the latter."""
TERMS = {"sovits": ("loss_mel", "SoVITS: mel loss, times 45"), "gpt": ("accuracy", "GPT: top-3 accuracy")}
Record = dict[str, Any]


def curve(data: Path, out: Path, stage: str, precision: str, steps: int, device: str) -> list[Record]:
    """The lines of a run, made or finished."""
    config = RunConfig.from_options(
        store=data, out=out, stage=stage, preset="tiny", precision=precision, fp32_steps=0, device=device,
        max_steps=steps, checkpoint_every=50, validate_every=50,
    )  # fmt: skip
    if not Checkpoints(out / "checkpoints").steps():
        loop.start(config, CompositeObserver())
    elif Checkpoints(out / "checkpoints").steps()[-1] < steps:
        loop.resume(out, {"max_steps": steps}, CompositeObserver())
    return [record for record in metrics.read(out / "metrics.jsonl") if record["step"] <= steps]


def coded(opened: Store, model: SynthesizerTrn, out: Path) -> Path:
    """A store of the phones of another and of the codes that a model makes of its MFCC."""
    if (out / "index").exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    recipe = {"quantiser": "tiny", "codebook": model.config.codebook_size, "hz": 25}
    spec = FeatureSpec(name="semantic", axis="tokens", dtype="int16", channels=None, recipe=recipe)
    spoken = [spec_ for spec_ in opened.features.values() if spec_.axis == "phones"]
    arrays = {s.name: np.concatenate([opened.read(s.name, n) for n in range(len(opened))]) for s in spoken}
    codes = [codes_of(model, opened.read("mfcc", n)) for n in range(len(opened))]
    columns = {name: opened.column(name) for name in opened.column_names}
    part = Part(
        number=0,
        specs=[*spoken, spec],
        arrays=arrays | {"semantic": np.concatenate(codes)},
        lengths=columns | {"tokens_n": np.array([len(row) for row in codes])},
        strings={"id": opened.ids, "speaker": opened.speakers, "language": opened.languages, "text": opened.texts},
    )
    plan = {"parts": 1, "utterances": len(opened), "digest": ""}
    features = [s.to_json() for s in part.specs]
    create_store(out, {**opened.attributes, "format": layout.FORMAT, "features": features, "plan": plan})
    write_part(out, part)
    index.write(out, index.derive(out))
    return out


@torch.no_grad()
def codes_of(model: SynthesizerTrn, mfcc: np.ndarray) -> np.ndarray:
    """One code for every two frames begun, int16."""
    frames = torch.tensor([len(mfcc)])
    content = mfcc_content(torch.tensor(mfcc)[None], frames, model.config.ssl_channels).mT
    content = F.pad(content, (0, len(mfcc) % 2))
    return model.quantise(content, length_mask(frames, content.shape[2]))[1][0].numpy().astype(np.int16)


def rows(stage: str, runs: dict[str, list[Record]]) -> list[tuple[Any, ...]]:
    """One for each precision; differences are to the first."""
    found: list[tuple[Any, ...]] = []
    for precision, records in runs.items():
        values, held = series(records, stage, "train"), series(records, stage, "validation")
        last = fmean(values[-LAST:])
        reference = found[0][3] if found else last
        difference = f"{last / reference - 1:+.2%}"
        found.append((TERMS[stage][1], precision, fmean(values[:FIRST]), last, difference, held[0], held[-1]))
    return found


def series(records: Sequence[Record], stage: str, split: str) -> list[float]:
    return [record[TERMS[stage][0]] for record in records if record["split"] == split]


def draw(found: dict[str, dict[str, list[Record]]], path: Path) -> None:
    """A panel for each model: running means of each precision, and dots where it was validated."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for (stage, runs), axes in zip(found.items(), figure.subplots(1, 2), strict=True):
        for precision, records in runs.items():
            values = np.convolve(series(records, stage, "train"), np.full(FIRST, 1 / FIRST), "valid")
            (line,) = axes.plot(np.arange(FIRST, FIRST + len(values)), values, linewidth=1, label=precision)
            held = [record["step"] for record in records if record["split"] == "validation"]
            axes.plot(held, series(records, stage, "validation"), "o", markersize=4, color=line.get_color())
        axes.set(title=TERMS[stage][1], xlabel=f"step (lines: means of {FIRST}; dots: held-out utterances)")
        axes.legend()
    figure.savefig(path, dpi=110)


@click.command()
@click.argument("data", metavar="STORE", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--steps", default=300, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(data: Path, folder: Path, steps: int, device: str) -> None:
    precisions = ("fp32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16")
    found: dict[str, dict[str, list[Record]]] = {}
    for stage in TERMS:
        if stage == "gpt":
            data = coded(store.open(data), trained_models.load_sovits(folder / "sovits-fp32"), folder / "CODES")
        found[stage] = {p: curve(data, folder / f"{stage}-{p}", stage, p, steps, device) for p in precisions}
    head = ("what", "precision", f"first {FIRST} steps", f"last {LAST}", "to fp32", "held out, first", "held out, last")
    table = report.table(head, [row for stage, runs in found.items() for row in rows(stage, runs)])
    click.echo(table)
    name = f"curves-{device}"
    text = f"{steps} steps of each, means over steps. Held-out utterances are heard every 50 steps.\n\n{table}"
    report.save(name, f"{text}\n\n![curves]({name}.png)", {"steps": steps, "rows": table.splitlines()})
    draw(found, report.RESULTS / f"{name}.png")


if __name__ == "__main__":
    main()
