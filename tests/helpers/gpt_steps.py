"""A small text-to-semantic decoder in training, and batches for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from headrace.train.data.batch import Batch
from headrace.train.models.gpt_config import GptConfig
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage

CPU = torch.device("cpu")
SMALL_GPT = GptConfig(symbols=20, codes=16, channels=32, heads=2, layers=2, dropout=0.1)
GPT_OPTIM = GptOptimConfig(schedule="warmup_cosine", warmup_steps=10, total_steps=100, grad_accum=2)


def gpt_stage(
    config: GptConfig = SMALL_GPT,
    optim: GptOptimConfig = GPT_OPTIM,
    precision: str | Precision = "fp32",
    bert: bool = False,
    **more: Any,
) -> GptStage:
    """Return a stage whose weights are always the same, in a precision that is named or given."""
    torch.manual_seed(1)
    chosen = Precision.choose(precision, CPU) if isinstance(precision, str) else precision
    return GptStage(config, precision=chosen, device=CPU, optim=optim, bert=bert, **more)


def text_batch(codes_n: list[int], seed: int = 0, bert: bool = False) -> Batch:
    """Return a batch in which each phone is spoken as three codes that are a function of it."""
    random = np.random.default_rng(seed)
    phones = [torch.from_numpy(random.integers(0, 20, -(-n // 3)).astype(np.int16)) for n in codes_n]
    codes = [
        ((row.long()[:, None] * 5 + torch.arange(3)) % 16).flatten()[:n].to(torch.int16)
        for row, n in zip(phones, codes_n, strict=True)
    ]
    tensors = {"phones": phones, "semantic": codes}
    if bert:
        tensors["bert"] = [torch.randn(len(row), 1024).half() for row in phones]
    return Batch(
        numbers=np.arange(len(codes_n)),
        frames=torch.tensor(codes_n) * 2,
        phones_n=torch.tensor([len(row) for row in phones]),
        tokens_n=torch.tensor(codes_n),
        tensors={name: pad_sequence(rows, batch_first=True) for name, rows in tensors.items()},
    )
