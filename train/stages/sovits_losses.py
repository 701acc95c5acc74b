"""Forward passes of SoVITS in training, and the losses of its networks.

Shapes: B batch, Q codes, F spectrogram bins, N frames of a segment, S = N * hop samples, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headrace.featurize.spectral.dsp import Spectral
from headrace.train.models import losses
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.layers import frozen, length_mask, slice_segments
from headrace.train.models.sovits import Synthesis, SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.precision import Precision
from headrace.train.stages.sovits_inputs import Microbatch, SovitsInputs
from headrace.train.stages.sovits_optimizer import KL_WEIGHT, MEL_WEIGHT, SovitsOptimConfig
from headrace.train.stages.teachers import GeneratorTeacher, imitation_loss
from headrace.train.stages.updates import evaluating


class GeneratorOutput(NamedTuple):
    """A forward pass of the generator, and the log-mel of its segments."""

    synthesis: Synthesis
    real_mel: Tensor
    """(B, N, M), of the recorded segments."""
    fake_mel: Tensor
    """(B, N, M), of the generated ones."""


class SovitsLosses:
    """Forward passes and losses of microbatches, in a precision.

    Networks are given to each of them, because a stage exchanges its own while it has them whole.
    """

    def __init__(
        self,
        config: SovitsConfig,
        spectral: Spectral,
        optim: SovitsOptimConfig,
        precision: Precision,
        teacher: GeneratorTeacher | None,
        *,
        shared: bool = False,
    ) -> None:
        """
        Args:
            optim: has the weights of losses.
            teacher: whose speech the generator learns too.
            shared: the discriminator is shared out over processes.
        """
        self.precision, self.teacher = precision, teacher
        self._config, self._spectral, self._optim, self._shared = config, spectral, optim, shared

    def synthesise(self, generator: SynthesizerTrn, microbatch: Microbatch) -> GeneratorOutput:
        """Run the generator, and compute the log-mel of the recorded and of the generated segments."""
        inputs, random = microbatch.inputs, microbatch.random
        with self.precision.autocast():
            out: Synthesis = generator(
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
        real_BFN = slice_segments(inputs.spec, random.starts, self._config.segment_frames)
        fake_BNF = self._spectral.magnitude(out.wave.float()[:, 0])
        return GeneratorOutput(out, self._spectral.log_mel(real_BFN.mT), self._spectral.log_mel(fake_BNF))

    @torch.no_grad()
    def reconstruct(self, generator: SynthesizerTrn, microbatch: Microbatch) -> Tensor:
        """Generate only the segments, (B, 1, S)."""
        inputs, random = microbatch.inputs, microbatch.random
        with self.precision.autocast():
            return generator.reconstruct(
                inputs.spec,
                inputs.frames,
                noise_BCT=random.noise,
                starts_B=random.starts,
                speaker_BV=inputs.speaker,
            )

    def discriminator_loss(
        self, discriminator: MultiPeriodDiscriminator, microbatch: Microbatch, fake_B1S: Tensor
    ) -> Tensor:
        """Return the discriminator's mean loss over recorded and generated segments. ()."""
        with self.precision.autocast():
            outputs = discriminator(torch.cat((self._recorded_segments(microbatch), fake_B1S.float())))
        scores = [score.chunk(2) for score, _ in outputs]
        return losses.discriminator_loss([real for real, _ in scores], [fake for _, fake in scores])

    def generator_losses(
        self, discriminator: MultiPeriodDiscriminator, microbatch: Microbatch, output: GeneratorOutput
    ) -> dict[str, Tensor]:
        """Return the generator's losses, each weighted by this microbatch's share of the update. () each."""
        out = output.synthesis
        # Gradients of the discriminator's weights would not be used, and cost 10 % of this update at v2's sizes. They
        # are computed all the same where it is shared out: its weights are there only while it computes.
        with self.precision.autocast(), nullcontext() if self._shared else frozen(discriminator):
            with torch.no_grad():
                real = discriminator(self._recorded_segments(microbatch))
            fake = discriminator(out.wave.float())
        real_maps, fake_maps = [maps for _, maps in real], [maps for _, maps in fake]
        matching = losses.feature_matching_loss(real_maps, fake_maps)
        terms = {
            "loss_gen": losses.generator_loss([score for score, _ in fake]) * microbatch.utterance_share,
            "loss_fm": matching * microbatch.utterance_share,
            "loss_mel": self.mel_loss(output) * microbatch.utterance_share,
            "loss_kl": self._optim.kl_weight * _kl_loss(out) * microbatch.frame_share,
            "loss_commit": out.commitment * microbatch.frame_share,
        }
        if self.teacher is not None:
            terms["loss_teacher"] = self._imitation_loss(discriminator, microbatch, output, fake_maps)
        return terms

    def mel_loss(self, output: GeneratorOutput) -> Tensor:
        """Return the distance of log-mel, weighted. ()."""
        return self._optim.mel_weight * losses.mel_loss(output.real_mel, output.fake_mel)

    def validation(self, generator: SynthesizerTrn, microbatch: Microbatch) -> dict[str, Tensor]:
        """Return loss_mel and loss_kl without dropout, weighted as published. () each."""
        with evaluating(generator):
            output = self.synthesise(generator, microbatch)
        mel, kl = losses.mel_loss(output.real_mel, output.fake_mel), _kl_loss(output.synthesis)
        return {"loss_mel": MEL_WEIGHT * mel, "loss_kl": KL_WEIGHT * kl}

    def distance_from_teacher(self, generator: SynthesizerTrn, microbatch: Microbatch) -> Tensor:
        """Return how far speech is from the teacher's in log-mel, of the same codes, phones, noise and voice. ()."""
        assert self.teacher is not None, "what is trained for INT8 has a teacher"
        inputs, random = microbatch.inputs, microbatch.random
        given = _codes(generator, inputs), inputs.spec, inputs.frames, inputs.phones, inputs.phones_n
        drawn: dict[str, Any] = {"noise_BCT": random.noise, "starts_B": random.starts, "speaker_BV": inputs.speaker}
        with self.precision.autocast(), evaluating(generator):  # the teacher has no dropout either
            taught_B1S, said_B1S = self.teacher.say(*given, **drawn), generator.say_segments(*given, **drawn)
        mels = [self._spectral.log_mel(self._spectral.magnitude(wave.float()[:, 0])) for wave in (taught_B1S, said_B1S)]
        return losses.mel_loss(*mels)

    def _imitation_loss(
        self,
        discriminator: MultiPeriodDiscriminator,
        microbatch: Microbatch,
        output: GeneratorOutput,
        fake: Sequence[Sequence[Tensor]],
    ) -> Tensor:
        """Return the loss against the teacher's speech, weighted.

        Args:
            fake: feature maps of the generated segments.
        """
        assert self.teacher is not None
        with self.precision.autocast():
            said_B1S = self.teacher.segments(
                microbatch.inputs, microbatch.random.starts, self._config.segment_frames
            ).float()
            loss = imitation_loss(
                said_B1S,
                fake,
                output.fake_mel,
                discriminate=discriminator,
                spectral=self._spectral,
                mel_weight=self._optim.mel_weight,
            )
        return self._optim.teacher_weight * loss * microbatch.utterance_share

    def _recorded_segments(self, microbatch: Microbatch) -> Tensor:
        """Return the recorded segments, (B, 1, S)."""
        starts, size = microbatch.random.starts, self._config.segment_frames
        return slice_segments(microbatch.inputs.wave, starts, size).mT.flatten(1)[:, None]


def decode(generator: SynthesizerTrn, microbatch: Microbatch) -> None:
    """Say whole utterances from their codes and phones, only for what the layers see in it."""
    inputs = microbatch.inputs
    speech = _codes(generator, inputs), inputs.phones, inputs.phones_n, inputs.spec, inputs.frames
    generator.decode(*speech, noise_BCT=microbatch.random.noise, speaker_BV=inputs.speaker)


def _codes(generator: SynthesizerTrn, inputs: SovitsInputs) -> Tensor:
    """Return the codes of utterances, (B, Q)."""
    if inputs.codes is not None:
        return inputs.codes
    assert inputs.content is not None, "neither content features nor codes"
    return generator.quantise(inputs.content, length_mask(inputs.frames, inputs.content.shape[2]))[1]


def _kl_loss(out: Synthesis) -> Tensor:
    return losses.kl_loss(out.z_p, out.logs_q, out.m_p, out.logs_p, out.mask)
