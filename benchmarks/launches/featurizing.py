"""Kernels, copies and waits of featurizing on CUDA, for an hour of audio.

    python -m benchmarks.launches.featurizing [--hours 1]

The torch engine, and HuBERT in batches of few shapes, run on the CPU and are counted as `benchmarks.launches` counts. A
launch takes the host about 5 us; what the device needs for an hour's bytes is computed by `benchmarks.engines`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from unittest import mock

import click
import numpy as np
import soxr
from torch import Tensor

from benchmarks import report
from benchmarks.gpu.speech import utterances
from benchmarks.launches import LaunchCounter, as_on_cuda
from headrace.featurize.features.content import HubertContent, last_hidden_states
from headrace.featurize.features.hubert_input import RATE
from headrace.featurize.features.network_batches import batch_by_length, shapes_for
from headrace.featurize.pipeline.presets import get_preset
from headrace.featurize.spectral import cuda_engine
from headrace.featurize.spectral.dsp import SpectralRecipe

PRESET = "gpt-sovits-v2"
PER_HOUR = ("launches", "copies", "MB", "synchronisations", "batches")
LAUNCH_US = 5.0
"""Of the host."""
NARROW: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 24, "num_attention_heads": 2, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
"""Widths of a HuBERT that launches what HuBERT base does."""


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


def counted_content(waves_16k: Sequence[np.ndarray], device: str = "cuda") -> dict[str, float]:
    """Return launches, synchronisations, batches, how many shapes these have, and their frames relative to those
    without padding, of HuBERT over a store.

    Args:
        device: whose batches are computed.
    """
    from transformers import HubertConfig, HubertModel

    shapes, stride = shapes_for(device), RATE // 50
    ordered = sorted(waves_16k, key=len)
    with as_on_cuda():
        network = HubertModel(HubertConfig(**NARROW)).eval()
        with LaunchCounter() as counter:
            made = [
                last_hidden_states(network, batch, shapes)[0].shape[:2]
                for batch in batch_by_length(ordered, HubertContent.BATCH, shapes, stride)
            ]
    sizes = [tuple(shape) for shape in made]
    frames = sum(len(wave) // stride for wave in ordered)
    return {
        "launches": counter.total,
        "synchronisations": counter.synchronisations.total(),
        "batches": len(sizes),
        "shapes": len(set(sizes)),
        "padded": sum(rows * length for rows, length in sizes) / frames,
    }


@click.command()
@click.option("--hours", default=1.0, show_default=True)
def main(hours: float) -> None:
    recipe = get_preset(PRESET).spectral
    waves = [wave[: len(wave) // recipe.hop * recipe.hop] for wave in utterances(hours * 3600, recipe.sample_rate)]
    found = counted(waves, recipe)
    content = counted_content([soxr.resample(wave, recipe.sample_rate, RATE).astype(np.float32) for wave in waves])
    length = sum(map(len, waves)) / recipe.sample_rate / 3600
    both = found, content
    rows = [(name, *[one[name] / length if name in one else "" for one in both]) for name in PER_HOUR]
    rows += [("ms of the host to launch", *[one["launches"] / length * LAUNCH_US / 1e3 for one in both])]
    rows += [("batches in flight at most", found["batches in flight"], "")]
    rows += [("shapes of batches", "", content["shapes"]), ("frames with padding", "", content["padded"])]
    text = report.table((f"of {length:.2f} hours, {PRESET}, for an hour", "torch engine", "HuBERT"), rows)
    click.echo(text)
    report.save("launches-featurizing", text, {"hours": length, "found": found, "content": content})


if __name__ == "__main__":
    main()
