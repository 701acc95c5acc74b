"""Weights that were made with fewer symbols go on with as many."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from headrace.featurize.text.symbols import FIRST_IPA_COUNT
from headrace.train.checkpoints.load_weights import keep_first_symbols
from headrace.train.models.sovits_config import FIRST_IPA_SYMBOLS, SYMBOLS


def test_a_run_of_the_first_table_goes_on_with_its_symbols() -> None:
    """The optimiser keeps the parameter, and its state is the checkpoint's."""
    assert FIRST_IPA_SYMBOLS == FIRST_IPA_COUNT
    old, new = (nn.Embedding(count, 4) for count in (FIRST_IPA_SYMBOLS, SYMBOLS["headrace-ipa"]))
    optimizers = [torch.optim.AdamW(embedding.parameters()) for embedding in (old, new)]
    ids = torch.tensor([3, FIRST_IPA_SYMBOLS - 1])

    def update(embedding: nn.Embedding, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        embedding(ids).square().sum().backward()
        optimizer.step()

    update(old, optimizers[0])
    keep_first_symbols(new, old.weight)
    new.load_state_dict(old.state_dict())
    optimizers[1].load_state_dict(deepcopy(optimizers[0].state_dict()))
    for embedding, optimizer in zip((old, new), optimizers, strict=True):
        update(embedding, optimizer)
    assert torch.equal(old.weight, new.weight) and new.num_embeddings == FIRST_IPA_SYMBOLS


def test_weights_of_another_table_are_left_to_be_refused() -> None:
    embedding = nn.Embedding(SYMBOLS["headrace-ipa"], 4)
    keep_first_symbols(embedding, torch.zeros(SYMBOLS["gpt-sovits-v2"], 4))
    assert embedding.num_embeddings == SYMBOLS["headrace-ipa"]
