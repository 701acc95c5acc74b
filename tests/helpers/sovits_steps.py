"""A small SoVITS in training, and batches for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.data.batch import Batch
from headrace.train.models.sovits_config import SovitsConfig, tiny
from headrace.train.precision import Precision
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage

CPU = torch.device("cpu")
SMALL_SOVITS = replace(tiny(), periods=(2, 3), codebook_size=8, segment_frames=8, p_dropout=0.1)


def sovits_stage(
    config: SovitsConfig = SMALL_SOVITS,
    optim: SovitsOptimConfig | None = None,
    precision: str | Precision = "fp32",
    **more: Any,
) -> SovitsStage:
    """Return a stage whose weights are always the same, in a precision that is named or given."""
    torch.manual_seed(1)
    return SovitsStage(
        config,
        Spectral(SpectralRecipe()),
        precision=Precision.choose(precision, CPU) if isinstance(precision, str) else precision,
        device=CPU,
        optim=optim or SovitsOptimConfig(learning_rate=1e-3),
        **more,
    )


def speech_batch(frames: Sequence[int], seed: int = 0) -> Batch:
    """Return a batch of gliding harmonics with pauses and a little noise, with a spectrum like that of speech."""
    random = np.random.default_rng(seed)
    spectral = Spectral(SpectralRecipe())
    rows: dict[str, list[Tensor]] = {"wave": [], "mfcc": [], "phones": []}
    for count in frames:
        time = np.arange(count * 640) / 32_000
        phase = 2 * np.pi * np.cumsum(120 + 60 * np.sin(3 * time + random.uniform(0, 6))) / 32_000
        voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * (np.sin(9 * time) > -0.5)
        wave = (8000 * (0.3 * voice + 0.02 * random.standard_normal(len(time)))).astype(np.int16)
        rows["wave"].append(torch.from_numpy(wave).view(count, 640))
        rows["mfcc"].append(spectral.features(torch.from_numpy(wave) / 32768)[1].half())
        rows["phones"].append(torch.from_numpy(random.integers(0, 732, count // 4 + 1).astype(np.int16)))
    return Batch(
        numbers=np.arange(len(frames)),
        frames=torch.tensor(frames),
        phones_n=torch.tensor([len(row) for row in rows["phones"]]),
        tensors={name: pad_sequence(row, batch_first=True) for name, row in rows.items()},
    )


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}
