"""What a voice costs, measured in a process that does nothing else: time, memory, and when the first sound is there.

Shapes: Q codes, V vocabulary, S samples, Z latent channels, M frames of speech.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from headrace.store.errors import RunError
from headrace.train.comparison.measured_voices import Arrays, check_codes, next_codes, open_voice
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig

ROUNDS = 3
"""How often each utterance is said. The fastest round counts: other processes only slow it down."""
CODES_HZ = 25
"""Codes of a second of speech."""
LIKELIEST = 3
"""A code is predicted if it is among so many of the likeliest ones, as training counts it."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What utterances cost in a process that speaks nothing else."""

    threads: int
    sovits_cpu_s: float | None
    """CPU-seconds of a second of speech; None where there is no generator."""
    gpt_cpu_s: float | None
    """CPU-seconds of the codes of a second of speech."""
    seconds: float
    """Seconds of a second of speech, by the clock."""
    first_sound_s: float | None
    """From the start of the process until the first utterance was said; None where there is no generator."""
    peak_bytes: int
    """Peak of the process's memory."""

    @property
    def speech_per_cpu_s(self) -> float:
        """Seconds of speech in a CPU-second."""
        return 1 / ((self.sovits_cpu_s or 0.0) + (self.gpt_cpu_s or 0.0))


@dataclass(frozen=True, kw_only=True)
class VoiceResult:
    """What a voice costs and says."""

    runtime: str
    size: int
    """Bytes."""
    parameters: int
    sovits: SovitsConfig | None
    gpt: GptConfig | None
    cost: Cost
    waves: list[np.ndarray]
    """What it says of each utterance, (S,) float32; empty where there is no generator."""
    loss: float | None
    """Mean negative log likelihood of codes and ends, each after those before it; None where there is no decoder."""
    accuracy: float | None
    """Share of the codes that are among the LIKELIEST."""


def measure_alone(
    path: Path, at: str, utterances: Sequence[Arrays], codebook: str, threads: int, rounds: int = ROUNDS
) -> VoiceResult:
    """Measure a voice in a fresh process.

    Args:
        path, at, threads: as for `measured_voices.open_voice`.
        utterances: that it says.
        codebook: as for `measured_voices.check_codes`.
    Raises:
        RunError, UsageError: as `open_voice` and `check_codes`; or the process ended without a result.
    """
    alone = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=alone) as pool:
        try:
            return pool.submit(_measure, path, at, list(utterances), codebook, threads, rounds).result()
        except BrokenProcessPool as error:
            raise RunError(
                f"The process that spoke with {path} was ended: the system does that when memory runs out."
            ) from error


def _measure(path: Path, at: str, utterances: list[Arrays], codebook: str, threads: int, rounds: int) -> VoiceResult:
    voice = open_voice(path, at, threads)
    check_codes(voice, path, codebook, utterances)
    codes = [len(one["codes"]) for one in utterances]
    noises = [_noise(voice.sovits, count, seed) for seed, count in enumerate(codes)]
    best: dict[str, np.ndarray] = {}
    first_sound_s = None
    waves = [np.zeros(0, np.float32)] * len(utterances)
    for _ in range(rounds):
        for number, utterance in enumerate(utterances):
            if voice.gpt is not None:
                _keep_best(best, "gpt", number, codes, partial(voice.generate, utterance))
            if voice.sovits is not None:
                noise = noises[number]

                def speak(number: int = number, said: Arrays = utterance, noise: np.ndarray = noise) -> None:
                    waves[number] = voice.decode(said, noise)

                _keep_best(best, "sovits", number, codes, speak)
                first_sound_s = first_sound_s or time.time() - psutil.Process().create_time()
    peak = _peak_bytes()
    loss, accuracy = _predictions(voice.predict, voice.gpt, utterances) if voice.gpt is not None else (None, None)
    spoken_s = sum(codes) / CODES_HZ
    cost = Cost(
        threads=threads,
        sovits_cpu_s=float(best["sovits"][0].sum() / spoken_s) if "sovits" in best else None,
        gpt_cpu_s=float(best["gpt"][0].sum() / spoken_s) if "gpt" in best else None,
        seconds=float(sum(one[1].sum() for one in best.values()) / spoken_s),
        first_sound_s=first_sound_s,
        peak_bytes=peak,
    )
    return VoiceResult(
        runtime=voice.runtime,
        size=voice.size,
        parameters=voice.parameters,
        sovits=voice.sovits,
        gpt=voice.gpt,
        cost=cost,
        waves=waves if voice.sovits is not None else [],
        loss=loss,
        accuracy=accuracy,
    )


def _keep_best(
    best: dict[str, np.ndarray], name: str, number: int, codes: Sequence[int], call: Callable[[], object]
) -> None:
    """Call, and keep the fewest CPU-seconds and seconds that the call with this number ever took."""
    kept = best.setdefault(name, np.full((2, len(codes)), np.inf))
    cpu, clock = time.process_time(), time.perf_counter()
    call()
    kept[:, number] = np.minimum(kept[:, number], (time.process_time() - cpu, time.perf_counter() - clock))


def _noise(sovits: SovitsConfig | None, codes: int, seed: int) -> np.ndarray:
    """Return the noise that an utterance is said with, (Z, M) float32: the same for every voice."""
    channels = 0 if sovits is None else sovits.inter_channels
    return np.random.default_rng(seed).standard_normal((channels, 2 * codes), np.float32)


def _predictions(
    predict: Callable[[Arrays], np.ndarray], config: GptConfig, utterances: Sequence[Arrays]
) -> tuple[float, float]:
    """Return the loss of codes and ends, and the share of codes that are predicted."""
    pairs = [next_codes(predict(one), one["codes"], config.end, LIKELIEST) for one in utterances]
    codes = sum(len(one["codes"]) for one in utterances)
    return sum(loss for loss, _ in pairs) / (codes + len(pairs)), sum(hits for _, hits in pairs) / codes


def _peak_bytes() -> int:
    """Return the peak of this process's memory. On Linux what was there before `exec` does not count."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return int(memory.peak_wset)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
