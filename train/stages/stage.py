"""The protocol `Stage`: what the training loop knows of a model in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.store.reader import Store
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig, OptimConfig
from headrace.train.data.batch import Batch
from headrace.train.data.training_data import Requirements
from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.precision import Precision
from headrace.train.stages.cuda_graphs import Passes
from headrace.train.stages.microbatch import MicrobatchRunner

INT8_RATE = 0.02
"""Learning rate of a model that is trained for INT8, as a share of the preset's: it has learned already. With larger
ones what rounding costs is not won back: a tiny sovits was 0.027 from its speech in float32 before training for INT8,
0.025 after 100 steps at a fiftieth, 0.027 after 75 at a tenth."""


class UpdatePolicy(Protocol):
    """The part of a stage's configuration that the training loop reads."""

    @property
    def grad_accum(self) -> int:
        """Number of batches in an update."""


class Stage(Protocol):
    """A model in training.

    Class methods tell what it needs of a store, and construct it for one.
    """

    microbatches: MicrobatchRunner
    features: tuple[str, ...]
    """Names of the features that it reads from a store."""
    codebook: str
    """Digest of the codebook of the semantic tokens that it reads; empty if it reads none, or that is not known."""

    quantisation: FakeQuantisation | None
    """The layers that compute with the numbers of INT8; None if the model is not trained for it."""

    @classmethod
    def requirements(cls, config: RunConfig, store: Store) -> Requirements:
        """Return the recipes that the features of a store must have.

        Of several features that serve the same purpose, the best one that the store holds is required.
        """

    @classmethod
    def from_config(cls, config: RunConfig, store: Store, precision: Precision, device: torch.device) -> Stage:
        """Construct the stage, with random weights from torch's global generator.

        Raises:
            RecipeMismatch, UsageError: the model cannot read the store's features.
        """

    @property
    def precision(self) -> Precision:
        """What it computes in, and its loss scale."""

    @property
    def tracked_metrics(self) -> tuple[str, ...]:
        """Names of the metrics shown to the user; the first is the loss by which validations are compared."""

    @property
    def id_limits(self) -> Mapping[str, int]:
        """Number of ids that the model knows, by feature."""

    @property
    def quantizable_networks(self) -> Iterable[nn.Module]:
        """Networks whose activations may be saved in 8 bits."""

    @property
    def attention_heads(self) -> frozenset[int]:
        """Numbers of heads of the attention layers of those networks."""

    @property
    def optim(self) -> UpdatePolicy:
        """Configuration of updates."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next update."""

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the weights of the teacher; 0 where there is none."""

    def check_store(self, store: Store) -> None:
        """Check what the recipes of features do not show.

        Raises:
            StoreError: the model cannot be trained on this store.
        """

    def load_pretrained(self, config: ModelConfig) -> list[str]:
        """Load the weights that the config names. Returns a message for each file.

        Raises:
            RunError: a file cannot be read, or holds the weights of another model.
        """

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Calibrate the ranges of activations of `quantisation` on batches on the device."""

    def step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Make one update from batches on the host. Returns 0-d tensors; `skipped` is among them."""

    def validate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean losses of a batch on the device. Changes nothing."""

    def objective(self, batch: Batch) -> Tensor:
        """Return what `validate` tells of a batch on the device, as one loss with its graph. (). Changes nothing."""

    def gradient_norms(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the norm of the own gradient of a batch on the device, for each network. Changes nothing."""

    def allocate(self) -> None:
        """Allocate what updates need beside activations, once weights are loaded."""

    def capture_passes(self, passes: Passes) -> None:
        """Let these launch forward and backward passes, from now on. One process with a whole model calls it."""

    def end_epoch(self) -> None:
        """Tell the stage that an epoch has ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to resume. All ranks call it; the first one gets what they share."""

    def held_state(self) -> tuple[int, dict[str, Any]]:
        """Return which part of the model this process has, and the tensors of it: 0 and all where it is whole."""

    def average(self) -> None:
        """Average what machines have learned by themselves; nothing where all make one update."""

    def whole(self) -> AbstractContextManager[None]:
        """Return a context in which each rank has all weights, so that ranks need not compute the same."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            RunError: the state is that of a model of other sizes.
        """


def given_update_options(optim: OptimConfig) -> dict[str, Any]:
    """Return the options of every stage's updates that differ from 0, which stands for the preset's value."""
    names = ("grad_accum", "warmup_steps", "max_grad_norm", "learning_rate", "teacher_weight")
    return {name: value for name in names if (value := getattr(optim, name))}


def check_ids(stage: Stage, store: Store, batch: Batch) -> None:
    """Check that the model knows all ids of a batch. On CUDA, an unknown one fails without a useful message.

    Args:
        batch: on the host.

    Raises:
        RunError: it does not know one of them.
    """
    for feature in batch.tensors.keys() & stage.id_limits.keys():
        ids, limit = batch[feature], stage.id_limits[feature]
        unknown = (ids < 0) | (ids >= limit)
        if unknown.any():
            row = int(unknown.any(1).int().argmax())
            first = int(ids[row][unknown[row]][0])
            raise RunError(
                f"{store.ids[batch.numbers[row]]} in {store.path} has the {feature} id {first}, and this model "
                f"knows 0 to {limit - 1}: train with the preset that the ids were made for."
            )
