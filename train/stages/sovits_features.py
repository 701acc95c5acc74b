"""The features of a store that SoVITS reads, and its sizes for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.train.config import RunConfig
from headrace.train.data.training_data import Requirements
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.stages import store_features


def network_config(config: RunConfig, store: Store) -> SovitsConfig:
    """Return the preset's sizes for a run on this store.

    With pretrained weights the quantiser is frozen. Without them, all of Headrace's own phones can be learnt.
    """
    sizes = PRESETS[config.model.preset].sovits
    return replace(
        sizes,
        symbols=store_features.symbol_count(config.model, store, sizes.symbols),
        freeze_quantizer=config.model.init is not None,
        activation_checkpointing=config.compute.activation_checkpointing,
    )


def requirements(config: RunConfig, store: Store) -> Requirements:
    """Return the recipes that the features of a store must have."""
    recipe, sizes = SpectralRecipe(), network_config(config, store)
    content = content_feature(sizes, store)
    required: dict[str, Mapping[str, Any]] = {
        "wave": store_features.wave_requirement(recipe),
        content: {"mfcc": recipe.to_json(), "content": {}, "semantic": {"codebook": sizes.codebook_size}}[content],
        "phones": store_features.phones_requirement(config.model, store),
    }
    if sizes.speaker_channels:
        required["speaker_vector"] = {}
    return required


def content_feature(sizes: SovitsConfig, store: Store) -> Literal["semantic", "content", "mfcc"]:
    """Return the feature from which SoVITS reads what is spoken.

    A frozen quantiser always gives the same codes for the same content. Where the store holds them they are read
    instead, a thousandth of the bytes. Clusters of k-means are not codes of a quantiser.
    """
    features = store.features
    if sizes.freeze_quantizer:
        clusters = "semantic" in features and features["semantic"].recipe.get("quantiser") == "k-means"
        complete = "semantic" in features and not len(_without_all_codes(store))
        return "content" if clusters or ("content" in features and not complete) else "semantic"
    readable = "content" in features and features["content"].channels == sizes.ssl_channels
    return "content" if readable else "mfcc"


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
