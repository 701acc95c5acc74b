"""The models that can be trained, behind one face; what each reads from a store, and what it begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import RunError, StoreError, UsageError
from headrace.store.reader import Store
from headrace.train.checkpoints import upstream_files
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.training_data import Requirements
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits_config import SYMBOLS, SovitsConfig
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.microbatch import Pieces
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage

*UPSTREAMS, OWN = SYMBOLS
"""Tables of phones that upstream's weights know, the first of them by v1's alone; and ours."""
ADAMW = {"optimizer": "adamw", "first_rate": 1e-6, "peak_rate": 3e-4, "last_rate": 1e-5}
"""For gpt, instead of ScaledAdam, whose rates are relative to the size of each tensor."""


class Optim(Protocol):
    @property
    def accumulate(self) -> int:
        """Batches of an update."""


class Stage(Protocol):
    """A model in training, as the loop knows it."""

    precision: Precision
    pieces: Pieces
    features: tuple[str, ...]
    """What it reads from a store."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the terms that a person follows; the first is the loss that validations are compared by."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Feature to the number of ids that the model knows."""

    @property
    def optim(self) -> Optim: ...

    @property
    def learning_rate(self) -> float:
        """Of the next update."""

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One update from batches of the host. 0-d tensors; `skipped` is among them."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Mean losses of a batch of the device. Changes nothing."""

    def end_epoch(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def requirements(config: RunConfig, store: Store) -> Requirements:
    """What the features of a store must be made like; of several that would do, the best that it holds."""
    phones = {"phones": {"symbols": _table(config, store)}}
    if config.model.stage == "gpt":
        codes = {"semantic": {"codebook": decoder_sizes(config, store).codes}}
        heard = {"wave": _wave(SpectralRecipe())} if config.monitoring.voice else {}
        return phones | codes | heard | ({"bert": {}} if "bert" in store.features else {})
    recipe, sizes = SpectralRecipe(), generator_sizes(config, store)
    made = {"mfcc": recipe.to_json(), "content": {}, "semantic": {"codebook": sizes.codebook_size}}
    content = content_source(sizes, store)
    of_voice: Requirements = {"speaker_vector": {}} if sizes.speaker_channels else {}
    return {"wave": _wave(recipe), content: made[content], **phones, **of_voice}


def make(config: RunConfig, store: Store, precision: Precision, device: torch.device) -> Stage:
    """The stage, with weights of torch's global generator.

    Raises:
        RecipeMismatch, UsageError: the model cannot read these features.
    """
    asked = {
        "accumulate": config.optim.grad_accum,
        "max_norm": config.optim.max_grad_norm,
        "warmup": config.optim.warmup_steps,
    }
    policy: dict[str, Any] = {name: value for name, value in asked.items() if value}
    if config.model.stage == "gpt":
        decoder, gpt_optim = decoder_sizes(config, store), GptOptimConfig.for_preset(config.model.preset)
        if config.optim.optimizer == "adamw":
            policy |= ADAMW
        if config.optim.warmup_steps or config.optim.optimizer == "adamw":
            policy |= {"schedule": "warmup_cosine", "total": config.schedule.max_steps or gpt_optim.total}
        policy |= {"preference": config.optim.dpo, "misaligned": config.optim.upstream_mask}
        policy |= {"recompute": config.compute.activation_checkpointing}
        gpt_optim = replace(gpt_optim, **policy)
        _check_width(store, "bert", decoder.bert_channels)
        return GptStage(decoder, precision=precision, device=device, optim=gpt_optim, bert="bert" in store.features)
    sizes = generator_sizes(config, store)
    for name, width in (("content", sizes.ssl_channels), ("speaker_vector", sizes.speaker_channels)):
        if name in requirements(config, store):
            _check_width(store, name, width)
    return SovitsStage(
        sizes,
        Spectral(SpectralRecipe()),
        precision=precision,
        device=device,
        optim=replace(SovitsOptimConfig.for_preset(config.model.preset), **policy),
        content=content_source(sizes, store),
    )


def content_source(sizes: SovitsConfig, store: Store) -> Literal["semantic", "content", "mfcc"]:
    """The feature that SoVITS learns what is spoken from. A frozen quantiser makes the same codes of the same content
    for ever: then they are read where they are there, at a thousandth of the bytes."""
    there = store.features
    if sizes.freeze_quantizer:
        clusters = "semantic" in there and there["semantic"].recipe.get("quantiser") == "k-means"  # are no quantiser's
        whole = "semantic" in there and not len(_short_of_codes(store))
        return "content" if clusters or ("content" in there and not whole) else "semantic"
    of_this_width = "content" in there and there["content"].channels == sizes.ssl_channels
    return "content" if of_this_width else "mfcc"


def initialise(stage: Stage, config: RunConfig) -> list[str]:
    """Begin with the weights that the config names. Returns a line for each file.

    Raises:
        RunError: as `upstream.initialise`.
    """
    modules: dict[str, nn.Module] = {"init": stage.model} if isinstance(stage, GptStage) else {}
    if isinstance(stage, SovitsStage):
        modules = {"init": stage.generator, "init_discriminator": stage.discriminator}
    said = []
    for name, module in modules.items():
        if path := getattr(config.model, name):
            upstream_files.initialise(module, path)
            said.append(f"{name}: {len(module.state_dict())} tensors of {path}")
    if isinstance(stage, SovitsStage) and config.model.init:
        said.append(f"quantiser frozen: content is {stage.features[1]}")
    return said


def check_lengths(stage: Stage, store: Store) -> None:
    """
    Raises:
        StoreError: SoVITS is to read codes, and an utterance has not one for every two frames.
    """
    if not isinstance(stage, SovitsStage) or "semantic" not in stage.features:
        return
    short = _short_of_codes(store)
    if len(short):
        first = int(short[0])
        raise StoreError(
            f"{len(short)} utterances of {store.path} have not one code for every two frames begun, the first is "
            f"{store.ids[first]} with {store.lengths('tokens')[first]} codes for {store.frames[first]} frames: run "
            f"featurize add {store.path} content, which can stand for them."
        )


def check_ids(stage: Stage, store: Store, batch: Batch) -> None:
    """
    Args:
        batch: on the host.
    Raises:
        RunError: an id is none that the model knows; on a device that would be an assertion without a name.
    """
    for feature in batch.tensors.keys() & stage.limits.keys():
        ids, limit = batch[feature], stage.limits[feature]
        outside = (ids < 0) | (ids >= limit)
        if outside.any():
            row = int(outside.any(1).int().argmax())
            first = int(ids[row][outside[row]][0])
            raise RunError(
                f"{store.ids[batch.numbers[row]]} in {store.path} has the {feature} id {first}, and this model "
                f"knows 0 to {limit - 1}: train with the preset that the ids were made for."
            )


def _short_of_codes(store: Store) -> np.ndarray:
    """Utterances whose last frame has no code, where their number is odd: the decoder of text is trained without."""
    return np.flatnonzero(store.lengths("tokens") != (store.frames + 1) // 2)


def generator_sizes(config: RunConfig, store: Store) -> SovitsConfig:
    """Sizes of SoVITS as the preset has them, with room for all phones of a table that upstream has not."""
    sizes, begun = PRESETS[config.model.preset].sovits, config.model.init is not None
    symbols = sizes.symbols if _table(config, store) in UPSTREAMS else SYMBOLS[OWN]
    return replace(
        sizes, symbols=symbols, freeze_quantizer=begun, activation_checkpointing=config.compute.activation_checkpointing
    )


def decoder_sizes(config: RunConfig, store: Store) -> GptConfig:
    """Sizes of the decoder of text, likewise. `tiny`, which nobody exports, has as many codes as the store."""
    sizes = PRESETS[config.model.preset].gpt
    symbols = sizes.symbols if _table(config, store) in UPSTREAMS else SYMBOLS[OWN]
    of_store = config.model.preset == "tiny" and not config.model.init and "semantic" in store.features
    codes = store.features["semantic"].recipe.get("codebook", sizes.codes) if of_store else sizes.codes
    return replace(sizes, symbols=symbols, codes=codes)


def _table(config: RunConfig, store: Store) -> str:
    """The table of phones that a store has to have: its own, where the model begins from nothing or knows it."""
    found = store.features["phones"].recipe.get("symbols") if "phones" in store.features else None
    return str(found) if found in UPSTREAMS or (found == OWN and not config.model.init) else UPSTREAMS[-1]


def _wave(recipe: SpectralRecipe) -> dict[str, Any]:
    return {"sample_rate": recipe.sample_rate, "hop": recipe.hop}


def _check_width(store: Store, name: str, expected: int) -> None:
    found = store.features[name].channels if name in store.features else expected
    if found != expected:
        raise UsageError(
            f"{name} of {store.path} has {found} channels, this model reads {expected}: train with the preset that it "
            "was made for."
        )
