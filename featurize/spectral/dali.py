"""The DALI engine: NVIDIA's Data Loading Library, on a CPU without a driver or on CUDA. The one file that knows it.

DALI gets clean samples: decoding, checks and resampling lie outside, file by file, since one bad file costs it the
batch and the pipeline, and its own resampler has no filter. Here it transforms, filters into mel bands and takes
logarithms. What it is fed are not waves but blocks of frames, always as many, whatever utterances they come from: so
its memory, which it never gives back, is that of a block, after an hour of one recording too.

The frames come windowed and whitened (`whitening`), because DALI's transform is float32: fed plain waves it was
4e-3 off in the quiet bands of real speech, 9e-4 at the 99.9th percentile, where engines may differ by 5e-4 and 5e-5.
Whitened, it is 1.8e-4 and 1.8e-5 off at gpt-sovits-v2; in the 400 points of whisper-16k a few bands in a million are up
to 2e-3 off. Whitening is done before, in float64: on a CPU by Numba in 5 us a frame of 2048, on CUDA by torch, where
the frames lie.

That makes DALI the slower engine: on a CPU it takes six times as long as torch (benchmarks/results/engines.md), and on
CUDA whitening moves more bytes than all that the torch engine does. It is for a second opinion on the numbers, and for
whoever has it as the standard of the house.
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
from headrace.featurize.spectral.engine import Key, Spectra, checked
from headrace.store.errors import Rejected

BLOCK = {"cpu": 256, "cuda": 2048}
"""Frames a run of the pipeline, by device: on a CPU 64 took a fifth longer, 1024 as long. A run of 256 is fed 3 MB."""
AHEAD = 2
"""Runs under way while the next block is filled."""

INPUTS = ("white", "gain")
"""Of the pipeline: (K, n_fft) whitened frames and (K, n_fft // 2 + 1) the gain that their power lacks, float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance(Generic[Key]):
    """What has come back of an utterance so far."""

    key: Key
    mel: np.ndarray
    """(T, M), of the engine's dtype."""
    decibel: np.ndarray
    """(T, M) float32."""


Share = tuple[Utterance[Key], slice, slice]
"""Whose frames these are, which of its own, and which of the block's."""


class Dali:
    """Engine of one recipe on one device."""

    def __init__(self, recipe: SpectralRecipe, device: str, dtype: type[np.floating] = np.float16) -> None:
        """
        Args:
            dtype: of the results; float32 where engines are compared.
        """
        self._recipe = recipe
        self._dtype = dtype
        self._device = torch.device(device)
        self._window = torch.from_numpy(window(recipe) / 32768).to(self._device)
        self._waves = torch.from_numpy(whitening.waves(recipe.n_fft)).to(self._device)
        self._dct_MC = dct(recipe.n_mels, recipe.n_mfcc)
        self._blocks = self._ring(recipe.n_fft, torch.int16)
        self._white, self._gain = (self._ring(n, torch.float32) for n in (recipe.n_fft, recipe.n_fft // 2 + 1))
        self._pipeline = pipeline(recipe, torch.cuda.current_device() if device == "cuda" else None)
        self._prime()

    def _ring(self, width: int, dtype: torch.dtype) -> Iterator[np.ndarray]:
        """Arrays for one block after the other. One comes round again when the run that read it is over."""
        shape, pinned = (BLOCK[self._device.type], width), self._device.type == "cuda"
        return itertools.cycle([torch.zeros(shape, dtype=dtype, pin_memory=pinned).numpy() for _ in range(AHEAD + 1)])

    def _prime(self) -> None:
        """The first `schedule_run` of a pipeline runs as often as its queue is deep, every later one once."""
        for _ in range(AHEAD):
            self._feed(next(self._blocks))
        self._pipeline.schedule_run()
        for _ in range(AHEAD):
            self._skip()

    def _feed(self, block: np.ndarray) -> None:
        """(K, n_fft) int16 frames."""
        for name, data in zip(INPUTS, self._whitened(block), strict=True):
            self._pipeline.feed_input(name, [data])

    def _whitened(self, block: np.ndarray) -> tuple[Any, Any]:
        if self._device.type == "cuda":
            frames = torch.from_numpy(block).to(self._device, non_blocking=True) * self._window
            return whitening.in_tensors(frames, self._waves)
        white, gain = next(self._white), next(self._gain)
        whitening.in_place(block, self._window.numpy(), self._waves.numpy(), white, gain)
        return white, gain

    def _skip(self) -> None:
        self._pipeline.share_outputs()
        self._pipeline.release_outputs()

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        flying: deque[list[Share[Key]]] = deque()
        try:
            for block, shares in self._filled(waves):
                if len(flying) == AHEAD:
                    yield from self._landed(flying.popleft())
                self._feed(block)
                self._pipeline.schedule_run()
                flying.append(shares)
            while flying:
                yield from self._landed(flying.popleft())
        finally:
            for _ in flying:  # whoever stops listening leaves nothing for the next to find
                self._skip()

    def _filled(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[np.ndarray, list[Share[Key]]]]:
        """Blocks, full but for the last one, whose rest is what was there before."""
        block, shares, filled = next(self._blocks), list[Share[Key]](), 0
        hop, pad, n = self._recipe.hop, self._recipe.padding, self._recipe.n_fft
        for key, wave in waves:
            utterance, at = self._utterance(key, len(wave) // hop), 0
            frames = sliding_window_view(np.pad(wave, pad, mode="reflect"), n)[::hop]
            while at < len(frames):
                stop = min(at + len(block) - filled, len(frames))
                rows = slice(filled, filled + stop - at)
                block[rows] = frames[at:stop]
                shares.append((utterance, slice(at, stop), rows))
                at, filled = stop, rows.stop
                if filled == len(block):
                    yield block, shares
                    block, shares, filled = next(self._blocks), [], 0
        if shares:
            yield block, shares

    def _utterance(self, key: Key, frames: int) -> Utterance[Key]:
        shape = (frames, self._recipe.n_mels)
        return Utterance(key=key, mel=np.empty(shape, self._dtype), decibel=np.empty(shape, np.float32))

    def _landed(self, shares: list[Share[Key]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Take the results of the oldest run out of DALI's hands; give on the utterances that they complete."""
        mel, decibel = (output.as_cpu().as_array()[0] for output in self._pipeline.share_outputs())
        for utterance, own, rows in shares:
            utterance.mel[own], utterance.decibel[own] = mel[rows], decibel[rows]
        self._pipeline.release_outputs()
        for utterance, own, _ in shares:
            if own.stop == len(utterance.mel):
                yield utterance.key, self._finished(utterance)

    def _finished(self, utterance: Utterance[Key]) -> Spectra | Rejected:
        """Floor and cosine transform belong to the whole utterance, which DALI has not seen in one piece."""
        floored = np.maximum(utterance.decibel, utterance.decibel.max() - 80)
        return checked(Spectra(utterance.mel, (floored.astype(np.float64) @ self._dct_MC).astype(self._dtype)))


def pipeline(recipe: SpectralRecipe, device_id: int | None) -> Pipeline:
    """From `INPUTS` to log-mel and the power mel in dB, both (K, M) float32."""
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
        mel = math.log(math.max(_filtered(math.sqrt(power + 1e-8), recipe), 1e-5))
        decibel = fn.to_decibels(_filtered(power, recipe), multiplier=10.0, reference=1.0, cutoff_db=-100.0)
        pipe.set_outputs(mel, decibel)
    pipe.build()
    return pipe


def _filtered(spectrum: DataNode, recipe: SpectralRecipe) -> DataNode:
    """(K, F) to (K, M). By its layout, frames first: frequency first takes twice as long on a CPU."""
    return fn.mel_filter_bank(
        fn.reshape(spectrum, layout="tf"), sample_rate=recipe.sample_rate, nfilter=recipe.n_mels,
        freq_low=recipe.fmin, freq_high=recipe.fmax,
    )  # fmt: skip
