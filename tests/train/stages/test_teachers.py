"""What a student learns of its teacher: the losses, by their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.models import losses, sovits_config
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.stages.gpt_losses import TEMPERATURE, teacher_loss
from headrace.train.stages.sovits_inputs import SovitsInputs
from headrace.train.stages.teachers import GeneratorTeacher, imitation_loss

TINY = sovits_config.tiny()
SEGMENT = TINY.segment_frames


def test_the_divergence_is_that_of_softened_predictions_that_count() -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 2, 3, 5)) * 3
    counted = np.array([[True, True, False], [True, False, False]])

    def soft(logits: np.ndarray) -> np.ndarray:
        exp = np.exp(logits / TEMPERATURE)
        return exp / exp.sum(-1, keepdims=True)

    p, q = soft(teacher), soft(student)
    expected = TEMPERATURE**2 * ((p * np.log(p / q)).sum(-1) * counted).sum()
    given = [torch.from_numpy(values) for values in (student, teacher, counted)]
    assert abs(float(teacher_loss(*given)) - expected) < 1e-4 * expected
    assert float(teacher_loss(given[0], given[0], given[2])) == 0
    other = teacher.copy()
    other[~counted] += random.normal(size=(3, 5))
    assert float(teacher_loss(given[0], torch.from_numpy(other), given[2])) == float(teacher_loss(*given))


def test_a_teacher_says_segments_of_the_students_length_without_noise() -> None:
    torch.manual_seed(0)
    teacher = SynthesizerTrn(replace(TINY, inter_channels=24, segment_frames=SEGMENT + 4)).eval()
    spec, frames, starts = torch.rand(2, 1025, 40), torch.tensor([40, 37]), torch.tensor([3, 20])
    inputs = SovitsInputs(spec=spec, wave=spec, frames=frames, phones=frames[:, None], phones_n=frames)
    said = GeneratorTeacher(teacher).segments(inputs, starts, SEGMENT)
    assert said.shape == (2, 1, SEGMENT * TINY.hop) and not said.requires_grad
    with torch.no_grad():
        longer = teacher.reconstruct(spec, frames, noise_BCT=torch.zeros(2, 24, 40), starts_B=starts)
    same = 2 * TINY.hop  # before the edge of the shorter segment is heard
    torch.testing.assert_close(said[..., :same], longer[..., :same])
    noisy = teacher.reconstruct(spec, frames, noise_BCT=torch.randn(2, 24, 40), starts_B=starts, segment_frames=SEGMENT)
    assert not torch.allclose(noisy, said)


def test_imitation_is_the_distance_of_mel_and_of_what_discriminators_see() -> None:
    torch.manual_seed(0)
    judge, spectral = MultiPeriodDiscriminator(TINY.periods, TINY.discriminator_width), Spectral(SpectralRecipe())
    said, fake = torch.randn(2, 2, 1, SEGMENT * TINY.hop) * 0.1
    fake.requires_grad_()

    def loss(said: torch.Tensor, mel_weight: float) -> torch.Tensor:
        maps = [maps for _, maps in judge(fake)]
        mel = spectral.log_mel(spectral.magnitude(fake[:, 0]))
        return imitation_loss(said, maps, mel, discriminate=judge, spectral=spectral, mel_weight=mel_weight)

    matching = losses.feature_matching_loss(*([maps for _, maps in judge(wave)] for wave in (said, fake)))
    mels = [spectral.log_mel(spectral.magnitude(wave[:, 0])) for wave in (said, fake)]
    torch.testing.assert_close(loss(said, 45.0), 45 * losses.mel_loss(*mels) + matching)
    assert float(loss(fake.detach(), 45.0).detach()) == 0
    (gradient,) = torch.autograd.grad(loss(said, 45.0), fake)
    assert gradient.abs().sum() > 0
