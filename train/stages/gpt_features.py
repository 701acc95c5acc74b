"""The features of a store that the text-to-semantic decoder reads, and its sizes for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.reader import Store
from headrace.train.config import RunConfig
from headrace.train.data.training_data import Requirements
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.presets import PRESETS
from headrace.train.models.sizes import apply_pruned
from headrace.train.stages import store_features


def network_config(config: RunConfig, store: Store) -> GptConfig:
    """Return the preset's sizes for a run on this store.

    Without pretrained weights, all of Headrace's own phones can be learnt; and `tiny`, which is never exported, has as
    many codes as the store. What is trained for INT8 has no dropout: it learns what its teacher predicts without any.
    """
    sizes = apply_pruned(PRESETS[config.model.preset].gpt, config.model.init_sizes)
    codes, dropout = sizes.codes, 0.0 if config.model.quantize else sizes.dropout
    if config.model.preset == "tiny" and config.model.init_codes:
        codes = config.model.init_codes
    elif config.model.preset == "tiny" and not config.model.source and "semantic" in store.features:
        codes = store.features["semantic"].recipe.get("codebook", codes)
    return replace(
        sizes,
        symbols=store_features.symbol_count(config.model, store, sizes.symbols),
        codes=codes,
        dropout=dropout if config.model.dropout is None else config.model.dropout,
    )


def requirements(config: RunConfig, store: Store) -> Requirements:
    """Return the recipes that the features of a store must have."""
    required: dict[str, Mapping[str, Any]] = {
        "phones": store_features.phones_requirement(config.model, store),
        "semantic": {"codebook": network_config(config, store).codes},
    }
    if config.monitoring.voice:
        required["wave"] = store_features.wave_requirement(SpectralRecipe())
    if "bert" in store.features:
        required["bert"] = {}
    return required
