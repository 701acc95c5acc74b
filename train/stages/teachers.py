"""Teachers: larger models that a run learns from beside its data (Hinton, Vinyals and Dean 2015).

A teacher is no part of a run's state. It is read again when the run is resumed, and must be the same then.

Shapes: B batch, Z predictions, V vocabulary, N frames of a segment, S = N * hop samples, C latent channels, T frames,
M mel bands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from headrace.featurize.spectral.dsp import Spectral
from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints.export import TRAINING_PART
from headrace.train.checkpoints.initial_weights import InitialWeights, read
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.config_sections import ModelConfig
from headrace.train.models import losses
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.stages.gpt_losses import teacher_loss
from headrace.train.stages.sovits_inputs import SovitsInputs

Network = TypeVar("Network", SynthesizerTrn, Text2SemanticDecoder)
Discriminate = Callable[[Tensor], Sequence[tuple[Tensor, Sequence[Tensor]]]]


class GeneratorTeacher:
    """A generator whose speech another one learns, segment by segment."""

    def __init__(self, network: SynthesizerTrn) -> None:
        self._network = network

    @classmethod
    def load(cls, config: ModelConfig, student: SovitsConfig, device: torch.device) -> Self | None:
        """Load the teacher of a run; None if it has none.

        Raises:
            RunError: it cannot be read, or is not the one that the run was begun with.
            UsageError: it reads other inputs than the student.
        """
        if config.teacher is None:
            return None
        given = read(config.teacher, "generator", config.at)
        sizes = given.generator_sizes
        if not any(name.startswith(TRAINING_PART) for name in given.weights):
            raise UsageError(
                f"{given.source} has no posterior encoder, as exported weights have none, and a teacher needs it: give "
                "its run by --teacher."
            )
        same: tuple[str, ...] = ("spec_bins", "hop", "speaker_channels")
        if config.quantize:  # it says the same codes, with the same noise
            same = (*same, "symbols", "codebook_size", "inter_channels")
        if different := [name for name in same if getattr(sizes, name) != getattr(student, name)]:
            raise UsageError(
                f"The teacher {given.source} reads other inputs than this model ({' and '.join(different)}): give one "
                "of a preset that reads the same."
            )
        return cls(_frozen(lambda: SynthesizerTrn(sizes), given, config, device))

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(weight.nbytes for weight in self._network.parameters())

    @torch.no_grad()
    def say(self, *inputs: Tensor, **drawn: Any) -> Tensor:
        """Say segments of codes and phones as `SynthesizerTrn.say_segments`."""
        return self._network.say_segments(*inputs, **drawn)

    @torch.no_grad()
    def segments(self, inputs: SovitsInputs, starts_B: Tensor, frames: int) -> Tensor:
        """Say segments of N `frames`. (B, 1, S).

        They come from the mean of the teacher's posterior, whose latent may have other channels than the student's.
        """
        B, _, T = inputs.spec.shape
        return self._network.reconstruct(
            inputs.spec,
            inputs.frames,
            noise_BCT=inputs.spec.new_zeros(B, self._network.config.inter_channels, T),
            starts_B=starts_B,
            speaker_BV=inputs.speaker,
            segment_frames=frames,
        )


def imitation_loss(
    said_B1S: Tensor,
    fake: Sequence[Sequence[Tensor]],
    fake_BNM: Tensor,
    *,
    discriminate: Discriminate,
    spectral: Spectral,
    mel_weight: float,
) -> Tensor:
    """Return how far generated segments are from those that a teacher said: of log-mel, and of feature matching. ().

    Args:
        said_B1S: the teacher's segments, float32.
        fake: feature maps of the generated segments.
        fake_BNM: their log-mel.
        mel_weight: factor on the distance of log-mel.
    """
    with torch.no_grad():
        maps = [maps for _, maps in discriminate(said_B1S)]
        mel_BNM = spectral.log_mel(spectral.magnitude(said_B1S[:, 0]))
    return mel_weight * losses.mel_loss(mel_BNM, fake_BNM) + losses.feature_matching_loss(maps, fake)


class DecoderTeacher:
    """A text-to-semantic decoder whose predictions another one learns."""

    def __init__(self, network: Text2SemanticDecoder) -> None:
        self._network = network

    @classmethod
    def load(cls, config: ModelConfig, student: GptConfig, device: torch.device) -> Self | None:
        """Load the teacher of a run; None if it has none.

        Raises:
            RunError: it cannot be read, or is not the one that the run was begun with.
            UsageError: it knows other codes than the student, or fewer phones.
        """
        if config.teacher is None:
            return None
        given = read(config.teacher, "model", config.at)
        sizes = given.decoder_sizes
        if sizes.vocabulary != student.vocabulary or sizes.symbols < student.symbols:
            raise UsageError(
                f"The teacher {given.source} knows {sizes.symbols} phones and {sizes.codes} codes, and this model "
                f"{student.symbols} and {student.codes}: give one that was trained on a store like this."
            )
        return cls(_frozen(lambda: Text2SemanticDecoder(sizes), given, config, device))

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(weight.nbytes for weight in self._network.parameters())

    def loss(self, predict: Callable[[Text2SemanticDecoder], Tensor], logits_BZV: Tensor, counted_BZ: Tensor) -> Tensor:
        """Return `gpt_losses.teacher_loss` of predictions.

        Args:
            predict: returns what a decoder predicts for the same inputs.
        """
        with torch.no_grad():
            taught_BZV = predict(self._network)
        return teacher_loss(logits_BZV, taught_BZV, counted_BZ)


def _frozen(make: Callable[[], Network], given: InitialWeights, config: ModelConfig, device: torch.device) -> Network:
    """Make a network that never changes. Random numbers of the run stay as they are without it.

    Raises:
        RunError: the weights are not those that the run was begun with.
    """
    if config.teacher_digest and given.digest != config.teacher_digest:
        raise RunError(
            f"{given.source} is not the teacher that this run was begun with: bring that one back, or start a new run."
        )
    with torch.random.fork_rng(devices=[]):
        network = make()
    load_strict(network, given.weights, given.source)
    return network.to(device).eval().requires_grad_(False)
