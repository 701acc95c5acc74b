"""DNSMOS: predict how listeners would rate a recording (Reddy, Gopal and Cutler 2021 and 2022), by ONNX networks.

Ratings go from 1, bad, to 5, excellent: by ITU-T P.835 of the speech, of the background and overall, and overall by
ITU-T P.808. The networks come with the package speechmos. Its code is not run: it needs librosa, and leaves out windows
whose length its rounding makes a sample too short.

S samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from headrace.featurize.files.load_once import load_once
from headrace.store.errors import UsageError
from headrace.store.library_settings import quiet_onnxruntime

RATE, WINDOW = 16_000, 144_160
"""Hz, and samples that the networks read at a time: 9.01 s, at about 0.4 s of a CPU."""
SCALES = {
    "mos_speech": (-0.08397278, 1.22083953, 0.0052439),
    "mos_background": (-0.13166888, 1.60915514, -0.39604546),
    "mos": (-0.06766283, 1.11546468, 0.04602535),
}
"""P.835 ratings in the order of the network's outputs: polynomials from output to rating, highest power first."""
NAMES = (*SCALES, "mos_p808")
N_FFT, HOP, BANDS = 321, 160, 120
"""Of the log-mel spectrogram that the P.808 network reads."""
FLOOR_DB = 80.0
"""Range below the loudest band that the P.808 network was trained on."""


def model_file(name: str = "sig_bak_ovr.onnx") -> Path:
    """Return a network's file in the package speechmos, without importing the package.

    Raises:
        UsageError: speechmos or onnxruntime is not installed.
    """
    package, runtime = find_spec("speechmos"), find_spec("onnxruntime")
    for folder in (package.submodule_search_locations or ()) if package and runtime else ():
        if (file := Path(folder) / "dnsmos_models" / name).is_file():
            return file
    raise UsageError("mos is predicted by a network that is not installed: pip install 'headrace[mos]'.")


def is_installed() -> bool:
    """Return whether the networks and their runtime are installed."""
    try:
        model_file()
    except UsageError:
        return False
    return True


def scorer() -> Callable[[np.ndarray, int], dict[str, float]] | None:
    """Return `scores`, or None where the networks are not installed."""
    return scores if is_installed() else None


def at_model_rate(wave: np.ndarray, rate: int) -> np.ndarray:
    """Resample a waveform (n,) in [-1, 1] to (S,) at RATE, clipped to [-1, 1]."""
    samples_S: np.ndarray = soxr.resample(wave, rate, RATE).clip(-1, 1)
    return samples_S


def p835(window_S: np.ndarray) -> dict[str, float]:
    """Return ratings by `SCALES` of (WINDOW,) float32 samples."""
    (outputs,) = _session("sig_bak_ovr.onnx").run(None, {"input_1": window_S[None]})
    return {
        name: float(np.polyval(scale, output)) for (name, scale), output in zip(SCALES.items(), outputs[0], strict=True)
    }


def p808(window_S: np.ndarray) -> float:
    """Return the overall rating by P.808 of (WINDOW,) float32 samples."""
    (outputs,) = _session("model_v8.onnx").run(None, {"input_1": _log_mel(window_S[:-HOP])[None]})
    return float(outputs[0, 0])


def first_window_mos(wave: np.ndarray, rate: int) -> float:
    """Return the overall P.835 rating of the first nine seconds; a shorter recording is repeated.

    Args:
        wave: (T, hop) int16.
        rate: Hz.
    """
    start = wave.reshape(-1)[: WINDOW * rate // RATE + rate] / np.float32(32768)
    return p835(np.resize(at_model_rate(start, rate), WINDOW))["mos"]


def scores(wave: np.ndarray, rate: int) -> dict[str, float]:
    """Return the mean of all four ratings over windows of 9 s that begin every second, as DNSMOS' authors do.

    A shorter waveform is doubled until it is long enough. Takes a second of a CPU for ten of speech.

    Args:
        wave: (n,) in [-1, 1], of one sample at least.
        rate: Hz.
    Returns:
        by `NAMES`.
    """
    samples_S = at_model_rate(wave, rate).astype(np.float32)
    while len(samples_S) < WINDOW:
        samples_S = np.concatenate((samples_S, samples_S))
    starts = range(0, max(1, len(samples_S) // RATE - 9) * RATE, RATE)
    windows = [samples_S[start : start + WINDOW] for start in starts]
    rated = [{**p835(window_S), "mos_p808": p808(window_S)} for window_S in windows]
    return {name: float(np.mean([one[name] for one in rated])) for name in NAMES}


@load_once
def _session(name: str) -> Any:
    """Load a network once. It computes in one thread: featurizing workers are many."""
    quiet_onnxruntime()
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return InferenceSession(model_file(name), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UsageError(
            f"{model_file(name)} is damaged ({reason}): reinstall it, pip install 'headrace[mos]'."
        ) from error


def _log_mel(samples_S: np.ndarray) -> np.ndarray:
    """Return (S // HOP + 1, BANDS) float32: decibels below the loudest band, FLOOR_DB to 0, scaled to -1 to 1.

    Frames are centred, between zeros, under a periodic Hann window.
    """
    padded = np.pad(samples_S, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    mel = np.maximum(power @ _mel_filters(), 1e-10)
    decibels = 10 * np.log10(mel / mel.max())
    return ((np.maximum(decibels, -FLOOR_DB) + FLOOR_DB / 2) / (FLOOR_DB / 2)).astype(np.float32)


@load_once
def _mel_filters() -> np.ndarray:
    """Return (N_FFT // 2 + 1, BANDS) float64 filters on Slaney's mel scale."""
    from headrace.featurize.spectral.recipe import slaney_filters

    return slaney_filters(np.fft.rfftfreq(N_FFT, 1 / RATE), 0, RATE / 2, BANDS)
