"""Pruned runs: the model of a run with fewer channels, as a run of its own that has not made a step yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import UsageError
from headrace.store.storage import StoragePath
from headrace.store.storage.local import atomic_file
from headrace.train.checkpoints import initial_weights, trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints, random_state
from headrace.train.checkpoints.copies import CHECKPOINTS
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.checkpoints.origin import Origin
from headrace.train.checkpoints.trained_models import ChosenCheckpoint, codebook_in, weights_of
from headrace.train.config import RunConfig, config_path, read_config
from headrace.train.data.batch import Batch
from headrace.train.data.batch_plan import Position
from headrace.train.models import sizes
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.layers import WeightNorm
from headrace.train.models.narrowing import evenly_spaced, prune, with_layers
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.monitoring.observer import CompositeObserver
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage
from headrace.train.trainer.plateau import Plateau
from headrace.train.trainer.run_folder import run_folder
from headrace.train.trainer.setup import set_up

CPU = torch.device("cpu")
BATCHES = 8
"""Batches of a store by which importance is measured."""


def prune_run(
    run: Path,
    out: Path,
    channels: float,
    *,
    layers: float = 0.0,
    at: str = "",
    store: StoragePath | None = None,
    log: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Prune the model of a run, and save it as a run that begins with it.

    Of sovits the channels of decoder and flow are pruned, and those within feed-forward layers; of gpt the latter, and
    whole layers.

    Args:
        run, at: as for `trained_models.choose`.
        out: a new folder.
        channels: share of the channels that go.
        layers: share of the layers of gpt that go.
        store: measure importance over utterances of this store: of channels by the loss, to first order, of layers by
            the change of what they read. None takes the size of weights, and leaves evenly spaced layers.
        log: is told which checkpoint it is.
    Returns:
        run, stage, and of the network that speaks parameters before and after.
    Raises:
        UsageError: a share is not between 0 and 1, or `out` holds other things.
        RunError: there is no run, or `out` holds one.
    """
    _check_shares(channels, layers)
    chosen = trained_models.choose(run, read_config(run).model.stage, at, log)
    stage = chosen.config.model.stage
    if chosen.config.model.quantize:
        raise UsageError(
            f"{run} was trained for INT8, with ranges of its whole layers: prune first, then train for INT8."
        )
    weights = weights_of(chosen.state, initial_weights.NETWORKS[stage], run)
    whole = _whole_sizes(chosen, weights)
    narrow = narrowed(whole, channels, layers)
    with run_folder(out, resume=False, log=log):
        pruned = _pruned_weights(chosen, weights, whole, narrow, store, log)
        config = _config(chosen, run, out, at, narrow)
        state = _first_state(chosen, config, narrow, pruned)
        Checkpoints(out / CHECKPOINTS).save(0, state)
        with atomic_file(config_path(out)) as file:
            file.write((json.dumps(config.to_json(), indent=1) + "\n").encode())
    before, after = (sum(value.numel() for value in of.values()) for of in (weights, pruned))
    return {"run": str(out), "stage": stage, "parameters": after, "parameters_before": before}


def _check_shares(channels: float, layers: float) -> None:
    """Raise UsageError if not all shares can be pruned."""
    if not 0 < channels < 1:
        raise UsageError(f"channels is {channels}; it must be between 0 and 1: 0.3 prunes 30 %.")
    if not 0 <= layers < 1:
        raise UsageError(f"layers is {layers}; it must be at least 0 and less than 1: 0.3 prunes 30 %.")


def _whole_sizes(chosen: ChosenCheckpoint, weights: Mapping[str, Tensor]) -> SovitsConfig | GptConfig:
    """Return the sizes of the network that a run has."""
    model = chosen.config.model
    preset = PRESETS[model.preset]
    if model.stage == "gpt":
        return sizes.decoder_sizes(weights, preset.gpt)
    return sizes.generator_sizes(weights, preset.sovits)


def narrowed(whole: SovitsConfig | GptConfig, channels: float, layers: float = 0.0) -> SovitsConfig | GptConfig:
    """Return the sizes of a network without a share of the channels that can be pruned, and of a decoder's layers."""

    def left(width: int) -> int:
        """Return a multiple of 8 near the share that stays, or of 4 where there are few: kernels are fast with it."""
        multiple = 8 if width >= 32 else 4
        return min(width, max(4, multiple * round(width * (1 - channels) / multiple)))

    if isinstance(whole, GptConfig):
        fewer = max(1, round(whole.layers * (1 - layers)))
        return replace(whole, feed_forward_channels=left(whole.feed_forward_width), layers=fewer)
    return replace(
        whole,
        filter_channels=left(whole.filter_channels),
        flow_channels=left(whole.flow_width),
        decoder_channels=tuple(map(left, whole.decoder_widths)),
    )


def _pruned_weights(
    chosen: ChosenCheckpoint,
    weights: Mapping[str, Tensor],
    whole: SovitsConfig | GptConfig,
    narrow: SovitsConfig | GptConfig,
    store: StoragePath | None,
    log: Callable[[str], object],
) -> dict[str, Tensor]:
    """Return the weights of a network of sizes `narrow`, made of those of one of sizes `whole`."""
    scores = None if store is None else first_order_scores(chosen, weights, store)
    if not isinstance(whole, GptConfig) or not isinstance(narrow, GptConfig):
        return prune(weights, whole, narrow, scores)
    pruned = prune(weights, whole, replace(narrow, layers=whole.layers), scores)
    kept = evenly_spaced(whole.layers, narrow.layers)
    if store is not None and narrow.layers < whole.layers:
        changes = layer_changes(chosen, weights, store)
        kept = sorted(sorted(range(whole.layers), key=lambda layer: -changes[layer])[: narrow.layers])
    if narrow.layers < whole.layers:
        log(f"layers that stay, of {whole.layers}: {', '.join(map(str, kept))}")
    return with_layers(pruned, {"h": kept})


def first_order_scores(
    chosen: ChosenCheckpoint, weights: Mapping[str, Tensor], store: StoragePath
) -> dict[str, Tensor]:
    """Return how much the loss depends on each normalised weight, by module: |weight * gradient| over some batches.

    It is the change of the loss if the weight were 0, to first order (Molchanov et al. 2019, equation 8).

    Raises:
        StoreError, UsageError: the model cannot read this store.
    """
    scores: dict[str, Tensor] = {}
    stage, network, batches = _opened(chosen, weights, store)
    with _normalised(network) as leaves:
        for batch in batches:
            stage.objective(batch).backward()
            for module, weight in leaves.items():
                if weight.grad is not None:
                    score = (weight.detach() * weight.grad).abs()
                    scores[module] = scores[module] + score if module in scores else score
            network.zero_grad()
            for weight in leaves.values():
                weight.grad = None
    return scores


def layer_changes(chosen: ChosenCheckpoint, weights: Mapping[str, Tensor], store: StoragePath) -> list[float]:
    """Return how much each layer of a decoder changes what it reads, over some batches: 1 minus the mean cosine.

    It is the block influence of Men et al. 2024, "ShortGPT", equation 1.

    Raises:
        StoreError, UsageError: the model cannot read this store.
    """
    stage, network, batches = _opened(chosen, weights, store)
    assert isinstance(network, Text2SemanticDecoder), "layers of gpt are pruned"
    cosines: list[list[Tensor]] = [[] for _ in network.h.layers]

    def compare(of_layer: list[Tensor], _: nn.Module, read: tuple[Tensor, ...], written: Tensor) -> None:
        of_layer.append(torch.cosine_similarity(read[0], written, dim=2).mean())

    for layer, of_layer in zip(network.h.layers, cosines, strict=True):
        layer.register_forward_hook(partial(compare, of_layer))
    for batch in batches:
        stage.validate(batch)
    return [1 - float(torch.stack(of_layer).mean()) for of_layer in cosines]


def _opened(
    chosen: ChosenCheckpoint, weights: Mapping[str, Tensor], store: StoragePath
) -> tuple[Stage, nn.Module, list[Batch]]:
    """Return the stage of a run for a store, its network that speaks, with these weights, and batches of the store."""
    config = chosen.config.with_options(store=store, device="cpu", precision="fp32", teacher=None, teacher_weight=0.0)
    setup = set_up(config, CompositeObserver(), resumes=True)
    stage = setup.stage
    network: nn.Module = stage.model if isinstance(stage, GptStage) else stage.generator  # type: ignore[attr-defined]
    load_strict(network, weights, chosen.source)
    with setup.stream(Position.start()) as stream:
        return stage, network, [next(stream).to(CPU) for _ in range(min(BATCHES, stream.steps))]


@contextmanager
def _normalised(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within this context, the network computes with these normalised weights, by module, which get gradients."""
    leaves: dict[str, Tensor] = {}
    patched: list[WeightNorm] = []
    for name, module in network.named_modules():
        if isinstance(module, WeightNorm):
            weight = module.normalised().detach().requires_grad_()
            module.normalised = lambda weight=weight: weight  # type: ignore[method-assign, misc]
            leaves[name] = weight
            patched.append(module)
        elif isinstance(module, nn.Conv1d | nn.Linear):
            leaves[name] = module.weight
    try:
        yield leaves
    finally:
        for module in patched:
            del module.normalised


def _config(chosen: ChosenCheckpoint, run: Path, out: Path, at: str, narrow: SovitsConfig | GptConfig) -> RunConfig:
    """Return the config of the new run: that of a run with the old one as `init`, but for its sizes."""
    model, preset = chosen.config.model, PRESETS[chosen.config.model.preset]
    initial = initial_weights.resolve(chosen.config.with_options(init=run, at=at, teacher=None, teacher_weight=0.0))
    of_preset = preset.gpt if model.stage == "gpt" else preset.sovits
    encoded = sizes.encode_pruned(narrow, of_preset, model.stage)
    return initial.with_options(out=out, init_sizes=encoded, init_discriminator=None, checkpoint_to="")


def _first_state(
    chosen: ChosenCheckpoint, config: RunConfig, narrow: Any, pruned: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return the state of a run before its first step, with these weights."""
    state = chosen.state
    origin = Origin.from_json(state.get("origin"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.model.seed)
        precision = Precision.choose("fp32", CPU)
        stage: SovitsStage | GptStage
        if isinstance(narrow, GptConfig):
            stage = GptStage(narrow, precision=precision, device=CPU, optim=GptOptimConfig.from_config(config))
            load_strict(stage.model, pruned, chosen.source)
        else:
            spectral, optim = Spectral(SpectralRecipe()), SovitsOptimConfig.from_config(config)
            stage = SovitsStage(narrow, spectral, precision=precision, device=CPU, optim=optim)
            load_strict(stage.generator, pruned, chosen.source)
            load_strict(stage.discriminator, weights_of(state, "discriminator", config.out), chosen.source)
        random = random_state(CPU)
    return {
        "kept": [],
        "stage": stage.state_dict(),
        "stream": Position.start().to_json(),
        "random": [random],
        "pieces": 1,
        "plateau": Plateau().to_json(),
        "quarantine": {},
        "store": None,
        "config": config.to_json(),
        "codebook": codebook_in(state),
        "origin": origin.to_json(),
    }
