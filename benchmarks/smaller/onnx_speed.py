"""Speed and size of exported voices, in float32 and in INT8, beside torch.

    python -m benchmarks.smaller.onnx_speed [--preset PRESET] [--stage STAGE ...] [--rounds N]

Random weights of a preset's sizes, on one thread: sovits says 3 s from 75 codes, and gpt makes a code after 115
positions. In every round each runtime takes its turn. Times are those of the processor, and the median of rounds, as is
how many times as fast as torch in the same round. What INT8 loses is told too. It is not that of a voice: with random
weights all utterances sound much alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from headrace.train.checkpoints.origin import UNKNOWN
from headrace.train.deployment import int8, onnx_files
from headrace.train.deployment.int8 import quantise_voice
from headrace.train.deployment.onnx_export import Networks, export_onnx
from headrace.train.deployment.onnx_files import OnnxNetwork
from headrace.train.deployment.onnx_graphs import Graph, graph_groups
from headrace.train.deployment.onnx_networks import SpeechNetwork
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.presets import PRESETS, Preset
from headrace.train.models.sovits import SynthesizerTrn

CODES, PHONES, CAPACITY = 75, 40, 160
CALIBRATED = 6
STEPS = 30
"""Steps of gpt in a round: they are short."""
HEAD = ("stage", "runtime", "MB", "of the size", "CPU s", "times as fast as torch", "off torch, or off float32")


def networks(stage: str, preset: Preset) -> Networks:
    """Networks of a preset's sizes with random weights."""
    generator = SynthesizerTrn(preset.sovits).eval() if stage == "sovits" else None
    decoder = Text2SemanticDecoder(preset.gpt).eval() if stage == "gpt" else None
    if generator is not None:
        del generator.enc_q
    return Networks(generator=generator, decoder=decoder, sources={stage: "random"}, origins={stage: UNKNOWN})


def utterances(preset: Preset) -> list[dict[str, np.ndarray]]:
    """Utterances to calibrate on and to compare."""
    random = np.random.default_rng(0)
    return [
        {
            "spec": random.random((1025, 150), np.float32) * random.random((1025, 1), np.float32),
            "phones": random.integers(0, 300, PHONES),
            "codes": random.integers(0, 1024, CODES),
            "speaker": random.standard_normal(preset.sovits.speaker_channels, np.float32),
        }
        for _ in range(CALIBRATED)
    ]


def example(graph: Graph, preset: Preset) -> list[Any]:
    """Arguments of the speech network, or of the step network."""
    random = torch.Generator().manual_seed(1)
    if graph.file == onnx_files.SOVITS:
        one = utterances(preset)[0]
        given = [torch.from_numpy(one[name]) for name in ("codes", "phones", "spec")]
        given.append(torch.randn(preset.sovits.inter_channels, 2 * CODES, generator=random))
        return given + ([torch.from_numpy(one["speaker"])] if preset.sovits.speaker_channels else [])
    channels = preset.gpt.channels // preset.gpt.heads
    caches = [torch.randn(preset.gpt.heads, CAPACITY, channels, generator=random) for _ in range(2 * preset.gpt.layers)]
    return [torch.tensor([3]), torch.tensor(CODES), torch.tensor(CODES + PHONES), caches]


def measure(stage: str, preset: Preset, folder: Path, rounds: int) -> list[tuple[Any, ...]]:
    """Rows of the table, of a stage."""
    whole = networks(stage, preset)
    exported = export_onnx(whole, folder / "float32", log=click.echo)
    (folder / "int8").mkdir()
    quantised = quantise_voice(folder / "float32", folder / "int8", utterances(preset), click.echo)["quantisation"]
    graph = next(graph_groups(whole.generator, whole.decoder))[-1]
    # Torch computes its own convolutions, and not those that are exported.
    in_torch = graph.network if whole.generator is None else SpeechNetwork(whole.generator)
    arguments = example(graph, preset)
    flat = [one for value in arguments for one in (value if isinstance(value, list) else [value])]
    named = {port.name: value.numpy() for port, value in zip(graph.ports.inputs, flat, strict=True)}

    def runtime(kind: str) -> Callable[[], object]:
        network = OnnxNetwork(folder / kind / graph.file, graph.ports, threads=1)
        return lambda: network.run(named)

    calls: dict[str, Callable[[], object]] = {"torch": torch.no_grad()(lambda: in_torch(*arguments))}
    calls |= {f"ONNX Runtime, {kind}": runtime(kind) for kind in ("float32", "int8")}
    seconds = times(calls, rounds if stage == "sovits" else STEPS * rounds)
    ratios = {name: np.median(np.divide(seconds["torch"], own)) for name, own in seconds.items()}
    float32, small = (onnx_files.describe_weights(folder / kind)["bytes"] / 1e6 for kind in ("float32", "int8"))
    share = quantised.get("mel_distance", 0) / quantised.get("mel_distance_of_two_utterances", 1)
    lost = f"{share:.3f} of two utterances" if stage == "sovits" else f"{quantised['divergence']:.4f} nats"
    sizes = dict(zip(calls, (float32, float32, small), strict=True))
    difference = max(one["difference"] for one in exported["graphs"].values())
    off = dict(zip(calls, ("", f"{difference:.1e}", lost), strict=True))
    return [
        (stage, name, size, f"{size / float32:.3f}", float(np.median(seconds[name])), f"{ratios[name]:.2f}", off[name])
        for name, size in sizes.items()
    ]


def times(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The CPU-seconds of each call in every round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            found[name].append(time.process_time() - start)
    return {name: seconds[1:] for name, seconds in found.items()}  # the first one allocates


@click.command()
@click.option("--preset", "name", type=click.Choice(sorted(PRESETS)), default="v2")
@click.option("--rounds", default=8)
@click.option("--stage", "stages", multiple=True, default=("sovits", "gpt"))
def main(name: str, rounds: int, stages: tuple[str, ...]) -> None:
    """Measure, print and save a table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    int8.MAX_MEL_SHARE = float("inf")
    rows: list[tuple[Any, ...]] = []
    for stage in stages:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(stage, PRESETS[name], Path(folder), rounds)
    told = f"Random weights of {name}'s sizes, one thread. {CODES} codes are 3 s of speech."
    markdown = f"{told}\n\n{report.table(HEAD, rows)}"
    click.echo(markdown)
    report.save(f"smaller-onnx-{name.lower()}", markdown, {"rows": [dict(zip(HEAD, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
