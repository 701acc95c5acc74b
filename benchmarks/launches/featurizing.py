"""Kernels, copies and waits of featurizing on CUDA, for an hour of audio.

    python -m benchmarks.launches.featurizing [--hours 1]

The torch engine runs on the CPU and is counted as `benchmarks.launches` counts. A launch takes the host about 5 us;
what the device needs for an hour's bytes is computed by `benchmarks.engines`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest import mock

import click
import numpy as np
from torch import Tensor

from benchmarks import report
from benchmarks.gpu.speech import utterances
from benchmarks.launches import LaunchCounter
from headrace.featurize.pipeline.presets import get_preset
from headrace.featurize.spectral import cuda_engine
from headrace.featurize.spectral.dsp import SpectralRecipe

PRESET = "gpt-sovits-v2"
LAUNCH_US = 5.0
"""Of the host."""


class CopyCounter(LaunchCounter):
    """Counts copies between host and device apart: those that the engine makes from and to memory of the host."""

    copies = 0
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "copy_":
            self.copies, self.bytes = self.copies + 1, self.bytes + args[1].nbytes
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


def counted(waves: Iterable[np.ndarray], recipe: SpectralRecipe) -> dict[str, float]:
    """Return launches, copies, bytes that they move, synchronisations, batches and batches in flight at most."""
    made = cuda_engine.BatchedEngine(recipe, "cpu")
    in_flight, most, batches = 0, 0, 0
    submit, results = made._submit, cuda_engine.PendingBatch.results

    def submitted(batch: Any) -> Any:
        nonlocal in_flight, most, batches
        in_flight, batches = in_flight + 1, batches + 1
        most = max(most, in_flight)
        return submit(batch)

    def landed(pending: Any) -> Any:
        nonlocal in_flight
        in_flight -= 1
        return results(pending)

    with (
        mock.patch.object(made, "_submit", submitted),
        mock.patch.object(cuda_engine.PendingBatch, "results", landed),
        mock.patch.object(made, "_send", lambda host: Tensor.copy_(host.clone(), host)),
        CopyCounter() as counter,
    ):
        for _ in made.spectra(enumerate(waves)):
            pass
    return {
        "launches": counter.total,
        "copies": counter.copies,
        "MB": counter.bytes / 1e6,
        "synchronisations": counter.synchronisations.total(),
        "batches": batches,
        "batches in flight": most,
    }


@click.command()
@click.option("--hours", default=1.0, show_default=True)
def main(hours: float) -> None:
    recipe = get_preset(PRESET).spectral
    waves = [wave[: len(wave) // recipe.hop * recipe.hop] for wave in utterances(hours * 3600, recipe.sample_rate)]
    found = counted(waves, recipe)
    length = sum(map(len, waves)) / recipe.sample_rate / 3600
    per_hour = {name: value / length for name, value in found.items() if name != "batches in flight"}
    rows = list(per_hour.items())
    rows += [("ms of the host to launch", per_hour["launches"] * LAUNCH_US / 1e3)]
    rows += [("batches in flight at most", found["batches in flight"])]
    text = report.table((f"of {length:.2f} hours, {PRESET}, for an hour", "torch engine"), rows)
    click.echo(text)
    report.save("launches-featurizing", text, {"hours": length, "found": found})


if __name__ == "__main__":
    main()
