"""Measure what 8-bit activations (`train run --activations-8bit`) save, what they cost and how losses change.

    python -m benchmarks.activations_8bit --sovits STORE --gpt STORE [--steps 300] [--preset v2]

Loss and time: two models of preset tiny start from the same weights and train on the same batches, in turns. Memory:
one step of the preset on noise, exact and in 8 bits, each in its own process; the peak above what the process used
before the step.
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
from headrace.train.config import RunConfig
from headrace.train.config_sections import STAGES
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
FREE_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment in which the C library returns freed memory at once, so that a process is as large as what it uses."""
UTTERANCES, FRAMES = 2, 400
"""Size of the step whose memory is measured: utterances, and frames of each (8 s)."""


def compare_losses(config: RunConfig, steps: int) -> dict[str, Any]:
    """Train exactly and with 8-bit activations, in turns, and compare losses and times."""
    setups = [
        set_up(config.with_options(activations_8bit=quantized), CompositeObserver()) for quantized in (False, True)
    ]
    metric = setups[0].stage.tracked_metrics[0]
    losses, seconds = np.zeros((2, steps)), np.zeros((2, steps))
    states = [torch.get_rng_state()] * 2
    with setups[0].stream(Position.start()) as stream:
        for step in range(steps):
            batches = [next(stream) for _ in range(setups[0].stage.optim.grad_accum)]
            for which, setup in enumerate(setups):
                torch.set_rng_state(states[which])
                started = time.process_time()
                losses[which, step] = metrics.to_floats(setup.stage.step(batches))[metric]
                seconds[which, step] = time.process_time() - started
                states[which] = torch.get_rng_state()
    means = losses.reshape(2, -1, WINDOW).mean(2)
    return {
        "loss": metric,
        "exact": float(means[0, -1]),
        "packed": float(means[1, -1]),
        "furthest": float(abs(means[1] / means[0] - 1).max()),
        "time": float(np.median(seconds[1] / seconds[0])),
        "step_s": float(np.median(seconds[0])),
    }


def peak_memory(stage: str, preset: str, quantized: bool) -> float:
    """Return the peak of bytes in the second step, above those in use after the first one. Linux only."""
    model = _stage(stage, preset)
    if quantized:
        quantize_activations(model)
    batch = _batch(model.features)
    model.step([batch])
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    model.step([batch])
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
    """Return a batch of noise in the shapes of speech: a phone every five frames."""
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


def _peak_in_subprocess(preset: str, stage: str, quantized: bool) -> float:
    command = [sys.executable, "-m", "benchmarks.activations_8bit", "--preset", preset, "--peak-of", stage]
    command += ["--quantized"] if quantized else []
    done = subprocess.run(command, env=os.environ | FREE_AT_ONCE, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


@click.command()
@click.option("--sovits", type=click.Path(path_type=Path), help="Store to train SoVITS on.")
@click.option("--gpt", type=click.Path(path_type=Path), help="Store to train the GPT on.")
@click.option("--steps", default=300, show_default=True, help=f"A multiple of {WINDOW}.")
@click.option("--preset", default="v2", show_default=True, help="Preset whose memory is measured.")
@click.option("--peak-of", type=click.Choice(STAGES), hidden=True)
@click.option("--quantized", is_flag=True, hidden=True)
def main(sovits: Path | None, gpt: Path | None, steps: int, preset: str, peak_of: str | None, quantized: bool) -> None:
    """Measure memory, time and loss of training with 8-bit activations."""
    if peak_of:
        click.echo(json.dumps(peak_memory(peak_of, preset, quantized)))
        return
    found = {stage: _measure(stage, path, steps, preset) for stage, path in (("sovits", sovits), ("gpt", gpt)) if path}
    write(found, steps, preset)


def write(found: dict[str, dict[str, Any]], steps: int, preset: str) -> None:
    """Write what `_measure` found for each stage, as a table and as JSON."""
    rows = [
        (
            stage,
            f"{row['loss']} {row['exact']:.4g}",
            f"{row['packed']:.4g}",
            f"{row['furthest']:.2%}",
            f"{row['time']:.2f}",
            f"{row['bytes'][0] / 2**30:.2f}",
            f"{row['bytes'][1] / 2**30:.2f}",
        )
        for stage, row in found.items()
    ]
    head = ("stage", "exact", "in 8 bits", "largest difference", "CPU time", f"GiB of {preset}", "in 8 bits")
    notes = (
        f"Losses: means of the last {WINDOW} of {steps} steps of preset tiny on a CPU, and the largest difference of "
        f"such means. CPU time: of a step in 8 bits, relative to an exact one. GiB: one step of preset {preset} on "
        f"{UTTERANCES} utterances of 8 s, above weights and optimiser."
    )
    markdown = f"{notes}\n\n{report.table(head, rows)}"
    report.save("activations-8bit", markdown, {"steps": steps, "preset": preset, **found})
    click.echo(markdown)


def _measure(stage: str, store: Path, steps: int, preset: str) -> dict[str, Any]:
    config = RunConfig.from_options(
        store=store, out=Path("RUN"), stage=stage, preset="tiny", batch_frames=300, max_utterances=3, max_steps=steps
    )
    peaks = [_peak_in_subprocess(preset, stage, quantized) for quantized in (False, True)]
    return compare_losses(config, steps) | {"bytes": peaks}


if __name__ == "__main__":
    main()
