"""What it saves, costs and changes to keep activations in 8 bits (`train run --activations-8bit`), beside keeping them
as they are.

    python -m benchmarks.packing --sovits STORE --gpt STORE [--steps 300] [--preset v2]

Drift and time: two models of preset tiny with the same weights take the same batches, each step of one after the same
step of the other. Memory: one step of the preset on noise, each way in a process of its own; the peak above what the
process had before the step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.config import STAGES, RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position
from headrace.train.models.presets import PRESETS
from headrace.train.monitoring import metrics
from headrace.train.monitoring.observer import CompositeObserver
from headrace.train.precision import Precision
from headrace.train.stages.activations_8bit import quantize_activations
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage
from headrace.train.trainer.setup import set_up

WINDOW = 20
"""Steps that losses are averaged over."""
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has the C library give back memory when it is freed, so that the process is as large as what it uses."""
UTTERANCES, FRAMES = 2, 400
"""Of the step whose memory is measured: 8 s each."""


def drift(config: RunConfig, steps: int) -> dict[str, Any]:
    """Both ways, step by step."""
    ways = [set_up(config.with_options(activations_8bit=packed), CompositeObserver()) for packed in (False, True)]
    shown = ways[0].stage.tracked_metrics[0]
    losses, seconds = np.zeros((2, steps)), np.zeros((2, steps))
    states = [torch.get_rng_state()] * 2
    with ways[0].stream(Position.start()) as stream:
        for step in range(steps):
            batches = [next(stream) for _ in range(ways[0].stage.optim.grad_accum)]
            for way, setup in enumerate(ways):
                torch.set_rng_state(states[way])
                begun = time.process_time()
                losses[way, step] = metrics.to_floats(setup.stage.step(batches))[shown]
                seconds[way, step] = time.process_time() - begun
                states[way] = torch.get_rng_state()
    means = losses.reshape(2, -1, WINDOW).mean(2)
    return {
        "loss": shown,
        "exact": float(means[0, -1]),
        "packed": float(means[1, -1]),
        "furthest": float(abs(means[1] / means[0] - 1).max()),
        "time": float(np.median(seconds[1] / seconds[0])),
        "step_s": float(np.median(seconds[0])),
    }


def peak(stage: str, preset: str, packed: bool) -> float:
    """Bytes that the second step takes beside what the first one leaves. Linux."""
    made = _stage(stage, preset)
    if packed:
        quantize_activations(made)
    batch = _batch(made.features)
    made.step([batch])
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    made.step([batch])
    return _status("VmHWM") - before


def _stage(stage: str, preset: str) -> Stage:
    device = torch.device("cpu")
    precision = Precision.choose("fp32", device)
    if stage == "gpt":
        config = GptOptimConfig.for_preset(preset)
        return GptStage(PRESETS[preset].gpt, precision=precision, device=device, optim=config)
    sizes, optim = PRESETS[preset].sovits, SovitsOptimConfig.for_preset(preset)
    spectral = Spectral(SpectralRecipe())
    return SovitsStage(sizes, spectral, precision=precision, device=device, optim=optim, content="content")


def _batch(features: Sequence[str]) -> Batch:
    """Noise, in the shapes of speech: a phone every five frames."""
    frames, phones = torch.full((UTTERANCES,), FRAMES), torch.full((UTTERANCES,), FRAMES // 5)
    tensors = {
        "wave": torch.randint(-3000, 3000, (UTTERANCES, FRAMES, 640), dtype=torch.int16),
        "content": torch.randn(UTTERANCES, FRAMES, 768),
        "phones": torch.randint(1, 300, (UTTERANCES, FRAMES // 5)),
        "semantic": torch.randint(0, 1024, (UTTERANCES, FRAMES // 2)),
    }
    return Batch(
        numbers=np.arange(UTTERANCES),
        frames=frames,
        phones_n=phones,
        tokens_n=frames // 2,
        tensors={name: tensors[name] for name in features},
    )


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(name))


def _apart(preset: str, stage: str, packed: bool) -> float:
    words = [sys.executable, "-m", "benchmarks.packing", "--preset", preset, "--peak-of", stage]
    words += ["--packed"] if packed else []
    done = subprocess.run(words, env=os.environ | AT_ONCE, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


@click.command()
@click.option("--sovits", type=click.Path(path_type=Path), help="Store to train the generator on.")
@click.option("--gpt", type=click.Path(path_type=Path), help="Store to train the decoder of text on.")
@click.option("--steps", default=300, show_default=True, help=f"A multiple of {WINDOW}.")
@click.option("--preset", default="v2", show_default=True, help="Whose memory is measured.")
@click.option("--peak-of", type=click.Choice(STAGES), hidden=True)
@click.option("--packed", is_flag=True, hidden=True)
def main(sovits: Path | None, gpt: Path | None, steps: int, preset: str, peak_of: str | None, packed: bool) -> None:
    """Measure."""
    if peak_of:
        click.echo(json.dumps(peak(peak_of, preset, packed)))
        return
    found = {stage: _measure(stage, path, steps, preset) for stage, path in (("sovits", sovits), ("gpt", gpt)) if path}
    write(found, steps, preset)


def write(found: dict[str, dict[str, Any]], steps: int, preset: str) -> None:
    """Of each stage what `_measure` found."""
    rows = [
        (
            stage,
            f"{one['loss']} {one['exact']:.4g}",
            f"{one['packed']:.4g}",
            f"{one['furthest']:.2%}",
            f"{one['time']:.2f}",
            f"{one['bytes'][0] / 2**30:.2f}",
            f"{one['bytes'][1] / 2**30:.2f}",
        )
        for stage, one in found.items()
    ]
    head = ("stage", "exact", "in 8 bits", "furthest apart", "CPU time", f"GiB of {preset}", "in 8 bits")
    said = (
        f"Losses: means of the last {WINDOW} of {steps} steps of preset tiny on a CPU, and how far those means lie "
        f"apart at most. CPU time: of a step in 8 bits, over one that is exact. GiB: one step of preset {preset} on "
        f"{UTTERANCES} utterances of 8 s, above weights and optimiser."
    )
    markdown = f"{said}\n\n{report.table(head, rows)}"
    report.save("packing", markdown, {"steps": steps, "preset": preset, **found})
    click.echo(markdown)


def _measure(stage: str, store: Path, steps: int, preset: str) -> dict[str, Any]:
    config = RunConfig.from_options(
        store=store, out=Path("RUN"), stage=stage, preset="tiny", batch_frames=300, max_utterances=3, max_steps=steps
    )
    sizes = [_apart(preset, stage, way) for way in (False, True)]
    return drift(config, steps) | {"bytes": sizes}


if __name__ == "__main__":
    main()
