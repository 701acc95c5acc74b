"""Training of the text-to-semantic decoder: prediction of the next code and, optionally, a preference loss.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headrace.featurize.features.codebooks import codebook_of
from headrace.store.reader import Store
from headrace.train.checkpoints.load_weights import keep_first_symbols, load_strict
from headrace.train.checkpoints.origin import UNKNOWN, Origin
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig
from headrace.train.data.batch import Batch
from headrace.train.data.training_data import Requirements
from headrace.train.distributed import GradientBuckets, NetworkInParts, ReductionOptions, ShardedNetwork, make_mesh
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.precision import Precision
from headrace.train.stages import gpt_features, gpt_losses, store_features, updates
from headrace.train.stages.cuda_graphs import EagerPasses, Passes, Terms
from headrace.train.stages.gpt_inputs import GptInputs, prepare_inputs
from headrace.train.stages.gpt_losses import SequenceCorruption
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.microbatch import MicrobatchRunner, copied
from headrace.train.stages.pipeline import PipelinedDecoder, StageCompute
from headrace.train.stages.pretrained import StoreCodes, load_decoder
from headrace.train.stages.teachers import DecoderTeacher
from headrace.train.stages.tensor_parallel import TensorParallelDecoder

DecoderGradients = GradientBuckets | ShardedNetwork | TensorParallelDecoder | PipelinedDecoder


class GptStage:
    """The decoder and its optimiser. Gradients of several batches make one update."""

    tracked_metrics = ("loss", "accuracy")
    quantisation: FakeQuantisation | None = None

    def __init__(
        self,
        config: GptConfig,
        *,
        precision: Precision,
        device: torch.device,
        optim: GptOptimConfig,
        bert: bool = False,
        codebook: str = "",
        origin: Origin = UNKNOWN,
        store: object = "STORE",
        reduction: ReductionOptions = ReductionOptions(),  # noqa: B008 (immutable)
        teacher: DecoderTeacher | None = None,
    ) -> None:
        """
        Args:
            bert: read BERT features of phones.
            codebook: digest of the codebook of the store's semantic tokens; empty if it is not known.
            origin: what they were made by.
            store: its path, for the remedies of errors.
            teacher: whose predictions it learns too.
        """
        self.config = config
        self.optim = optim
        self.precision = precision
        self.features: tuple[str, ...] = ("phones", "semantic", "bert") if bert else ("phones", "semantic")
        self.id_limits = {"phones": config.symbols, "semantic": config.codes}
        self.microbatches = MicrobatchRunner(tries_again=not reduction.shards)
        self.epoch = 1
        self.updates = 0
        self.codebook = codebook
        # What processes share comes to the device when it is shared out: as a whole it may be larger than that.
        self.model = Text2SemanticDecoder(config).to("cpu" if reduction.shards else device)
        self.model.codebook, self.model.origin = codebook, origin.describe()
        self.model.bert_proj.weight.requires_grad_(bert)
        self.optimizer = optim.optimizer_for(self.model)
        self._reduction = reduction
        self._gradients: DecoderGradients = GradientBuckets(self.model.parameters(), reduction)
        self._device, self._store, self._origin = device, store, origin
        self._teacher = teacher
        self._passes: Passes = EagerPasses()

    @classmethod
    def requirements(cls, config: RunConfig, store: Store) -> Requirements:
        """Return the recipes that the features of a store must have."""
        return gpt_features.requirements(config, store)

    @classmethod
    def from_config(cls, config: RunConfig, store: Store, precision: Precision, device: torch.device) -> GptStage:
        """Construct the stage for a store, with random weights from torch's global generator.

        Raises:
            UsageError: the store's BERT features have another number of channels.
        """
        sizes, optim = gpt_features.network_config(config, store), GptOptimConfig.from_config(config)
        store_features.check_channels(store, "bert", sizes.bert_channels)
        stage = cls(
            sizes,
            precision=precision,
            device=device,
            optim=optim,
            bert="bert" in store.features,
            codebook=codebook_of(store.features),
            origin=Origin.of_store(store, ("semantic",)) if "semantic" in store.features else UNKNOWN,
            store=store.path,
            reduction=updates.reduction_options(config, device),
            teacher=DecoderTeacher.load(config.model, sizes, device),
        )
        if config.model.quantize:
            stage.quantisation = FakeQuantisation(stage.model)
        return stage

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the weights of the teacher; 0 where there is none."""
        return 0 if self._teacher is None else self._teacher.weight_bytes

    def check_store(self, store: Store) -> None:
        """Check nothing: the recipes of features say all that is needed."""

    def load_pretrained(self, config: ModelConfig) -> list[str]:
        """Load the weights that the config names. Returns a message for the file.

        Raises:
            RunError: it cannot be read, or holds the weights of another model.
            UsageError: it was trained on codes of another codebook.
        """
        codes = StoreCodes(store=self._store, codebook=self.codebook, origin=self._origin)
        return load_decoder(self.model, config, codes)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Calibrate the ranges of activations on batches, which are on the stage's device."""
        assert self.quantisation is not None, "it is trained for INT8"
        with self.quantisation.calibrating(), self.precision.float32(), updates.evaluating(self.model):
            for batch in batches:
                self._logits(self.model, prepare_inputs(batch))

    @property
    def quantizable_networks(self) -> tuple[nn.Module, ...]:
        """The transformer, whose activations may be saved in 8 bits."""
        return (self.model.h,)

    @property
    def attention_heads(self) -> frozenset[int]:
        """Number of heads of its attention layers."""
        return frozenset({self.config.heads})

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Make one update from all of these batches together, on all ranks.

        Does not synchronise with the device.

        Args:
            batches: one at least, on the host, with phones, semantic, and bert if the stage reads it.

        Returns:
            0-d tensors without gradient, over all batches and ranks: loss (mean over predictions), loss_teacher if
            there is a teacher (mean divergence from its predictions), loss_dpo if asked for, accuracy (share of codes
            among the three most probable), grad_norm (of the mean gradient of a prediction), skipped (1 if there was no
            update), exploded (1 if the gradient was far larger than usual, and scaled down).
        """
        return self.microbatches.run(
            batches, lambda parts: self.update([prepare_inputs(copied(batch, self._device)) for batch in parts])
        )

    @torch.no_grad()
    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy. Changes neither weights, random numbers nor the model's mode.

        Args:
            batch: on the stage's device.
        """
        with updates.evaluating(self.model):
            _, sums = self._likelihood(prepare_inputs(batch))
        return _means(sums)

    def objective(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch's predictions with its graph, without dropout. (). Changes nothing.

        Args:
            batch: on the stage's device.
        """
        with updates.evaluating(self.model):
            likelihood_B, sums = self._likelihood(prepare_inputs(batch))
        return -likelihood_B.sum() / sums["predictions"]

    def gradient_norms(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the norm of the batch's own gradient, in float32 and without dropout. Changes nothing.

        Args:
            batch: on the stage's device.
        """
        with self.precision.float32(), updates.evaluating(self.model):
            likelihood_B, _ = self._likelihood(prepare_inputs(batch))
            return (updates.gradient_norm(likelihood_B.sum(), self.model),)

    def allocate(self) -> None:
        """Share out the model where that was asked for. Allocate the optimiser's state, and gradients."""
        if self._reduction.shards:
            self._share()
        updates.allocate_state(self.optimizer)
        self._gradients.allocate()

    def capture_passes(self, passes: Passes) -> None:
        """Let these launch the passes of batches, from now on."""
        self._passes, self.microbatches.release = passes, passes.clear
        if isinstance(self._gradients, GradientBuckets):
            self._gradients.keep_memory()

    def _share(self) -> None:
        """Share out the model over processes, in the form that was asked for."""
        mesh, options, device = make_mesh(self._reduction.form, self._device), self._reduction, self._device
        if options.form.kind == "fsdp":
            self._gradients = updates.share_network(self.model, self.optimizer, mesh, options)
            return
        if options.form.kind == "tp":
            self._gradients = TensorParallelDecoder(
                self.model, self.optimizer, mesh=mesh, options=options, device=device
            )
            self._reduction = replace(options, readers=mesh.get_group("copy"))
        else:
            compute = StageCompute(
                autocast=self.precision.autocast,
                score=self._likelihood,
                scale=self.precision.scaler.scale,
                activation_checkpointing=self.optim.activation_checkpointing,
            )
            self._gradients = PipelinedDecoder(
                self.model, self.optimizer, mesh=mesh, options=options, device=device, compute=compute
            )
        updates.tell_optimizer(self.optimizer, self._gradients)

    def end_epoch(self) -> None:
        """Count the epoch. Learning rates depend only on updates."""
        self.epoch += 1

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return self.optim.rate(self.updates)

    def update(self, microbatches: Sequence[GptInputs]) -> dict[str, Tensor]:
        """Do what `step` does, with prepared inputs."""
        idle = updates.idle_passes(self._gradients, len(microbatches))
        together = [*microbatches, *[replace(microbatches[0], idle=True)] * idle]
        passes = (self._passes.open("update", inputs, self.precision.is_half, self._work) for inputs in together)
        terms = updates.accumulate(passes, len(together), self._gradients)
        sums = updates.sum_terms(terms[: len(microbatches)], group=self._reduction.group)
        return updates.over_machines(_means(sums) | self.optimizer_step(sums["predictions"]), self._reduction)

    def _work(self, inputs: GptInputs, _: None) -> tuple[Terms, None]:
        """Do what `backward` does, and keep nothing."""
        return self.backward(inputs, self._corruption(inputs)), None

    def backward(self, inputs: GptInputs, corruption: SequenceCorruption | None = None) -> dict[str, Tensor]:
        """Accumulate the gradient of the sum over a batch's predictions, so that each prediction has the same weight.

        Returns:
            0-d sums: loss, predictions, correct, codes, with a teacher loss_teacher, and with corrupted sequences
            loss_dpo and sequences.
        """
        if isinstance(self._gradients, PipelinedDecoder):
            return self._gradients.run(inputs)
        logits = self._logits(self.model, inputs)
        chosen_B, sums = self._likelihood(inputs, logits)
        loss = -chosen_B.sum()
        if self._teacher is not None:
            counted = self._targets(inputs)[1]
            divergence = self._teacher.loss(partial(self._logits, inputs=inputs), logits, counted)
            loss = loss.lerp(divergence, self.optim.teacher_weight)
            sums["loss_teacher"] = divergence.detach()
        if corruption is not None:
            codes, codes_n = corruption.apply(inputs.codes, inputs.codes_n)
            rejected_B, _ = self._likelihood(replace(inputs, codes=codes, codes_n=codes_n))
            preference = gpt_losses.preference_loss(chosen_B, rejected_B)
            loss = loss + preference
            sums["loss_dpo"] = preference.detach() * len(chosen_B)
            sums["sequences"] = preference.new_full((), len(chosen_B))
        if inputs.idle:
            loss = loss * 0
        self._gradients.backward(self.precision.scaler.scale(loss))
        return sums

    def optimizer_step(self, predictions: Tensor) -> dict[str, Tensor]:
        """Update the weights with the gradient of this many predictions. Returns the last three terms of `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        limit = self.optim.max_grad_norm and self.optim.max_grad_norm * predictions
        norm, skipped, exploded = self.precision.step(self.optimizer, limit, updates.sum_of_parts(self._gradients))
        self.precision.scaler.update()
        self.updates += 1
        return {"grad_norm": norm / predictions, "skipped": skipped.float(), "exploded": exploded.float()}

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to resume."""
        weights, optimizer = updates.state_of(self.model, self.optimizer, self._gradients)
        return {
            "epoch": self.epoch,
            "updates": self.updates,
            "model": weights,
            "optimizer": optimizer,
            "precision": self.precision.state_dict(),
            **updates.ranges_of(self.quantisation),
        }

    def held_state(self) -> tuple[int, dict[str, Any]]:
        """Return which part of the model this process has, and the tensors of it."""
        if isinstance(self._gradients, NetworkInParts):
            return self._gradients.part, {"model": self._gradients.held()}
        return (self._reduction.machines.number if self._reduction.machines else 0), self.state_dict()

    def average(self) -> None:
        """Average what machines have learned by themselves; nothing where all make one update."""
        if self._reduction.machines is not None:
            updates.average_over_machines(self.state_dict(), self.precision, self._reduction)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have all weights on each rank for the duration of this context: what is computed in it needs no other."""
        own = self.model
        with updates.whole_network(self.model, self._gradients) as self.model:
            try:
                yield
            finally:
                self.model = own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            RunError: the state is that of a model of other sizes.
        """
        embedding = self.model.ar_text_embedding.word_embeddings
        keep_first_symbols(embedding, state["model"]["ar_text_embedding.word_embeddings.weight"])
        self.id_limits["phones"] = embedding.num_embeddings
        load_strict(self.model, state["model"], "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.epoch, self.updates = state["epoch"], state["updates"]
        if self.quantisation is not None:
            self.quantisation.load_state_dict(state["ranges"])

    def _corruption(self, inputs: GptInputs) -> SequenceCorruption | None:
        return SequenceCorruption.sample(inputs.codes_n, inputs.codes.shape[1]) if self.optim.dpo else None

    def _logits(self, model: Text2SemanticDecoder, inputs: GptInputs) -> Tensor:
        """Return what a decoder predicts, (B, Z, V)."""
        with self.precision.autocast():
            return model(
                inputs.phones,
                inputs.phones_n,
                inputs.codes,
                inputs.codes_n,
                inputs.bert,
                upstream_mask=self.optim.upstream_mask,
                activation_checkpointing=self.optim.activation_checkpointing,
            )

    def _targets(self, inputs: GptInputs) -> tuple[Tensor, Tensor]:
        """Return `gpt_losses.targets`; upstream counts all of them."""
        targets, counted = gpt_losses.targets(inputs.codes, inputs.codes_n, self.config.end)
        return targets, torch.ones_like(counted) if self.optim.upstream_mask else counted

    def _likelihood(self, inputs: GptInputs, logits: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the log likelihood of each sequence, (B,), and the first four sums of `backward`."""
        if logits is None:
            logits = self._logits(self.model, inputs)
        targets, counted = self._targets(inputs)
        likelihood_B = gpt_losses.log_likelihood(logits, targets, counted)
        correct, codes = gpt_losses.top_k_hits(logits, targets, self.config.end)
        predictions = counted.sum(dtype=torch.float32)
        sums = {"loss": -likelihood_B.detach().sum(), "predictions": predictions, "correct": correct, "codes": codes}
        return likelihood_B, sums


def _means(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics of an update from its sums."""
    means = {"loss": sums["loss"] / sums["predictions"], "accuracy": sums["correct"] / sums["codes"]}
    if "loss_teacher" in sums:
        means["loss_teacher"] = sums["loss_teacher"] / sums["predictions"]
    return means | ({"loss_dpo": sums["loss_dpo"] / sums["sequences"]} if "loss_dpo" in sums else {})
