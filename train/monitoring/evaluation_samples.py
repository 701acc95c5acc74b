"""Samples of a run: held-out utterances as the model in training synthesises them.

RUN/samples/
  recorded/00012-NAME.wav       a held-out recording
  step-00000500/00012-NAME.wav  the same utterance by the model, and a plot of it, 00012-NAME.png

Shapes: S samples, T frames, M mel bands, P phones, Y codes, C channels, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from headrace.featurize.quality.dnsmos import scorer
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.reader import Store
from headrace.store.storage.file_names import portable_name
from headrace.store.storage.local import make_folder
from headrace.store.storage.output_files import output_file
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.origin import check_same_codes
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.training_data import TrainingData
from headrace.train.distributed.phases import PHASES
from headrace.train.models.attention import MultiHeadAttention
from headrace.train.models.layers import length_mask
from headrace.train.models.sampling import generate_semantic
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.text_to_speech import decode_semantic
from headrace.train.models.wave_output import write_wave
from headrace.train.monitoring.sample_plots import draw_sample
from headrace.train.stages import gpt_inputs, sovits_inputs
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage

SPARE_CODES = 25
"""A decoder that does not end is stopped this many codes, a second, after twice the recording's length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An utterance as it was recorded and as the model synthesises it. On the host, float32."""

    name: str
    """Number and id."""
    recorded: np.ndarray
    generated: np.ndarray
    """(S,) in [-1, 1]."""
    sample_rate: int
    frame_s: float
    """Seconds of a frame."""
    mel_recorded: np.ndarray
    mel_generated: np.ndarray
    """(T, M), log."""
    attention: np.ndarray | None
    """(T, P): the weight of each phone in each frame's attention; None where the model has no such attention."""
    phone_ends: np.ndarray | None
    """(P,) int: the frame in which each phone ends; None where the utterance is not aligned."""
    scores: dict[str, float]
    """Scores of `generated`, by `dnsmos.NAMES`; empty if DNSMOS is not installed."""

    @property
    def seconds(self) -> float:
        """Duration of the recording."""
        return len(self.recorded) / self.sample_rate


class Synthesizer(Protocol):
    """Synthesises utterances of a store."""

    features: tuple[str, ...]
    """Features that it reads."""

    def synthesize(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Synthesise a batch of one utterance on the model's device.

        Returns:
            (S,) samples in [-1, 1], and (T, P) attention as in `Sample`.
        """


class SovitsSynthesizer:
    """Synthesises with a SoVITS generator in training: the codes and phones of a recording, in its own voice."""

    def __init__(self, stage: SovitsStage) -> None:
        self._stage, self.features = stage, stage.features

    def synthesize(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Synthesise the codes, or those of the content, and return the attention of frames to phones."""
        model, frames = self._stage.generator, int(batch.frames[0])
        x = sovits_inputs.prepare_inputs(batch, self._stage.spectral, self._stage.config)
        with _evaluating(model), _attention_weights(model.enc_p.mrte.cross_attention) as attention:
            codes_1Y = x.codes
            if codes_1Y is None:
                assert x.content is not None, "neither content features nor codes"
                codes_1Y = model.quantise(x.content, length_mask(x.frames, x.spec.shape[2]))[1]
            wave_S = decode_semantic(
                model,
                codes_1Y[0, : (frames + 1) // 2],
                x.phones[0],
                x.spec[0, :, :frames],
                speaker_V=None if x.speaker is None else x.speaker[0],
            )
        return wave_S[: frames * model.config.hop], attention[0][0]


class GptSynthesizer:
    """Synthesises with a GPT in training: it predicts codes, and a trained generator decodes them.

    The voice is that of the recording.
    """

    def __init__(
        self,
        stage: GptStage,
        voice: Path,
        device: torch.device,
        at: str = "",
        log: Callable[[str], object] | None = None,
        *,
        mixed_origins: bool = False,
    ) -> None:
        """
        Args:
            at, log: which checkpoint of a run, and who is told of it, as for `trained_models.load_sovits`.
            mixed_origins: as for `check_same_codes`.
        Raises:
            RunError: `voice` is not a generator.
            UsageError: its codes have another origin.
        """
        self._stage, self._generator = stage, trained_models.load_sovits(voice, at, log).to(device)
        check_same_codes(stage.model, self._generator, mixed_origins=mixed_origins)
        self._spectral = Spectral(SpectralRecipe()).to(device)
        voice_features = ("wave", "speaker_vector") if self._generator.config.speaker_channels else ("wave",)
        self.features = (*stage.features, *voice_features)

    def synthesize(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Generate codes from the phones and decode them; there is no attention to return."""
        model, x = self._stage.model, gpt_inputs.prepare_inputs(batch)
        max_codes = 2 * int(x.codes_n[0]) + SPARE_CODES
        with _evaluating(model):
            codes_Y = generate_semantic(
                model, x.phones[0], SamplingConfig(max_codes=max_codes), bert_PE=None if x.bert is None else x.bert[0]
            )
        spec_TF = self._spectral.magnitude(batch["wave"].float().flatten(1)[0] / 32768)
        speaker = batch["speaker_vector"].flatten().float() if "speaker_vector" in batch.tensors else None
        return decode_semantic(self._generator, codes_Y, x.phones[0], spec_TF.mT, speaker_V=speaker), None


class SampleWriter:
    """Synthesises the same held-out utterances at every validation, and writes them into RUN/samples."""

    def __init__(
        self, store: Store, numbers: np.ndarray, synthesizer: Synthesizer, folder: Path, device: torch.device
    ) -> None:
        """
        Args:
            numbers: (N,) int64: the utterances.
            folder: RUN/samples.
        """
        self._store, self._numbers, self._synthesizer, self._folder = store, numbers, synthesizer, folder
        self._device = device
        self._spectral, self._score = Spectral(SpectralRecipe()), scorer()
        self._features = (*synthesizer.features, *(name for name in ("phone_frames",) if name in store.features))

    def describe(self) -> str:
        """Return a line that says how many samples are written, and where."""
        scoring = "scored by DNSMOS" if self._score else "not scored: pip install 'headrace[mos]' for DNSMOS"
        return f"each validation speaks {len(self._numbers)} utterances into {self._folder}, {scoring}"

    def write(self, step: int) -> list[Sample]:
        """Synthesise all samples and write them. Training's random state and the model stay as they are.

        Raises:
            StoreError: files cannot be written.
        """
        samples = []
        for number in self._numbers:
            PHASES.beat()
            with preserved_random_state(self._device):
                torch.manual_seed(0)
                samples.append(self._sample(int(number)))
        self._write_files(step, samples)
        return samples

    @torch.no_grad()
    def _sample(self, number: int) -> Sample:
        batch = read_batch(self._store, self._features, np.array([number]))
        recorded_S = batch["wave"][0].flatten().float() / 32768
        wave_S, attention_TP = self._synthesizer.synthesize(batch.to(self._device))
        generated_S, rate = wave_S.float().cpu(), self._store.sample_rate
        ends_P = batch["phone_frames"][0].cumsum(0) if "phone_frames" in batch.tensors else None
        aligned = ends_P is not None and int(ends_P[-1]) == int(batch.frames[0])
        return Sample(
            name=f"{number:05d}-{self._store.ids[number]}",
            recorded=recorded_S.numpy(),
            generated=generated_S.numpy(),
            sample_rate=rate,
            frame_s=self._store.hop / rate,
            mel_recorded=self._mel(recorded_S),
            mel_generated=self._mel(generated_S),
            attention=None if attention_TP is None else attention_TP.float().cpu().numpy(),
            phone_ends=ends_P.numpy() if ends_P is not None and aligned else None,
            scores=self._score(generated_S.numpy(), rate) if self._score else {},
        )

    def _mel(self, wave_S: Tensor) -> np.ndarray:
        return self._spectral.log_mel(self._spectral.magnitude(wave_S)).numpy()

    def _write_files(self, step: int, samples: list[Sample]) -> None:
        step_folder, recorded_folder = self._folder / f"step-{step:08d}", self._folder / "recorded"
        for folder in (recorded_folder, step_folder):
            make_folder(folder)
        for sample in samples:
            name = portable_name(re.sub(r"[^\w.-]+", "_", sample.name))
            write_wave(recorded_folder / f"{name}.wav", sample.recorded, sample.sample_rate)
            write_wave(step_folder / f"{name}.wav", sample.generated, sample.sample_rate)
            with output_file(step_folder / f"{name}.png") as draft:
                draw_sample(sample).savefig(draft, dpi=90)


def sample_writer(
    config: RunConfig,
    stage: Stage,
    data: TrainingData,
    device: torch.device,
    log: Callable[[str], object] | None = None,
) -> SampleWriter | None:
    """Return the sample writer of a run; None if no samples are requested, or no utterance is held out.

    Args:
        log: is told which checkpoint of a run speaks them.
    Raises:
        RunError, UsageError: as `GptSynthesizer`.
    """
    if not config.sample_count or not len(data.validation):
        return None
    spread = np.unique(np.linspace(0, len(data.validation) - 1, config.sample_count).round().astype(int))
    with preserved_random_state(device):  # a generator is constructed with random weights before its own are loaded
        synthesizer: Synthesizer
        if isinstance(stage, GptStage):
            assert config.monitoring.voice is not None, "sample_count is 0 without"
            allowed = config.model.mixed_origins
            synthesizer = GptSynthesizer(
                stage, config.monitoring.voice, device, config.model.at, log, mixed_origins=allowed
            )
        else:
            assert isinstance(stage, SovitsStage)
            synthesizer = SovitsSynthesizer(stage)
    return SampleWriter(data.store, data.validation[spread], synthesizer, config.out / "samples", device)


def mean_scores(samples: list[Sample]) -> dict[str, float]:
    """Return the mean of each score over the samples; empty if they have none."""
    return {name: fmean(sample.scores[name] for sample in samples) for name in samples[0].scores} if samples else {}


@contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random state at the end of this context."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode within this context."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _attention_weights(attention: MultiHeadAttention) -> Iterator[list[Tensor]]:
    """Collect the (B, T, P) weights of every call, averaged over heads, since the module does not keep them."""
    collected: list[Tensor] = []

    def collect(_: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        x_BCT, memory_BCP, mask_B1P = inputs
        query, key = (
            conv(x).unflatten(1, (attention.heads, -1))
            for conv, x in ((attention.conv_q, x_BCT), (attention.conv_k, memory_BCP))
        )
        scores_BHTP = query.mT @ key * query.shape[2] ** -0.5
        collected.append(scores_BHTP.masked_fill(~mask_B1P[:, None], -torch.inf).softmax(3).mean(1))

    handle = attention.register_forward_pre_hook(collect)
    try:
        yield collected
    finally:
        handle.remove()
