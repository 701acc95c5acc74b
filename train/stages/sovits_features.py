"""The features of a store that SoVITS reads, and its sizes for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from headrace.featurize.features import codebooks, learned_state
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import RecipeMismatch, StoreError, UsageError
from headrace.store.reader import Store
from headrace.train.config import RunConfig
from headrace.train.data.training_data import Requirements
from headrace.train.models import sizes as model_sizes
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.stages import store_features


def network_config(config: RunConfig, store: Store) -> SovitsConfig:
    """Return the preset's sizes for a run on this store.

    With weights to begin with, or with the codebook of the store, the quantiser is frozen. Without weights, all of
    Headrace's own phones can be learnt; and `tiny`, which is never exported, has as many codes as the store.
    """
    sizes = model_sizes.apply_pruned(PRESETS[config.model.preset].sovits, config.model.init_sizes)
    of_store = choose_codebook(config, store)[0] == "store"
    codes = sizes.codebook_size
    if config.model.preset == "tiny":
        codes = config.model.init_codes or (store_codes(store) if of_store else codes)
    return replace(
        sizes,
        symbols=store_features.symbol_count(config.model, store, sizes.symbols),
        codebook_size=codes,
        p_dropout=sizes.p_dropout if config.model.dropout is None else config.model.dropout,
        freeze_quantizer=config.model.source is not None or of_store,
        activation_checkpointing=config.compute.activation_checkpointing,
    )


def requirements(config: RunConfig, store: Store) -> Requirements:
    """Return the recipes that the features of a store must have."""
    recipe, sizes = SpectralRecipe(), network_config(config, store)
    content = content_feature(config, sizes, store)
    required: dict[str, Mapping[str, Any]] = {
        "wave": store_features.wave_requirement(recipe),
        content: {"mfcc": recipe.to_json(), "content": {}, "semantic": {"codebook": sizes.codebook_size}}[content],
        "phones": store_features.phones_requirement(config.model, store),
    }
    if sizes.speaker_channels:
        required["speaker_vector"] = {}
    return required


def choose_codebook(config: RunConfig, store: Store) -> tuple[str, str]:
    """Return whose codebook a run has, `store` or `own`, and why.

    Raises:
        UsageError: that of the store is asked for, and it has none, or another one than `init`.
    """
    model, of_store = config.model, codebooks.codebook_of(store.features)
    if model.source and model.init_codebooks and model.codebook != "own":
        known = of_store in model.init_codebooks.split()
        if model.codebook == "store" and not known:
            raise UsageError(
                f"The codebook of {model.source} ({model.init_codebooks}) is not that of {store.path} "
                f"({of_store or 'not known'}): leave out --codebook store, or begin without these weights."
            )
        if _has_clusters(store) and known:
            return "store", f"{model.source} was trained on the codes of the store ({of_store})"
        return "own", f"it comes with {model.source}"
    asked, clusters = config.model.codebook, _has_clusters(store)
    if asked == "store" and not clusters:
        raise UsageError(
            f"{store.path} has no codebook that it learned: run featurize add {store.path} semantic without --sovits, "
            "or leave out --codebook store."
        )
    if asked:
        return asked, "asked for"
    if model.source:
        return "own", f"it comes with {model.source}"
    codes, expected = store_codes(store), PRESETS[config.model.preset].sovits.codebook_size
    if clusters and config.model.preset != "tiny" and codes != expected:
        return "own", f"the store's has {codes} codes, preset {config.model.preset} has {expected}"
    if clusters:
        return "store", f"its {codes} codes are those that gpt is trained on"
    return "own", "the store has none that it learned"


def store_codes(store: Store) -> int:
    """Return the number of codes of the store's codebook; 0 if it has none."""
    return int(store.features["semantic"].recipe.get("codebook", 0)) if "semantic" in store.features else 0


def _has_clusters(store: Store) -> bool:
    """Return whether the store's codes are clusters of its own content."""
    return "semantic" in store.features and store.features["semantic"].recipe.get("quantiser") == "k-means"


def read_codebook(store: Store, sizes: SovitsConfig) -> codebooks.QuantiserTensors:
    """Return the quantiser that the store's own codebook makes.

    Raises:
        StoreError: what the store learned is missing or damaged.
    """
    learned = learned_state.read(store.members[0].path, store.features["semantic"])
    learned_state.check(learned, "semantic", means=("f", sizes.codebook_size, "2 C"))
    return codebooks.from_means(torch.from_numpy(learned["means"]), sizes.ssl_channels)


def content_feature(config: RunConfig, sizes: SovitsConfig, store: Store) -> Literal["semantic", "content", "mfcc"]:
    """Return the feature from which SoVITS reads what is spoken.

    A frozen quantiser always gives the same codes for the same content. Where the store holds them they are read
    instead, a thousandth of the bytes. Clusters of k-means are codes of the store's own codebook only.
    """
    features = store.features
    if choose_codebook(config, store)[0] == "store":
        return "semantic"
    readable = "content" in features and features["content"].channels == sizes.ssl_channels
    if sizes.freeze_quantizer and _continues_content(config, store):
        return "content" if readable else "mfcc"
    if sizes.freeze_quantizer:
        complete = "semantic" in features and not len(_without_all_codes(store))
        return "content" if _has_clusters(store) or ("content" in features and not complete) else "semantic"
    return "content" if readable else "mfcc"


def _continues_content(config: RunConfig, store: Store) -> bool:
    """Return whether weights that a run begins with read content, and the store has no codes of their codebook."""
    model = config.model
    codes_are_theirs = codebooks.codebook_of(store.features) in model.init_codebooks.split()
    return model.init_reads in ("content", "mfcc") and not codes_are_theirs


def check_recipe(config: SovitsConfig, spectral: Spectral) -> None:
    """Check that spectra have the model's hop and number of bins.

    Raises:
        RecipeMismatch: they have not.
    """
    recipe = spectral.recipe
    given, expected = (recipe.hop, recipe.n_fft // 2 + 1), (config.hop, config.spec_bins)
    if given != expected:
        raise RecipeMismatch(
            f"The store's spectra have hop {given[0]} and {given[1]} bins, the model expects hop {expected[0]} and "
            f"{expected[1]} bins: build the store with the preset of the model."
        )


def check_channels(sizes: SovitsConfig, store: Store, content: str) -> None:
    """Check the channels of what SoVITS reads.

    Raises:
        UsageError: the store's content or speaker vectors have other numbers of channels.
    """
    if content == "content":
        store_features.check_channels(store, "content", sizes.ssl_channels)
    if sizes.speaker_channels:
        store_features.check_channels(store, "speaker_vector", sizes.speaker_channels)


def check_code_lengths(store: Store) -> None:
    """Check that every utterance has a code for every two frames, a last odd frame included.

    Raises:
        StoreError: one has not.
    """
    short = _without_all_codes(store)
    if len(short):
        first = int(short[0])
        raise StoreError(
            f"{len(short)} utterances of {store.path} have not one code for every two frames begun, the first is "
            f"{store.ids[first]} with {store.lengths('tokens')[first]} codes for {store.frames[first]} frames: run "
            f"featurize add {store.path} content, which can stand for them."
        )


def _without_all_codes(store: Store) -> np.ndarray:
    """Return the utterances that lack the code of a last odd frame, without which the text decoder is trained."""
    return np.flatnonzero(store.lengths("tokens") != (store.frames + 1) // 2)
