"""Setup of training, for runs and measurements: choose settings, open the store and construct the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from headrace.train import distributed
from headrace.train.checkpoints import initial_weights
from headrace.train.checkpoints.origin import Origin
from headrace.train.config import RunConfig
from headrace.train.config_sections import DistributedConfig
from headrace.train.data.batch_plan import Position
from headrace.train.data.stream import Stream, StreamConfig
from headrace.train.data.training_data import TrainingData, open_training_data
from headrace.train.monitoring.observer import Observer
from headrace.train.parallel_form import parse_form
from headrace.train.precision import Precision
from headrace.train.stages.activations_8bit import quantize_activations
from headrace.train.stages.gpt_optimizer import GptOptimConfig, falls_to_its_end
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.registry import STAGES
from headrace.train.stages.sovits_features import choose_codebook
from headrace.train.stages.stage import Stage
from headrace.train.trainer import auto_settings, cuda_settings


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything that training steps need."""

    config: RunConfig
    """The config, with automatic settings resolved."""
    device: torch.device
    precision: Precision
    data: TrainingData
    stage: Stage
    """The model, with weights drawn from the config's seed; the same on all ranks."""
    origin: Origin
    """What the features that it reads were made by."""

    def stream(self, position: Position) -> Stream:
        """Open a stream of this rank's batches from a position on."""
        config, data = self.config, self.data
        reading = auto_settings.choose_reading(data.store, self.stage.features, config.data.chunk_locality)
        together = parse_form(config.distributed.parallel).readers_share
        return Stream(
            data.store,
            self.stage.features,
            data.training,
            StreamConfig(
                batch_frames=config.data.batch_frames,
                max_utterances=config.data.max_utterances,
                fixed_shapes=config.data.fixed_shapes,
                seed=config.model.seed,
                prefetch=reading.prefetch,
                threads=reading.threads,
                chunk_locality=reading.chunk_locality,
            ),
            position=position,
            rank=distributed.rank() // together,
            world=distributed.world_size() // together,
            pin=self.device.type == "cuda",
            repeated=data.repeated,
        )


def set_up(config: RunConfig, observer: Observer, *, resumes: bool = False) -> TrainingSetup:
    """Choose automatic settings, open the store and construct the model.

    Args:
        config: `out` is not used.
        observer: receives each setting, with its reason.
        resumes: whether the weights come from a checkpoint of this run, and not from `config.model.source`.
    Raises:
        UsageError: a setting that this machine does not support, or the model cannot read these features.
        StoreError: the store is not one that this model can be trained on.
    """
    device, precision = _choose_computation(config, observer)
    frames, why = auto_settings.choose_batch_frames(config.data.batch_frames, device)
    observer.log(f"batch_frames {frames}: {why}")
    utterances, why = auto_settings.choose_max_utterances(config.data.max_utterances, frames)
    observer.log(f"max_utterances {utterances}: {why}")
    config = config.with_options(precision=precision.name, batch_frames=frames, max_utterances=utterances)
    if not resumes:
        config = initial_weights.resolve(config)
    stage_class = STAGES[config.model.stage]
    needed = partial(stage_class.requirements, config)
    data = open_training_data(config.store, needed, config.data)
    for line in data.lines():
        observer.log(line)
    if config.model.stage == "sovits":
        codebook, why = choose_codebook(config, data.store)
        observer.log(f"codebook {codebook}: {why}")
        config = config.with_options(codebook=codebook)
    torch.manual_seed(config.model.seed)
    stage = stage_class.from_config(config, data.store, precision, device)
    stage.check_store(data.store)
    origin = Origin.of_store(data.store, stage.features)
    observer.log(f"reads {', '.join(stage.features)}: {origin}")
    reading = auto_settings.choose_reading(data.store, stage.features, config.data.chunk_locality)
    config = config.with_options(chunk_locality=reading.chunk_locality)
    if not data.store.is_mapped:
        observer.log(f"reading by {reading.threads} threads, chunk_locality {reading.chunk_locality}: {reading.reason}")
    if config.compute.activations_8bit:
        quantize_activations(stage)
        observer.log("activations wait for the backward pass in 8 bits")
    setup = TrainingSetup(config=config, device=device, precision=precision, data=data, stage=stage, origin=origin)
    return _with_end(setup, observer)


def _choose_computation(config: RunConfig, observer: Observer) -> tuple[torch.device, Precision]:
    """Choose device and precision, and set what CUDA computes by.

    Raises:
        UsageError: this machine does not support a setting.
    """
    cuda_settings.prepare_allocator(config.data.fixed_shapes)
    device, reason = auto_settings.choose_device(config.compute.device)
    observer.log(f"device {device}: {reason}")
    if distributed.world_size() > 1:
        observer.log(f"{distributed.world_size()} processes: {describe_form(config.distributed)}")
    precision = Precision.choose(config.compute.precision, device, config.compute.fp32_steps)
    observer.log(f"precision {precision.reason}")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    for line in cuda_settings.apply(precision, capability, config.data.fixed_shapes):
        observer.log(line)
    return device, precision


def describe_form(config: DistributedConfig) -> str:
    """Return what several processes do with the model."""
    form = parse_form(config.parallel)
    copies, shards = form.sizes(distributed.world_size())
    if config.average_every:
        return f"gradients are summed within machines, which are averaged every {config.average_every} steps"
    if not form.is_sharded:
        return "gradients are summed over them"
    many = f", and there are {copies} copies of it" if copies > 1 else ""
    if form.kind == "tp":
        return f"each has one of {shards} parts of each layer of the model{many}"
    if form.kind == "pp":
        parts = f"{form.microbatches} parts of a batch go through them by the schedule {config.pipeline_schedule}"
        return f"each has some layers of the model, on {shards} processes, and {parts}{many}"
    return f"each keeps one of {shards} parts of the model, its gradients and its optimisers{many}"


def _with_end(setup: TrainingSetup, observer: Observer) -> TrainingSetup:
    """Return a setup whose learning rate falls over the epochs of the run, if these alone bound it and it falls."""
    config, stage = setup.config, setup.stage
    epochs = 0 if config.schedule.max_steps else config.schedule.max_epochs
    if not (epochs and isinstance(stage, GptStage) and falls_to_its_end(config)):
        return setup
    if not config.schedule.epoch_steps:
        with setup.stream(Position.start()) as stream:
            config = config.with_options(epoch_steps=-(-stream.steps // stage.optim.grad_accum))
        stage.optim = GptOptimConfig.from_config(config)
    observer.log(f"the learning rate falls until step {stage.optim.total_steps:,}, in {epochs} epochs")
    return replace(setup, config=config)
