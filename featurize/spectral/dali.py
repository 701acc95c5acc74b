"""The DALI engine: NVIDIA's Data Loading Library, on a CPU without a driver or on CUDA. Only this file imports it.

Decoding, checks and resampling take place outside of DALI, since one bad file would cost it the batch and the pipeline,
and its own resampler has no filter. DALI computes transform, mel bands and logarithms. It is fed blocks of a fixed
number of frames, whatever utterances they come from: its memory, which it never releases, is that of one block.

The frames come windowed and whitened (`whitening`), because DALI's transform is float32: fed plain waves it was
4e-3 off in the quiet bands of real speech, 9e-4 at the 99.9th percentile, where engines may differ by 5e-4 and 5e-5.
Whitened, it is 1.8e-4 and 1.8e-5 off at gpt-sovits-v2; in the 400 points of whisper-16k a few bands in a million are up
to 2e-3 off. Frames are whitened before, in float64: on a CPU by Numba in 5 us a frame of 2048, on CUDA by torch on the
device.

That makes DALI the slower engine: on a CPU it takes six times as long as torch (benchmarks/results/engines.md), and on
CUDA whitening moves more bytes than the whole torch engine. It serves as a second opinion on the numbers, and for those
who use DALI everywhere.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from nvidia.dali import Pipeline, fn, math
from nvidia.dali.data_node import DataNode

from headrace.featurize.spectral import whitening
from headrace.featurize.spectral.dsp import SpectralRecipe, dct, window
from headrace.featurize.spectral.engine import Key, Spectra, reject_if_not_finite
from headrace.store.errors import Rejected

BLOCK = {"cpu": 256, "cuda": 2048}
"""Frames a run of the pipeline, by device: on a CPU 64 took a fifth longer, 1024 as long. A run of 256 is fed 3 MB."""
AHEAD = 2
"""Runs in flight while the next block is filled."""

INPUTS = ("white", "gain")
"""Inputs of the pipeline: (K, n_fft) whitened frames and (K, n_fft // 2 + 1) the gain of their power, float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _PartialSpectra(Generic[Key]):
    """The spectra of an utterance, filled block by block."""

    key: Key
    mel: np.ndarray
    """(T, M), of the engine's dtype."""
    decibel: np.ndarray
    """(T, M) float32."""


Portion = tuple[_PartialSpectra[Key], slice, slice]
"""Frames of an utterance in a block: the utterance, its own frames, and the block's rows."""


class DaliEngine:
    """The engine of one recipe on one device."""

    def __init__(self, recipe: SpectralRecipe, device: str, dtype: type[np.floating] = np.float16) -> None:
        """Build the pipeline.

        Args:
            recipe: of the spectra.
            device: cpu or cuda.
            dtype: of the results; float32 to compare engines.
        """
        self._recipe = recipe
        self._dtype = dtype
        self._device = torch.device(device)
        self._window = torch.from_numpy(window(recipe) / 32768).to(self._device)
        self._waves = torch.from_numpy(whitening.cosines_and_sines(recipe.n_fft)).to(self._device)
        self._dct_MC = dct(recipe.n_mels, recipe.n_mfcc)
        self._blocks = self._ring(recipe.n_fft, torch.int16)
        self._white, self._gain = (self._ring(n, torch.float32) for n in (recipe.n_fft, recipe.n_fft // 2 + 1))
        self._pipeline = pipeline(recipe, torch.cuda.current_device() if device == "cuda" else None)
        self._prime()

    def _ring(self, width: int, dtype: torch.dtype) -> Iterator[np.ndarray]:
        """Yield arrays for successive blocks. One is reused when the run that read it is over."""
        shape, pinned = (BLOCK[self._device.type], width), self._device.type == "cuda"
        return itertools.cycle([torch.zeros(shape, dtype=dtype, pin_memory=pinned).numpy() for _ in range(AHEAD + 1)])

    def _prime(self) -> None:
        """Fill the queue: the first `schedule_run` of a pipeline runs once per place in its queue, later ones once."""
        for _ in range(AHEAD):
            self._feed(next(self._blocks))
        self._pipeline.schedule_run()
        for _ in range(AHEAD):
            self._skip()

    def _feed(self, block: np.ndarray) -> None:
        """Feed a block of (K, n_fft) int16 frames to the pipeline."""
        for name, data in zip(INPUTS, self._whiten(block), strict=True):
            self._pipeline.feed_input(name, [data])

    def _whiten(self, block: np.ndarray) -> tuple[Any, Any]:
        if self._device.type == "cuda":
            frames = torch.from_numpy(block).to(self._device, non_blocking=True) * self._window
            return whitening.whiten_tensors(frames, self._waves)
        white, gain = next(self._white), next(self._gain)
        whitening.whiten_in_place(block, self._window.numpy(), self._waves.numpy(), white, gain)
        return white, gain

    def _skip(self) -> None:
        self._pipeline.share_outputs()
        self._pipeline.release_outputs()

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        pending: deque[list[Portion[Key]]] = deque()
        try:
            for block, portions in self._fill_blocks(waves):
                if len(pending) == AHEAD:
                    yield from self._collect(pending.popleft())
                self._feed(block)
                self._pipeline.schedule_run()
                pending.append(portions)
            while pending:
                yield from self._collect(pending.popleft())
        finally:
            for _ in pending:  # a consumer that stops early must leave no results in the queue
                self._skip()

    def _fill_blocks(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[np.ndarray, list[Portion[Key]]]]:
        """Yield full blocks. The rest of the last block keeps old frames."""
        block, portions, filled = next(self._blocks), list[Portion[Key]](), 0
        hop, pad, n = self._recipe.hop, self._recipe.padding, self._recipe.n_fft
        for key, wave in waves:
            utterance, start = self._new_utterance(key, len(wave) // hop), 0
            frames = sliding_window_view(np.pad(wave, pad, mode="reflect"), n)[::hop]
            while start < len(frames):
                stop = min(start + len(block) - filled, len(frames))
                rows = slice(filled, filled + stop - start)
                block[rows] = frames[start:stop]
                portions.append((utterance, slice(start, stop), rows))
                start, filled = stop, rows.stop
                if filled == len(block):
                    yield block, portions
                    block, portions, filled = next(self._blocks), [], 0
        if portions:
            yield block, portions

    def _new_utterance(self, key: Key, frames: int) -> _PartialSpectra[Key]:
        shape = (frames, self._recipe.n_mels)
        return _PartialSpectra(key=key, mel=np.empty(shape, self._dtype), decibel=np.empty(shape, np.float32))

    def _collect(self, portions: list[Portion[Key]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Copy the results of the oldest run, and yield the utterances that they complete."""
        mel, decibel = (output.as_cpu().as_array()[0] for output in self._pipeline.share_outputs())
        for utterance, own, rows in portions:
            utterance.mel[own], utterance.decibel[own] = mel[rows], decibel[rows]
        self._pipeline.release_outputs()
        for utterance, own, _ in portions:
            if own.stop == len(utterance.mel):
                yield utterance.key, self._finish(utterance)

    def _finish(self, utterance: _PartialSpectra[Key]) -> Spectra | Rejected:
        """Apply the floor and the DCT, which need the whole utterance."""
        floored = np.maximum(utterance.decibel, utterance.decibel.max() - 80)
        return reject_if_not_finite(
            Spectra(utterance.mel, (floored.astype(np.float64) @ self._dct_MC).astype(self._dtype))
        )


def pipeline(recipe: SpectralRecipe, device_id: int | None) -> Pipeline:
    """Return a pipeline from INPUTS to log-mel and the power mel in dB, both (K, M) float32."""
    pipe = Pipeline(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=AHEAD)
    with pipe:
        place = "cpu" if device_id is None else "gpu"
        white, gain = (fn.external_source(name=name, device=place, no_copy=place == "cpu") for name in INPUTS)
        n = recipe.n_fft
        flat = fn.spectrogram(
            fn.reshape(white, shape=[-1]), nfft=n, window_length=n, window_step=n, window_fn=[1.0] * n,
            center_windows=False, layout="tf",
        )  # fmt: skip
        power = flat * gain
        mel = math.log(math.max(_mel_bands(math.sqrt(power + 1e-8), recipe), 1e-5))
        decibel = fn.to_decibels(_mel_bands(power, recipe), multiplier=10.0, reference=1.0, cutoff_db=-100.0)
        pipe.set_outputs(mel, decibel)
    pipe.build()
    return pipe


def _mel_bands(spectrum: DataNode, recipe: SpectralRecipe) -> DataNode:
    """Filter (K, F) to (K, M). Frames come first: frequencies first take twice as long on a CPU."""
    return fn.mel_filter_bank(
        fn.reshape(spectrum, layout="tf"), sample_rate=recipe.sample_rate, nfilter=recipe.n_mels,
        freq_low=recipe.fmin, freq_high=recipe.fmax,
    )  # fmt: skip
