"""Training of SoVITS: updates of discriminator and generator.

Shapes: B batch, S samples of a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from headrace.featurize.features.codebooks import codebook_of
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.reader import Store
from headrace.train import distributed
from headrace.train.checkpoints.load_weights import keep_first_symbols, load_strict
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig
from headrace.train.data.batch import Batch
from headrace.train.data.training_data import Requirements
from headrace.train.distributed import GradientBuckets, ReductionOptions, ShardedNetwork, make_mesh
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.models.layers import recompute_weights
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.precision import Precision, StepResult
from headrace.train.stages import sovits_features, updates
from headrace.train.stages.cuda_graphs import EagerPasses, Pass, Passes, Terms, Work
from headrace.train.stages.microbatch import MicrobatchRunner, copied
from headrace.train.stages.pretrained import StoreCodes, load_sovits
from headrace.train.stages.sovits_inputs import Microbatch, draw_microbatch, fixed_microbatch
from headrace.train.stages.sovits_losses import GeneratorOutput, SovitsLosses, decode
from headrace.train.stages.sovits_optimizer import MEL_WEIGHT, SovitsOptimConfig, in_order_of_use, parameter_groups
from headrace.train.stages.teachers import GeneratorTeacher


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
        sovits_features.check_recipe(config, spectral)
        self.config, self.optim = config, optim
        self.features: tuple[str, ...] = ("wave", content, "phones")
        if config.speaker_channels:
            self.features = (*self.features, "speaker_vector")
        self.id_limits = {"phones": config.symbols, "semantic": config.codebook_size}
        self.microbatches = MicrobatchRunner(tries_again=not reduction.shards)
        self.epoch, self.updates = 1, 0
        self.spectral = spectral.to(device)
        self.losses = SovitsLosses(config, self.spectral, optim, precision, teacher, shared=reduction.shards)
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
        self._device = device
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
            reduction=updates.reduction_options(config, device),
            teacher=GeneratorTeacher.load(config.model, sizes, device),
            in_int8=bool(config.model.quantize),
        )
        if sovits_features.choose_codebook(config, store)[0] == "store":
            stage.generator.set_quantiser(*sovits_features.read_codebook(store, sizes))
        return stage

    @property
    def precision(self) -> Precision:
        """The precision of its losses."""
        return self.losses.precision

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the weights of the teacher; 0 where there is none."""
        return 0 if self.losses.teacher is None else self.losses.teacher.weight_bytes

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
        codes = StoreCodes(store=self._store, codebook=self._store_codebook)
        return load_sovits(self.generator, self.discriminator, config, content=self.features[1], codes=codes)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Calibrate the ranges of activations on batches, which are on the stage's device."""
        assert self.quantisation is not None, "it is trained for INT8"
        with self.quantisation.calibrating(), self.precision.float32(), updates.evaluating(self.generator):
            for batch in batches:
                decode(self.generator, fixed_microbatch(batch, self.spectral, self.config))

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

        def prepare(batch: Batch) -> Microbatch:
            return draw_microbatch(copied(batch, self._device), self.spectral, self.config, totals)

        return self.microbatches.run(batches, lambda parts: self.update([prepare(batch) for batch in parts]))

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss_mel and loss_kl, weighted as published. The same batch always gets the same noise and segments.

        Of a model that is trained for INT8 it is only loss_mel, from the teacher's speech. Uses no global random
        numbers, and does not change the mode of the networks.

        Args:
            batch: on the stage's device.
        """
        microbatch = fixed_microbatch(batch, self.spectral, self.config)
        if self.quantisation is not None:
            return {"loss_mel": MEL_WEIGHT * self.losses.distance_from_teacher(self.generator, microbatch)}
        return self.losses.validation(self.generator, microbatch)

    def objective(self, batch: Batch) -> Tensor:
        """Return the sum of the losses of `validate` with its graph. (). Changes nothing.

        Args:
            batch: on the stage's device.
        """
        of_batch = self.losses.validation(self.generator, fixed_microbatch(batch, self.spectral, self.config))
        return of_batch["loss_mel"] + of_batch["loss_kl"]

    def gradient_norms(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the norms of the batch's own gradients of generator and discriminator, in float32 and without dropout.

        Noise and segments are those of `validate`. Changes nothing.

        Args:
            batch: on the stage's device.
        """
        microbatch = fixed_microbatch(batch, self.spectral, self.config)
        with self.precision.float32(), updates.evaluating(self.generator):
            if self.quantisation is not None:
                distance = self.losses.distance_from_teacher(self.generator, microbatch)
                return (updates.gradient_norm(distance, self.generator),)
            output = self.losses.synthesise(self.generator, microbatch)
            terms = self.losses.generator_losses(self.discriminator, microbatch, output)
            generated = torch.stack(list(terms.values())).sum()
            said_B1S = output.synthesis.wave.detach()
            discriminated = self.losses.discriminator_loss(self.discriminator, microbatch, said_B1S)
            return (
                updates.gradient_norm(generated, self.generator),
                updates.gradient_norm(discriminated, self.discriminator),
            )

    def allocate(self) -> None:
        """Share out the networks where that was asked for; allocate the optimisers' states, and gradients."""
        if self._reduction.shards:
            recompute_weights(self.generator)
            recompute_weights(self.discriminator)
            mesh = make_mesh(self._reduction.form, self._device)
            share = partial(updates.share_network, mesh=mesh, options=self._reduction)
            self._gradients_g = share(self.generator, self.optim_g, methods=("reconstruct",))
            self._gradients_d = share(self.discriminator, self.optim_d)
        for optimizer, gradients in ((self.optim_g, self._gradients_g), (self.optim_d, self._gradients_d)):
            updates.allocate_state(optimizer)
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
        generator, optim_g = updates.state_of(self.generator, self.optim_g, self._gradients_g)
        discriminator, optim_d = updates.state_of(self.discriminator, self.optim_d, self._gradients_d)
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "generator": generator,
            "discriminator": discriminator,
            "optim_g": optim_g,
            "optim_d": optim_d,
            "precision": self.precision.state_dict(),
            **updates.ranges_of(self.quantisation),
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
            updates.average_over_machines(self.state_dict(), self.precision, self._reduction)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all weights on each rank for the duration of this context: what is computed in it needs no other."""
        own = self.generator, self.discriminator
        of_generator = updates.whole_network(self.generator, self._gradients_g)
        of_discriminator = updates.whole_network(self.discriminator, self._gradients_d)
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
        if idle := updates.idle_passes(self._gradients_g, len(microbatches)):
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
        sums = updates.sum_terms(discriminator.terms, generator.terms, group=self._reduction.group)
        metrics = sums | {
            "loss_gen_all": torch.stack([sums[name] for name in generator.terms[0]]).sum(),
            "grad_norm_d": of_d.norm,
            "grad_norm_g": of_g.norm,
            "skipped": (of_d.skipped | of_g.skipped).float(),
            "exploded": (of_d.exploded | of_g.exploded).float(),
        }
        return updates.over_machines(metrics, self._reduction)

    def _update_in_int8(self, microbatches: Sequence[Microbatch]) -> dict[str, Tensor]:
        """Update a generator that is trained for INT8: it has one loss, and no discriminators."""

        def work(microbatch: Microbatch, _: object) -> tuple[Terms, None]:
            distance = self.losses.distance_from_teacher(self.generator, microbatch)
            loss = self.optim.mel_weight * distance * microbatch.utterance_share
            return self._backward({"loss_mel": loss}, self._gradients_g), None

        passes = (self._open("int8", microbatch, work) for microbatch in microbatches)
        terms, result = self._update_network(passes, len(microbatches), self.optim_g, self._gradients_g)
        self.precision.scaler.update()
        self.updates += 1
        self._set_rates()
        metrics = updates.sum_terms(terms, group=self._reduction.group) | {
            "grad_norm_g": result.norm,
            "skipped": result.skipped.float(),
            "exploded": result.exploded.float(),
        }
        return updates.over_machines(metrics, self._reduction)

    def _open(self, name: str, microbatch: Microbatch, *works: Work) -> Pass:
        """Begin a pass of a microbatch."""
        return self._passes.open(name, microbatch, self.precision.is_half, *works)

    def _update_discriminator(self, microbatches: Sequence[Microbatch], both: Pass | None) -> NetworkUpdate:
        """Update the discriminator.

        Args:
            both: the pass of the only microbatch, whose other part is the generator's: both use the same speech.
        """
        each = (self._open("discriminator", microbatch, self._discriminate) for microbatch in microbatches)
        return self._update_network([both] if both else each, len(microbatches), self.optim_d, self._gradients_d)

    def _update_generator(self, microbatches: Sequence[Microbatch], both: Pass | None) -> NetworkUpdate:
        """Update the generator, likewise."""
        each = (self._open("generator", microbatch, self._generate) for microbatch in microbatches)
        done = self._update_network([both] if both else each, len(microbatches), self.optim_g, self._gradients_g)
        if not self.config.freeze_quantizer:  # its codebook is all that is learnt without gradients
            distributed.broadcast_buffers(self.generator.quantizer)
        return done

    def _update_network(
        self,
        passes: Iterable[Pass],
        count: int,
        optimizer: torch.optim.Optimizer,
        gradients: GradientBuckets | ShardedNetwork,
    ) -> NetworkUpdate:
        """Update a network with the gradient of passes of all microbatches, as many as `count`."""
        terms = updates.accumulate(passes, count, gradients)
        sum_parts = updates.sum_of_parts(gradients)
        return NetworkUpdate(terms, self.precision.step(optimizer, self.optim.max_grad_norm, sum_parts))

    def _discriminate(self, microbatch: Microbatch, _: None) -> tuple[Terms, None]:
        """Compute the discriminator's gradients from segments that are made for it alone."""
        return self._discriminator_terms(microbatch, self.losses.reconstruct(self.generator, microbatch)), None

    def _discriminate_and_keep(self, microbatch: Microbatch, _: None) -> tuple[Terms, GeneratorOutput]:
        """Compute the discriminator's gradients, and keep the speech for the generator's."""
        output = self.losses.synthesise(self.generator, microbatch)
        return self._discriminator_terms(microbatch, output.synthesis.wave.detach()), output

    def _generate(self, microbatch: Microbatch, output: GeneratorOutput | None) -> tuple[Terms, None]:
        """Compute the generator's gradients, from speech that is there or is made now."""
        terms = self.losses.generator_losses(
            self.discriminator, microbatch, output or self.losses.synthesise(self.generator, microbatch)
        )
        return self._backward(terms, self._gradients_g), None

    def _discriminator_terms(self, microbatch: Microbatch, fake_B1S: Tensor) -> Terms:
        """Add the gradients of the discriminator's loss. Returns it, weighted by the microbatch's share."""
        loss = self.losses.discriminator_loss(self.discriminator, microbatch, fake_B1S)
        return self._backward({"loss_disc": loss * microbatch.utterance_share}, self._gradients_d)

    def _backward(self, terms: Terms, gradients: GradientBuckets | ShardedNetwork) -> Terms:
        """Add the gradients of the sum of terms. Returns them detached."""
        loss = torch.stack(list(terms.values())).sum()
        gradients.backward(self.precision.scaler.scale(loss))
        return {name: term.detach() for name, term in terms.items()}

    def _set_rates(self) -> None:
        """Set the learning rates of the next update."""
        self.optim.set_rates(self.optim_g, self.optim_d, self.epoch, self.updates)
