"""Training of SoVITS: updates of discriminator and generator.

Shapes: B batch, F spectrogram bins, N frames of a segment, S = N * hop samples, M mel bands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from headrace.featurize.features.codebooks import codebook_of
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.advice import command
from headrace.store.errors import RecipeMismatch, UsageError
from headrace.store.reader import Store
from headrace.train import distributed
from headrace.train.checkpoints import initial_weights
from headrace.train.checkpoints.load_weights import keep_first_symbols, load_strict
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig
from headrace.train.data.batch import Batch
from headrace.train.data.training_data import Requirements
from headrace.train.distributed import GradientBuckets, ReductionOptions, ShardedNetwork, make_mesh
from headrace.train.models import losses
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.models.layers import frozen, length_mask, recompute_weights, slice_segments
from headrace.train.models.sovits import Synthesis, SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.precision import Precision, StepResult
from headrace.train.stages import sovits_features
from headrace.train.stages.cuda_graphs import EagerPasses, Pass, Passes, Terms, Work
from headrace.train.stages.microbatch import MicrobatchRunner, copied
from headrace.train.stages.sovits_inputs import RandomInputs, SovitsInputs, draw_random_inputs, prepare_inputs
from headrace.train.stages.sovits_optimizer import (
    KL_WEIGHT,
    MEL_WEIGHT,
    SovitsOptimConfig,
    in_order_of_use,
    parameter_groups,
)
from headrace.train.stages.teachers import GeneratorTeacher, imitation_loss
from headrace.train.stages.updates import (
    allocate_state,
    average_over_machines,
    evaluating,
    gradient_norm,
    idle_passes,
    over_machines,
    ranges_of,
    reduction_options,
    share_network,
    state_of,
    sum_of_parts,
    sum_terms,
    whole_network,
)


class GeneratorOutput(NamedTuple):
    """A forward pass of the generator, and the log-mel of its segments."""

    synthesis: Synthesis
    real_mel: Tensor
    """(B, N, M), of the recorded segments."""
    fake_mel: Tensor
    """(B, N, M), of the generated ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """Utterances that are computed together, and their weight in an update, since losses are means."""

    inputs: SovitsInputs
    random: RandomInputs
    utterance_share: Tensor | float = 1.0
    frame_share: Tensor | float = 1.0
    """Share of the update's utterances and frames, over all microbatches and ranks: () float32."""


class NetworkUpdate(NamedTuple):
    """What an update of one network was made of, and how it went."""

    terms: list[dict[str, Tensor]]
    """Of each microbatch: its losses, weighted by its share of the update."""
    result: StepResult


class SovitsStage:
    """Generator, discriminator and their optimisers.

    The segment of an utterance that is shorter than a segment starts at frame 0 and is padded with silence.
    """

    tracked_metrics = ("loss_mel",)
    quantisation: FakeQuantisation | None = None
    _gradients_g: GradientBuckets | ShardedNetwork
    _gradients_d: GradientBuckets | ShardedNetwork

    def __init__(
        self,
        config: SovitsConfig,
        spectral: Spectral,
        *,
        precision: Precision,
        device: torch.device,
        optim: SovitsOptimConfig,
        content: Literal["mfcc", "content", "semantic"] = "mfcc",
        codebook: str = "",
        store: object = "STORE",
        reduction: ReductionOptions = ReductionOptions(),  # noqa: B008 (immutable)
        teacher: GeneratorTeacher | None = None,
        in_int8: bool = False,
    ) -> None:
        """
        Args:
            content: the feature of what is spoken. `semantic` are codes of the model's own quantiser, which is frozen.
            codebook: digest of the codebook of the store's semantic tokens; empty if there are none, or it is unknown.
            store: its path, for the remedies of errors.
            teacher: whose speech it learns too.
            in_int8: train the generator to say with the numbers of INT8 what the teacher says.
        Raises:
            RecipeMismatch: the spectrogram is not the one that the model is built for.
        """
        _check_recipe(config, spectral)
        self.config = config
        self.features: tuple[str, ...] = ("wave", content, "phones")
        if config.speaker_channels:
            self.features = (*self.features, "speaker_vector")
        self.id_limits = {"phones": config.symbols, "semantic": config.codebook_size}
        self.optim, self.precision = optim, precision
        self.microbatches = MicrobatchRunner(tries_again=not reduction.shards)
        self.epoch, self.updates = 1, 0
        self.spectral = spectral.to(device)
        # What processes share comes to the device when it is shared out: as a whole it may be larger than that.
        first_device = "cpu" if reduction.shards else device
        self.generator = SynthesizerTrn(config).to(first_device)
        self.discriminator = MultiPeriodDiscriminator(config.periods, config.discriminator_width).to(first_device)
        self.quantisation = FakeQuantisation(self.generator.freeze_training_part()) if in_int8 else None
        self.optim_g = optim.adamw(parameter_groups(self.generator))
        self.optim_d = optim.adamw([{"params": list(self.discriminator.parameters())}])
        self._gradients_g = GradientBuckets(in_order_of_use(self.generator), reduction)
        self._gradients_d = GradientBuckets(self.discriminator.parameters(), reduction)
        self.codebook = codebook if content == "semantic" else ""
        self._store, self._store_codebook, self._reduction = store, codebook, reduction
        self._device, self._teacher = device, teacher
        self._passes: Passes = EagerPasses()
        self._discriminated: NetworkUpdate | None = None  # of an update whose generator ran out of memory
        self._set_rates()

    @classmethod
    def requirements(cls, config: RunConfig, store: Store) -> Requirements:
        """Return the recipes that the features of a store must have."""
        return sovits_features.requirements(config, store)

    @classmethod
    def from_config(cls, config: RunConfig, store: Store, precision: Precision, device: torch.device) -> SovitsStage:
        """Construct the stage for a store, with random weights from torch's global generator.

        Raises:
            UsageError: the store's content or speaker vectors have other numbers of channels.
        """
        sizes = sovits_features.network_config(config, store)
        content = sovits_features.content_feature(config, sizes, store)
        sovits_features.check_channels(sizes, store, content)
        optim, spectral = SovitsOptimConfig.from_config(config), Spectral(SpectralRecipe())
        stage = cls(
            sizes,
            spectral,
            precision=precision,
            device=device,
            optim=optim,
            content=content,
            codebook=codebook_of(store.features),
            store=store.path,
            reduction=reduction_options(config, device),
            teacher=GeneratorTeacher.load(config.model, sizes, device),
            in_int8=bool(config.model.quantize),
        )
        if sovits_features.choose_codebook(config, store)[0] == "store":
            stage.generator.set_quantiser(*sovits_features.read_codebook(store, sizes))
        return stage

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the weights of the teacher; 0 where there is none."""
        return 0 if self._teacher is None else self._teacher.weight_bytes

    def check_store(self, store: Store) -> None:
        """Check that every utterance has a code for every two frames, if codes are read.

        Raises:
            StoreError: one has not.
        """
        if "semantic" in self.features:
            sovits_features.check_code_lengths(store)

    def load_pretrained(self, config: ModelConfig) -> list[str]:
        """Load the weights that the config names. Returns a message for each file.

        Raises:
            RunError: a file cannot be read, or holds the weights of another model.
            UsageError: the codes of the store, which are read, are of another codebook.
        """
        messages = []
        judges: initial_weights.InitialWeights | None = None
        if config.source:
            initial = initial_weights.read(config.source, "generator", config.at)
            if config.init:
                messages += [f"init: {line}" for line in initial_weights.initialise(self.generator, initial)]
            else:
                messages += [f"teacher: {line}" for line in initial_weights.initialise_student(self.generator, initial)]
            messages += self._compare_codebooks(config.source, initial.codebooks)
            if initial.discriminator is not None:
                judges = replace(initial, weights=initial.discriminator)
        if config.init_discriminator:
            judges = initial_weights.read(config.init_discriminator, "discriminator", config.at)
        if judges:
            found = initial_weights.initialise(self.discriminator, judges)
            messages += [f"init_discriminator: {line}" for line in found]
        elif config.source:
            messages.append("init_discriminator: none is given, discriminators begin with random weights")
        if config.source:
            messages.append(f"quantiser frozen: content is {self.features[1]}")
        return messages

    def _compare_codebooks(self, init: Path, own: frozenset[str]) -> list[str]:
        """Compare the codebook of weights that were loaded with that of the store's codes. Returns messages.

        Raises:
            UsageError: the codes are read, and are of another one.
        """
        reads_codes, of_store = "semantic" in self.features, self._store_codebook
        if (of_store in own) if of_store else not reads_codes:
            return []
        drop, add = (
            command("featurize drop", self._store, "semantic"),
            command("featurize add", self._store, "semantic"),
        )
        remedy = f"run {drop}, then {add} {command('--sovits', init)}"
        if not of_store:
            return [
                f"it is not known whether the codes of the store are of the codebook of {init}; to be sure, {remedy}"
            ]
        what = f"the codes of the store are of another codebook ({of_store}) than {init}"
        if reads_codes:
            raise UsageError(f"{what[0].upper()}{what[1:]}: {remedy}.")
        return [f"{what}: a gpt that is trained on them cannot speak with this model; before that, {remedy}"]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Calibrate the ranges of activations on batches, which are on the stage's device."""
        assert self.quantisation is not None, "it is trained for INT8"
        with self.quantisation.calibrating(), self.precision.float32(), evaluating(self.generator):
            for batch in batches:
                microbatch = self._fixed_microbatch(batch)
                inputs, codes = microbatch.inputs, self._codes(microbatch.inputs)
                speech = codes, inputs.phones, inputs.phones_n, inputs.spec, inputs.frames
                self.generator.decode(*speech, noise_BCT=microbatch.random.noise, speaker_BV=inputs.speaker)

    @property
    def quantizable_networks(self) -> tuple[nn.Module, ...]:
        """The parts of the generator whose activations may be saved in 8 bits."""
        return self.generator.enc_p, self.generator.enc_q, self.generator.flow, self.generator.dec

    @property
    def attention_heads(self) -> frozenset[int]:
        """Numbers of heads of the attention layers of those networks."""
        return frozenset({self.config.n_heads, self.config.mrte_heads})

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Update the discriminator, then the generator against the updated discriminator.

        All batches make one update, on all ranks together. Does not synchronise with the device. A network whose
        gradient is not finite is not updated.

        Args:
            batches: one at least, on the host; every utterance has at least `spectral.recipe.min_frames` frames.

        Returns:
            0-d tensors without gradient, over all batches and ranks: loss_disc, loss_gen, loss_fm, loss_mel and loss_kl
            (weighted), loss_commit, loss_teacher if there is a teacher (weighted), loss_gen_all (the sum of the
            generator's), grad_norm_d, grad_norm_g, skipped (1 if a network was not updated), exploded (1 if a gradient
            was far larger than usual, and scaled down).
        """
        frames = torch.stack([batch.frames.sum() for batch in batches]).sum()
        counts = torch.stack((torch.tensor(sum(map(len, batches))), frames)).float()
        totals = distributed.all_reduce(counts.to(self._device, non_blocking=True), self._reduction.group)
        return self.microbatches.run(
            batches, lambda parts: self.update([self._microbatch(batch, totals) for batch in parts])
        )

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss_mel and loss_kl, weighted as published. The same batch always gets the same noise and segments.

        Of a model that is trained for INT8 it is only loss_mel, from the teacher's speech. Uses no global random
        numbers, and does not change the mode of the networks.

        Args:
            batch: on the stage's device.
        """
        if self.quantisation is not None:
            return {"loss_mel": MEL_WEIGHT * self._distance_from_teacher(self._fixed_microbatch(batch))}
        with evaluating(self.generator):
            output = self._synthesise(self._fixed_microbatch(batch))
        mel, kl = losses.mel_loss(output.real_mel, output.fake_mel), _kl_loss(output.synthesis)
        return {"loss_mel": MEL_WEIGHT * mel, "loss_kl": KL_WEIGHT * kl}

    def objective(self, batch: Batch) -> Tensor:
        """Return the sum of the losses of `validate` with its graph. (). Changes nothing.

        Args:
            batch: on the stage's device.
        """
        with evaluating(self.generator):
            output = self._synthesise(self._fixed_microbatch(batch))
        return MEL_WEIGHT * losses.mel_loss(output.real_mel, output.fake_mel) + KL_WEIGHT * _kl_loss(output.synthesis)

    def gradient_norms(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the norms of the batch's own gradients of generator and discriminator, in float32 and without dropout.

        Noise and segments are those of `validate`. Changes nothing.

        Args:
            batch: on the stage's device.
        """
        microbatch = self._fixed_microbatch(batch)
        with self.precision.float32(), evaluating(self.generator):
            if self.quantisation is not None:
                return (gradient_norm(self._distance_from_teacher(microbatch), self.generator),)
            output = self._synthesise(microbatch)
            generated = torch.stack(list(self._losses(microbatch, output).values())).sum()
            discriminated = self._discriminator_loss(microbatch, output.synthesis.wave.detach())
            return (
                gradient_norm(generated, self.generator),
                gradient_norm(discriminated, self.discriminator),
            )

    def allocate(self) -> None:
        """Share out the networks where that was asked for; allocate the optimisers' states, and gradients."""
        if self._reduction.shards:
            recompute_weights(self.generator)
            recompute_weights(self.discriminator)
            mesh = make_mesh(self._reduction.form, self._device)
            share = partial(share_network, mesh=mesh, options=self._reduction)
            self._gradients_g = share(self.generator, self.optim_g, methods=("reconstruct",))
            self._gradients_d = share(self.discriminator, self.optim_d)
        for optimizer, gradients in ((self.optim_g, self._gradients_g), (self.optim_d, self._gradients_d)):
            allocate_state(optimizer)
            gradients.allocate()

    def capture_passes(self, passes: Passes) -> None:
        """Let these launch the passes of microbatches, from now on."""
        self._passes, self.microbatches.release = passes, passes.clear
        for gradients in (self._gradients_g, self._gradients_d):
            if isinstance(gradients, GradientBuckets):
                gradients.keep_memory()

    def end_epoch(self) -> None:
        """Lower the learning rates."""
        self.epoch += 1
        self._set_rates()

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update, for all parameters except those of the text encoder."""
        return float(self.optim_g.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to resume."""
        generator, optim_g = state_of(self.generator, self.optim_g, self._gradients_g)
        discriminator, optim_d = state_of(self.discriminator, self.optim_d, self._gradients_d)
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "generator": generator,
            "discriminator": discriminator,
            "optim_g": optim_g,
            "optim_d": optim_d,
            "precision": self.precision.state_dict(),
            **ranges_of(self.quantisation),
        }

    def held_state(self) -> tuple[int, dict[str, Any]]:
        """Return which part of the model this process has, and the tensors of it."""
        if isinstance(self._gradients_g, ShardedNetwork) and isinstance(self._gradients_d, ShardedNetwork):
            held = {"generator": self._gradients_g.held(), "discriminator": self._gradients_d.held()}
            return self._gradients_g.part, held
        return (self._reduction.machines.number if self._reduction.machines else 0), self.state_dict()

    def average(self) -> None:
        """Average what machines have learned by themselves; nothing where all make one update."""
        if self._reduction.machines is not None:
            average_over_machines(self.state_dict(), self.precision, self._reduction)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all weights on each rank for the duration of this context: what is computed in it needs no other."""
        own = self.generator, self.discriminator
        of_generator = whole_network(self.generator, self._gradients_g)
        of_discriminator = whole_network(self.discriminator, self._gradients_d)
        with of_generator as self.generator, of_discriminator as self.discriminator:
            try:
                yield
            finally:
                self.generator, self.discriminator = own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            RunError: the state is that of a model of other sizes.
        """
        embedding = self.generator.enc_p.text_embedding
        keep_first_symbols(embedding, state["generator"]["enc_p.text_embedding.weight"])
        self.id_limits["phones"] = embedding.num_embeddings
        load_strict(self.generator, state["generator"], "the checkpoint")
        load_strict(self.discriminator, state["discriminator"], "the checkpoint")
        self.optim_g.load_state_dict(state["optim_g"])
        self.optim_d.load_state_dict(state["optim_d"])
        self.precision.load_state_dict(state["precision"])
        self.epoch, self.updates = state["epoch"], state["updates"]
        if self.quantisation is not None:
            self.quantisation.load_state_dict(state["ranges"])
        self._set_rates()

    def update(self, microbatches: Sequence[Microbatch]) -> dict[str, Tensor]:
        """Do what `step` does, with prepared inputs."""
        if idle := idle_passes(self._gradients_g, len(microbatches)):
            nothing = replace(microbatches[0], utterance_share=0.0, frame_share=0.0)
            microbatches = [*microbatches, *[nothing] * idle]
        if self.quantisation is not None:
            return self._update_in_int8(microbatches)
        # With several microbatches each network's update runs the generator again: all outputs together would not fit.
        both: Pass | None = None
        if len(microbatches) == 1 and self._discriminated is None:
            both = self._open("update", microbatches[0], self._discriminate_and_keep, self._generate)
        if self._discriminated is None:
            self._discriminated = self._update_discriminator(microbatches, both)
        generator = self._update_generator(microbatches, both)
        discriminator, self._discriminated = self._discriminated, None
        self.precision.scaler.update()
        self.updates += 1
        self._set_rates()
        of_d, of_g = discriminator.result, generator.result
        sums = sum_terms(discriminator.terms, generator.terms, group=self._reduction.group)
        metrics = sums | {
            "loss_gen_all": torch.stack([sums[name] for name in generator.terms[0]]).sum(),
            "grad_norm_d": of_d.norm,
            "grad_norm_g": of_g.norm,
            "skipped": (of_d.skipped | of_g.skipped).float(),
            "exploded": (of_d.exploded | of_g.exploded).float(),
        }
        return over_machines(metrics, self._reduction)

    def _update_in_int8(self, microbatches: Sequence[Microbatch]) -> dict[str, Tensor]:
        """Update a generator that is trained for INT8: it has one loss, and no discriminators."""

        def work(microbatch: Microbatch, _: object) -> tuple[Terms, None]:
            loss = self.optim.mel_weight * self._distance_from_teacher(microbatch) * microbatch.utterance_share
            return self._backward({"loss_mel": loss}, self._gradients_g), None

        passes = (self._open("int8", microbatch, work) for microbatch in microbatches)
        terms = self._accumulate(passes, len(microbatches), self._gradients_g)
        result = self.precision.step(self.optim_g, self.optim.max_grad_norm, sum_of_parts(self._gradients_g))
        self.precision.scaler.update()
        self.updates += 1
        self._set_rates()
        metrics = sum_terms(terms, group=self._reduction.group) | {
            "grad_norm_g": result.norm,
            "skipped": result.skipped.float(),
            "exploded": result.exploded.float(),
        }
        return over_machines(metrics, self._reduction)

    def _microbatch(self, batch: Batch, totals: Tensor) -> Microbatch:
        """Prepare the inputs of a batch on the device, given the update's numbers of utterances and frames."""
        on_device = copied(batch, self._device)
        inputs = prepare_inputs(on_device, self.spectral, self.config)
        return Microbatch(
            inputs=inputs,
            random=draw_random_inputs(inputs, self.config),
            utterance_share=len(batch) / totals[0],
            frame_share=on_device.frames.sum() / totals[1],
        )

    def _fixed_microbatch(self, batch: Batch) -> Microbatch:
        """Prepare the inputs of a batch, with noise and segments that are always the same."""
        inputs = prepare_inputs(batch, self.spectral, self.config)
        fixed_seed = torch.Generator(inputs.spec.device).manual_seed(0)
        return Microbatch(inputs=inputs, random=draw_random_inputs(inputs, self.config, fixed_seed))

    def _synthesise(self, microbatch: Microbatch) -> GeneratorOutput:
        """Run the generator, and compute the log-mel of the recorded and of the generated segments."""
        inputs, random = microbatch.inputs, microbatch.random
        with self.precision.autocast():
            out: Synthesis = self.generator(
                inputs.content,
                inputs.spec,
                inputs.frames,
                inputs.phones,
                inputs.phones_n,
                noise_BCT=random.noise,
                starts_B=random.starts,
                speaker_BV=inputs.speaker,
                codes_BQ=inputs.codes,
            )
        real_BFN = slice_segments(inputs.spec, random.starts, self.config.segment_frames)
        fake_BNF = self.spectral.magnitude(out.wave.float()[:, 0])
        return GeneratorOutput(out, self.spectral.log_mel(real_BFN.mT), self.spectral.log_mel(fake_BNF))

    @torch.no_grad()
    def _reconstruct(self, microbatch: Microbatch) -> Tensor:
        """Generate only the segments, (B, 1, S)."""
        inputs, random = microbatch.inputs, microbatch.random
        with self.precision.autocast():
            return self.generator.reconstruct(
                inputs.spec,
                inputs.frames,
                noise_BCT=random.noise,
                starts_B=random.starts,
                speaker_BV=inputs.speaker,
            )

    def _distance_from_teacher(self, microbatch: Microbatch) -> Tensor:
        """Return how far speech is from the teacher's in log-mel, of the same codes, phones, noise and voice. ()."""
        assert self._teacher is not None, "what is trained for INT8 has a teacher"
        inputs, random = microbatch.inputs, microbatch.random
        given = self._codes(inputs), inputs.spec, inputs.frames, inputs.phones, inputs.phones_n
        drawn: dict[str, Any] = {"noise_BCT": random.noise, "starts_B": random.starts, "speaker_BV": inputs.speaker}
        with self.precision.autocast(), evaluating(self.generator):  # the teacher has no dropout either
            taught_B1S, said_B1S = self._teacher.say(*given, **drawn), self.generator.say_segments(*given, **drawn)
        mels = [self.spectral.log_mel(self.spectral.magnitude(wave.float()[:, 0])) for wave in (taught_B1S, said_B1S)]
        return losses.mel_loss(*mels)

    def _codes(self, inputs: SovitsInputs) -> Tensor:
        """Return the codes of utterances, (B, Q)."""
        if inputs.codes is not None:
            return inputs.codes
        assert inputs.content is not None, "neither content features nor codes"
        return self.generator.quantise(inputs.content, length_mask(inputs.frames, inputs.content.shape[2]))[1]

    def _recorded_segments(self, microbatch: Microbatch) -> Tensor:
        """Return the recorded segments, (B, 1, S)."""
        starts, size = microbatch.random.starts, self.config.segment_frames
        return slice_segments(microbatch.inputs.wave, starts, size).mT.flatten(1)[:, None]

    def _open(self, name: str, microbatch: Microbatch, *works: Work) -> Pass:
        """Begin a pass of a microbatch."""
        return self._passes.open(name, microbatch, self.precision.is_half, *works)

    def _update_discriminator(self, microbatches: Sequence[Microbatch], both: Pass | None) -> NetworkUpdate:
        """Update the discriminator.

        Args:
            both: the pass of the only microbatch, whose other part is the generator's: both use the same speech.
        """
        each = (self._open("discriminator", microbatch, self._discriminate) for microbatch in microbatches)
        terms = self._accumulate([both] if both else each, len(microbatches), self._gradients_d)
        sum_parts = sum_of_parts(self._gradients_d)
        return NetworkUpdate(terms, self.precision.step(self.optim_d, self.optim.max_grad_norm, sum_parts))

    def _update_generator(self, microbatches: Sequence[Microbatch], both: Pass | None) -> NetworkUpdate:
        """Update the generator, likewise."""
        each = (self._open("generator", microbatch, self._generate) for microbatch in microbatches)
        terms = self._accumulate([both] if both else each, len(microbatches), self._gradients_g)
        sum_parts = sum_of_parts(self._gradients_g)
        result = self.precision.step(self.optim_g, self.optim.max_grad_norm, sum_parts)
        if not self.config.freeze_quantizer:  # its codebook is all that is learnt without gradients
            distributed.broadcast_buffers(self.generator.quantizer)
        return NetworkUpdate(terms, result)

    def _discriminate(self, microbatch: Microbatch, _: None) -> tuple[Terms, None]:
        """Compute the discriminator's gradients from segments that are made for it alone."""
        return self._discriminator_terms(microbatch, self._reconstruct(microbatch)), None

    def _discriminate_and_keep(self, microbatch: Microbatch, _: None) -> tuple[Terms, GeneratorOutput]:
        """Compute the discriminator's gradients, and keep the speech for the generator's."""
        output = self._synthesise(microbatch)
        return self._discriminator_terms(microbatch, output.synthesis.wave.detach()), output

    def _generate(self, microbatch: Microbatch, output: GeneratorOutput | None) -> tuple[Terms, None]:
        """Compute the generator's gradients, from speech that is there or is made now."""
        losses_of = self._losses(microbatch, output or self._synthesise(microbatch))
        return self._backward(losses_of, self._gradients_g), None

    def _discriminator_terms(self, microbatch: Microbatch, fake_B1S: Tensor) -> Terms:
        """Add the gradients of the discriminator's loss. Returns it, weighted by the microbatch's share."""
        loss = self._discriminator_loss(microbatch, fake_B1S) * microbatch.utterance_share
        return self._backward({"loss_disc": loss}, self._gradients_d)

    def _accumulate(
        self, passes: Iterable[Pass], count: int, gradients: GradientBuckets | ShardedNetwork
    ) -> list[Terms]:
        """Compute the gradient of all microbatches, summed over ranks. Returns the terms of each.

        Args:
            passes: of each microbatch, as many as `count`.
        """
        gradients.begin()
        terms = []
        for number, of_microbatch in enumerate(passes, 1):
            if number == count:
                gradients.expect_last()
            terms.append(of_microbatch.part())
        gradients.finish()
        return terms

    def _backward(self, terms: Terms, gradients: GradientBuckets | ShardedNetwork) -> Terms:
        """Add the gradients of the sum of terms. Returns them detached."""
        loss = torch.stack(list(terms.values())).sum()
        gradients.backward(self.precision.scaler.scale(loss))
        return {name: term.detach() for name, term in terms.items()}

    def _discriminator_loss(self, microbatch: Microbatch, fake_B1S: Tensor) -> Tensor:
        """Return the discriminator's mean loss over recorded and generated segments."""
        with self.precision.autocast():
            outputs = self.discriminator(torch.cat((self._recorded_segments(microbatch), fake_B1S.float())))
        scores = [score.chunk(2) for score, _ in outputs]
        return losses.discriminator_loss([real for real, _ in scores], [fake for _, fake in scores])

    def _losses(self, microbatch: Microbatch, output: GeneratorOutput) -> dict[str, Tensor]:
        """Return the generator's losses, each weighted by this microbatch's share of the update."""
        out = output.synthesis
        # Gradients of the discriminator's weights would not be used, and cost 10 % of this update at v2's sizes. They
        # are computed all the same where it is shared out: its weights are there only while it computes.
        shared = isinstance(self._gradients_d, ShardedNetwork)
        with self.precision.autocast(), nullcontext() if shared else frozen(self.discriminator):
            with torch.no_grad():
                real = self.discriminator(self._recorded_segments(microbatch))
            fake = self.discriminator(out.wave.float())
        matching = losses.feature_matching_loss([maps for _, maps in real], [maps for _, maps in fake])
        terms = {
            "loss_gen": losses.generator_loss([score for score, _ in fake]) * microbatch.utterance_share,
            "loss_fm": matching * microbatch.utterance_share,
            "loss_mel": self._mel_loss(output) * microbatch.utterance_share,
            "loss_kl": self.optim.kl_weight * _kl_loss(out) * microbatch.frame_share,
            "loss_commit": out.commitment * microbatch.frame_share,
        }
        if self._teacher is not None:
            terms["loss_teacher"] = self._imitation_loss(microbatch, output, [maps for _, maps in fake])
        return terms

    def _imitation_loss(
        self, microbatch: Microbatch, output: GeneratorOutput, fake: Sequence[Sequence[Tensor]]
    ) -> Tensor:
        """Return the loss against the teacher's speech, weighted.

        Args:
            fake: feature maps of the generated segments.
        """
        assert self._teacher is not None
        with self.precision.autocast():
            said_B1S = self._teacher.segments(
                microbatch.inputs, microbatch.random.starts, self.config.segment_frames
            ).float()
            loss = imitation_loss(
                said_B1S,
                fake,
                output.fake_mel,
                discriminate=self.discriminator,
                spectral=self.spectral,
                mel_weight=self.optim.mel_weight,
            )
        return self.optim.teacher_weight * loss * microbatch.utterance_share

    def _set_rates(self) -> None:
        """Set the learning rates of the next update."""
        rate = self.optim.rate(self.epoch, self.updates)
        fast, *slow = self.optim_g.param_groups
        for group in (fast, *self.optim_d.param_groups):
            group["lr"] = rate
        for group in slow:
            group["lr"] = rate * self.optim.text_rate_factor

    def _mel_loss(self, output: GeneratorOutput) -> Tensor:
        return self.optim.mel_weight * losses.mel_loss(output.real_mel, output.fake_mel)


def _kl_loss(out: Synthesis) -> Tensor:
    return losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)


def _check_recipe(config: SovitsConfig, spectral: Spectral) -> None:
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
