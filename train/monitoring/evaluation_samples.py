"""What a model makes of utterances that it has never seen: speech, and what a picture of it needs.

RUN/samples/
  recorded/00012-NAME.wav       a recording that was held out
  step-00000500/00012-NAME.wav  what the model makes of it, and 00012-NAME.png beside it

Shapes: S samples, T frames, M mel bands, P phones, Y codes, C channels, H heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from headrace.train.checkpoints import trained_models
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.data.stream import read_batch
from headrace.train.models.attention import MultiHeadAttention
from headrace.train.models.layers import length_mask
from headrace.train.models.sampling import SamplingConfig, generate_semantic
from headrace.train.models.text_to_speech import check_codebooks, decode_semantic, write_wave
from headrace.train.monitoring.sample_plots import draw_heard
from headrace.train.stages import gpt_stage, sovits_inputs
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer.setup import Ready

SPARE_CODES = 25
"""A decoder that finds no end is stopped one second after twice the recording's length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An utterance as it was recorded and as the model speaks it. On the host, float32."""

    name: str
    """Number and id."""
    recorded: np.ndarray
    made: np.ndarray
    """(S,) in [-1, 1]."""
    sample_rate: int
    frame_s: float
    """Seconds of a frame."""
    mel_recorded: np.ndarray
    mel_made: np.ndarray
    """(T, M), log."""
    sight: np.ndarray | None
    """(T, P): share of each frame's attention that each phone has; None where the model has no such attention."""
    phone_ends: np.ndarray | None
    """(P,) int: the frame in which each phone ends; None where nobody knows."""
    scores: dict[str, float]
    """Ratings of what was made, by `dnsmos.NAMES`; empty where DNSMOS is not installed."""

    @property
    def seconds(self) -> float:
        return len(self.recorded) / self.sample_rate


class Voice(Protocol):
    """Speaks utterances."""

    features: tuple[str, ...]
    """That are read for it."""

    def speak(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """A batch of one utterance, on the model's device, as (S,) in [-1, 1], and (T, P) as `Heard.sight`."""


class FromCodes:
    """A SoVITS generator in training speaks the recording's own codes and phones in its own voice. A `Voice`."""

    def __init__(self, stage: SovitsStage) -> None:
        self._stage, self.features = stage, stage.features

    def speak(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        model, frames = self._stage.generator, int(batch.frames[0])
        x = sovits_inputs.prepare(batch, self._stage.spectral, self._stage.config)
        with _evaluating(model), _watched(model.enc_p.mrte.cross_attention) as seen:
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
        return wave_S[: frames * model.config.hop], seen[0][0]


class FromText:
    """A decoder in training says the codes of the phones, a trained generator speaks them in the voice of the
    recording. A `Voice`."""

    def __init__(self, stage: GptStage, voice: Path, device: torch.device) -> None:
        """
        Raises:
            RunError: `voice` is no generator, or one of other codes.
        """
        self._stage, self._generator = stage, trained_models.generator(voice).to(device)
        check_codebooks(stage.config, self._generator.config)
        self._spectral = Spectral(SpectralRecipe()).to(device)
        of_voice = ("wave", "speaker_vector") if self._generator.config.speaker_channels else ("wave",)
        self.features = (*stage.features, *of_voice)

    def speak(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        model, x = self._stage.model, gpt_stage.prepare(batch)
        longest = 2 * int(x.codes_n[0]) + SPARE_CODES
        with _evaluating(model):
            said_Y = generate_semantic(
                model, x.phones[0], SamplingConfig(max_codes=longest), bert_PE=None if x.bert is None else x.bert[0]
            )
        spec_TF = self._spectral.magnitude(batch["wave"].float().flatten(1)[0] / 32768)
        speaker = batch["speaker_vector"].flatten().float() if "speaker_vector" in batch.tensors else None
        return decode_semantic(self._generator, said_Y, x.phones[0], spec_TF.mT, speaker_V=speaker), None


class Hearing:
    """Speaks the same held-out utterances whenever it is asked, and writes them down."""

    def __init__(self, store: Store, numbers: np.ndarray, voice: Voice, folder: Path, device: torch.device) -> None:
        """
        Args:
            numbers: of the utterances.
            folder: RUN/samples.
        """
        self._store, self._numbers, self._voice, self._folder = store, numbers, voice, folder
        self._device = device
        self._spectral, self._score = Spectral(SpectralRecipe()), scorer()
        self._features = (*voice.features, *(name for name in ("phone_frames",) if name in store.features))

    def line(self) -> str:
        """What is to be heard, for a person."""
        scored = "scored by DNSMOS" if self._score else "not scored: pip install 'headrace[mos]' for DNSMOS"
        return f"each validation speaks {len(self._numbers)} utterances into {self._folder}, {scored}"

    def hear(self, step: int) -> list[Heard]:
        """Random numbers of training stay as they are, and so does the model.

        Raises:
            OSError: files cannot be written.
        """
        heard = []
        for number in self._numbers:
            with apart(self._device):
                torch.manual_seed(0)
                heard.append(self._hear(int(number)))
        self._write(step, heard)
        return heard

    @torch.no_grad()
    def _hear(self, number: int) -> Heard:
        batch = read_batch(self._store, self._features, np.array([number]))
        recorded_S = batch["wave"][0].flatten().float() / 32768
        made, sight = self._voice.speak(batch.to(self._device))
        made_S, rate = made.float().cpu(), self._store.sample_rate
        ends_P = batch["phone_frames"][0].cumsum(0) if "phone_frames" in batch.tensors else None
        aligned = ends_P is not None and int(ends_P[-1]) == int(batch.frames[0])
        return Heard(
            name=f"{number:05d}-{self._store.ids[number]}",
            recorded=recorded_S.numpy(),
            made=made_S.numpy(),
            sample_rate=rate,
            frame_s=self._store.hop / rate,
            mel_recorded=self._mel(recorded_S),
            mel_made=self._mel(made_S),
            sight=None if sight is None else sight.float().cpu().numpy(),
            phone_ends=ends_P.numpy() if ends_P is not None and aligned else None,
            scores=self._score(made_S.numpy(), rate) if self._score else {},
        )

    def _mel(self, wave_S: Tensor) -> np.ndarray:
        return self._spectral.log_mel(self._spectral.magnitude(wave_S)).numpy()

    def _write(self, step: int, heard: list[Heard]) -> None:
        of_step = self._folder / f"step-{step:08d}"
        for folder, kind in ((self._folder / "recorded", "recorded"), (of_step, "made")):
            folder.mkdir(parents=True, exist_ok=True)
            for one in heard:
                write_wave(folder / f"{_file(one.name)}.wav", getattr(one, kind), one.sample_rate)
        for one in heard:
            draw_heard(one).savefig(of_step / f"{_file(one.name)}.png", dpi=90)


def of_run(config: RunConfig, ready: Ready) -> Hearing | None:
    """What validations of a run speak: none where it was not asked for, or nothing is held out.

    Raises:
        RunError: as `FromText`.
    """
    held = ready.data.validation
    if not config.sample_count or not len(held):
        return None
    spread = np.unique(np.linspace(0, len(held) - 1, config.sample_count).round().astype(int))
    with apart(ready.device):  # a generator is made with random weights before it has its own
        voice: Voice
        if isinstance(ready.stage, GptStage):
            assert config.monitoring.voice is not None, "spoken is 0 without"
            voice = FromText(ready.stage, config.monitoring.voice, ready.device)
        else:
            assert isinstance(ready.stage, SovitsStage)
            voice = FromCodes(ready.stage)
    return Hearing(ready.data.store, held[spread], voice, config.out / "samples", ready.device)


def mean_scores(heard: list[Heard]) -> dict[str, float]:
    """Of each kind of opinion; empty where there are none."""
    return {name: fmean(one.scores[name] for one in heard) for name in heard[0].scores} if heard else {}


@contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Within, random numbers are drawn without a trace."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _watched(attention: MultiHeadAttention) -> Iterator[list[Tensor]]:
    """Collects the weights, (B, T, P), of every call, averaged over heads: attention itself need not keep them."""
    seen: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> None:
        x_BCT, memory_BCP, mask_B1P = given
        query, key = (
            conv(x).unflatten(1, (attention.heads, -1))
            for conv, x in ((attention.conv_q, x_BCT), (attention.conv_k, memory_BCP))
        )
        scores_BHTP = query.mT @ key * query.shape[2] ** -0.5
        seen.append(scores_BHTP.masked_fill(~mask_B1P[:, None], -torch.inf).softmax(3).mean(1))

    handle = attention.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def _file(name: str) -> str:
    """Ids may be paths."""
    return re.sub(r"[^\w.-]+", "_", name)[:120]
