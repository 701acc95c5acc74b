"""Training for INT8 beside calibration for it: how far each is from a voice in float32, on utterances held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import report
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.config import RunConfig, read_config
from headrace.train.config_sections import STAGES
from headrace.train.deployment import int8, onnx_export, onnx_files
from headrace.train.deployment.onnx_files import OnnxNetwork, OnnxVoice
from headrace.train.inference.reference import reference_from_store
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.monitoring.observer import CompositeObserver
from headrace.train.trainer import loop
from headrace.train.trainer.setup import set_up

HEAD = (
    "voice",
    "MB",
    "speech: distance in log-mel",
    "predictions: divergence, nats",
    "loss",
)
PREDICTIONS, DRAWS = 20, 3
"""Predictions of each utterance, and speech of each with other noise."""
STEPS = {"sovits": 100, "gpt": 100}
UNTRAINED: dict[str, Any] = {"learning_rate": 1e-12, "max_steps": 1}
"""Options of a run that calibrates, and learns nothing."""
OPTIONS: dict[str, Any] = {"device": "cpu", "batch_frames": 1500, "grad_accum": 1, "checkpoint_every": 10_000}


def compare(voice: Path, folder: Path, scale: float) -> list[tuple[Any, ...]]:
    """Rows of the table: a voice in float32, calibrated, and trained for INT8."""
    store = read_config(voice / "gpt").store
    networks = onnx_export.load_networks(voice)
    calibrating = onnx_export.calibration_utterances(store, networks, click.echo)
    made: dict[str, Callable[[Path], object]] = {
        "float32": lambda out: onnx_export.export_onnx(networks, out),
        "calibrated": lambda out: onnx_export.export_int8(networks, out, calibrating),
        "calibrated as for training": lambda out: _train(voice, out, scale, UNTRAINED),
        "trained for INT8": lambda out: _train(voice, out, scale, {}),
    }
    utterances = list(held_out(voice, networks.generator.config if networks.generator else SovitsConfig()))
    rows: list[tuple[Any, ...]] = []
    exact: Outputs | None = None
    for name, make in made.items():
        make(folder / name)
        found = Outputs.of(folder / name, utterances)
        exact = exact or found
        rows.append((name, found.megabytes, *found.distances(exact)))
        click.echo(report.table(HEAD, rows[-1:]), err=True)
    return rows


def held_out(voice: Path, sizes: SovitsConfig) -> Iterator[dict[str, np.ndarray]]:
    """Yield the utterances of a store on which neither run of a voice was trained."""
    config = read_config(voice / "gpt").with_options(device="cpu")
    data = set_up(config, CompositeObserver(), resumes=True).data
    for number in data.validation.tolist():
        found = reference_from_store(config.store, str(number), sizes, prompt=True)
        yield onnx_export.reference_arrays(found)


def _train(voice: Path, out: Path, scale: float, options: Mapping[str, Any]) -> None:
    """Train both stages of a voice for INT8, and export them."""
    runs = out.with_name(f"{out.name} runs")
    for stage in STAGES:
        saved = read_config(voice / stage)
        steps = max(2, round(scale * STEPS[stage]))
        given = {"preset": saved.model.preset, "max_steps": steps, "validate_every": 0} | OPTIONS | dict(options)
        run = RunConfig.from_options(
            store=saved.store, out=runs / stage, stage=stage, init=voice / stage, quantize="int8", **given
        )
        loop.start(run)
    onnx_export.export_int8(onnx_export.load_networks(runs), out, ())


@dataclass(frozen=True)
class Outputs:
    """What the graphs of a voice say of utterances."""

    megabytes: float
    mels: list[np.ndarray]
    """Log-mel of each utterance and draw of noise, (T, M)."""
    logits: list[np.ndarray]
    """Of each prediction, (V,)."""
    losses: list[float]

    @classmethod
    def of(cls, folder: Path, utterances: list[dict[str, np.ndarray]]) -> Outputs:
        """Compute the graphs of a folder on one thread."""
        voice, spectral = onnx_files.read_voice(folder), Spectral(SpectralRecipe())
        assert voice.sovits is not None and voice.gpt is not None, "a voice has both"
        speak = OnnxNetwork(folder / onnx_files.SOVITS, onnx_files.sovits_ports(voice.sovits), threads=1)
        mels = []
        for number, utterance in enumerate(utterances):
            for draw in range(DRAWS):
                inputs = int8.speech_inputs(voice, utterance, DRAWS * number + draw)
                mels.append(int8.log_mel(spectral, speak.run(inputs)[0]))
        logits, losses = [], []
        for logits_V, code in _predictions(voice, folder, utterances):
            logits.append(logits_V)
            losses.append(float(np.logaddexp.reduce(logits_V) - logits_V[code]))
        return cls(voice.content["bytes"] / 1e6, mels, logits, losses)

    def distances(self, exact: Outputs) -> tuple[float, ...]:
        """Return what a row says beside name and size."""
        mel = np.mean([int8.mel_distance(one, other) for one, other in zip(exact.mels, self.mels, strict=True)])
        nats = np.mean([int8.divergence(one, other) for one, other in zip(exact.logits, self.logits, strict=True)])
        return float(mel), float(nats), float(np.mean(self.losses))


def _predictions(
    voice: OnnxVoice, folder: Path, utterances: list[dict[str, np.ndarray]]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yield logits after all codes before one, and that code."""
    assert voice.gpt is not None
    prompts = OnnxNetwork(folder / onnx_files.PROMPT, onnx_files.prompt_ports(voice.gpt), threads=1)
    steps = OnnxNetwork(folder / onnx_files.STEP, onnx_files.step_ports(voice.gpt), threads=1)
    for utterance in utterances:
        codes_Q = utterance["codes"][: int8.MAX_CODES]
        for count in np.unique(np.linspace(0, len(codes_Q) - 2, PREDICTIONS).astype(int)).tolist():
            prompt = int8.prompt_inputs(voice, utterance, count)
            _, cache = prompts.run(prompt)
            inputs = int8.step_inputs(voice, prompt, cache, codes_Q[count : count + 1])
            yield steps.run(inputs)[0], int(codes_Q[count + 1])
