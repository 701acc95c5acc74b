"""Featurizing on a device: agreement with the CPU, speed by itself and behind decoding, and content features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import engines
from benchmarks.gpu import Bench, Table
from benchmarks.gpu.speech import utterances, write_corpus
from headrace.featurize.corpus import scanner
from headrace.featurize.features.content import last_hidden_states
from headrace.featurize.features.network_batches import batch_by_length, shapes_for
from headrace.featurize.pipeline.presets import get_preset
from headrace.store.schema import Utterance

PRESET = "gpt-sovits-v2"
BATCH_FRAMES, STRIDE = 60 * 50, 320


def tables(found: list[engines.Table]) -> list[Table]:
    return [Table(title=title, head=head, rows=rows) for title, head, rows in found]


def engines_agree(bench: Bench) -> list[Table]:
    """Compare every engine with torch on a CPU, over some minutes."""
    recipe = get_preset(PRESET).spectral
    waves = [
        (str(number), wave[: len(wave) // recipe.hop * recipe.hop])
        for number, wave in enumerate(utterances(6 if bench.small else 300, recipe.sample_rate))
    ]
    return tables([engines.agreement(waves, recipe)])


def featurizing(bench: Bench) -> list[Table]:
    """Measure the device stage, decoding, and both together, over ten hours: recordings again and again."""
    root = write_corpus(bench.folder / "corpus", 6 if bench.small else 900)
    found = [item for item in scanner.scan(root) if isinstance(item, Utterance)]
    hours = 0.003 if bench.small else 10
    return tables(engines.on_device(root, found, get_preset(PRESET), hours, bench.device))


def content(bench: Bench) -> Iterator[Table]:
    """Measure HuBERT base, with random weights."""
    from transformers import HubertConfig, HubertModel

    sizes: dict[str, Any] = {"num_hidden_layers": 1} if bench.small else {}
    torch.manual_seed(0)
    network = HubertModel(HubertConfig(**sizes)).eval().to(bench.device)
    waves = list(utterances(6 if bench.small else 1800, 16_000))
    waves = [wave.astype(np.float32) / 32768 for wave in waves]
    rows, shapes = [], shapes_for(bench.device)
    for precision in ("fp32", "fp16" if bench.device == "cuda" else "bf16"):
        network = network.to({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision])
        with torch.inference_mode():
            last_hidden_states(network, waves[:1], shapes)
            start = time.perf_counter()
            for batch in batch_by_length(waves, BATCH_FRAMES, shapes, STRIDE):
                last_hidden_states(network, batch, shapes)[0].cpu()
        seconds, hours = time.perf_counter() - start, sum(map(len, waves)) / 16_000 / 3600
        rows.append((precision, hours, seconds / hours, 16 * seconds / hours / 60))
        head = ("precision", "hours measured", "s per hour of audio", "16 hours, minutes")
        yield Table(title="HuBERT base, from waveforms in memory", head=head, rows=rows)
