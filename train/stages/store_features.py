"""Requirements of the stages on a store's features."""

from __future__ import annotations

from typing import Any

from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.errors import UsageError
from headrace.store.reader import Store
from headrace.train.config_sections import ModelConfig
from headrace.train.models.sovits_config import FIRST_IPA_SYMBOLS, SYMBOLS

*UPSTREAM_TABLES, OWN_TABLE = SYMBOLS
"""Symbol tables that published weights know, the first of them only those of v1; and Headrace's own."""
OWN_COUNTS = (FIRST_IPA_SYMBOLS, SYMBOLS[OWN_TABLE])
"""Numbers of phones that weights may know of Headrace's own table."""


def symbol_table(config: ModelConfig, store: Store) -> str:
    """Return the symbol table that a store's phones must have: its own, unless pretrained weights do not know it."""
    found = store.features["phones"].recipe.get("symbols") if "phones" in store.features else None
    knows_own = not config.source or config.init_symbols in OWN_COUNTS
    return str(found) if found in UPSTREAM_TABLES or (found == OWN_TABLE and knows_own) else UPSTREAM_TABLES[-1]


def symbol_count(config: ModelConfig, store: Store, published: int) -> int:
    """Return the number of phone ids of a model: that of its weights, `published`, or all of Headrace's own table."""
    if config.source and config.init_symbols in OWN_COUNTS:
        return config.init_symbols
    return published if symbol_table(config, store) in UPSTREAM_TABLES else SYMBOLS[OWN_TABLE]


def phones_requirement(config: ModelConfig, store: Store) -> dict[str, Any]:
    """Return the recipe that phones must have."""
    return {"symbols": symbol_table(config, store)}


def wave_requirement(recipe: SpectralRecipe) -> dict[str, Any]:
    """Return the recipe that waveforms must have for these spectra."""
    return {"sample_rate": recipe.sample_rate, "hop": recipe.hop}


def check_channels(store: Store, name: str, expected: int) -> None:
    """Check how many channels a feature has, if the store holds it.

    Raises:
        UsageError: it has another number of them.
    """
    found = store.features[name].channels if name in store.features else expected
    if found != expected:
        raise UsageError(
            f"{name} of {store.path} has {found} channels, this model reads {expected}: train with the preset that it "
            "was made for."
        )
