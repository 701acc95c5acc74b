"""The torch engine on CUDA: ragged batches, decoded here while the device works on the ones before.

A batch is one stream of int16 samples. Each utterance, reflected at both ends, starts at a whole hop, and as many hops
lie free behind it as its padding takes: one framing of the stream then gives every utterance exactly its own frames,
and a few between utterances that nobody reads. Frames are transformed in chunks of one shape, so that FFT and matrix
products are the same kernels whatever else is in the batch: an utterance's numbers do not depend on its neighbours.

    host       waves -> pinned blocks ┐                     ┌> pinned results -> Spectra
    copy in                           └> stream ┐           │
    compute                                     └> chunks ──┤  mel, loudness; per utterance: floor, MFCC
    copy out                                                ┘

The transform runs in float64, everything after it in float32, as `dsp` has it. Cards for data centres do
float64 at half their rate, and memory is what binds: 100 kB a frame of 2048 go through it, 6 ms an hour of audio at 3
TB/s. On the others, at a 64th of the rate, its arithmetic is some 25 ms an hour on the largest. Sixteen cores take 100
ms to decode an hour of FLAC. Whitening frames, so that float32 suffices, would move more than it saves. (Arithmetic,
not measured: `benchmarks/engines.py` measures it where there is a card.)

Resampling stays on the host. Done here it would give samples that differ from soxr's on a CPU, and with them `wave`,
which every engine must agree on to the last bit; and a filter as long as soxr's is a third of what decoding costs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Tensor

from headrace.featurize.spectral.dsp import SpectralRecipe, dct, slaney_mel, window
from headrace.featurize.spectral.engine import Key, Spectra, checked
from headrace.store.errors import Rejected

BATCH = 1 << 24
"""Samples after which a batch is sent off: 9 minutes at 32 kHz, 33 MB. Batches are computed in whole chunks: of a small
one much would be nothing."""
BLOCK = 1 << 20
"""Samples of a pinned block, 2 MB. Hours of one recording go through the same few blocks."""
CHUNK = 2048
"""Frames transformed at a time. A dozen kernels a chunk, 5 us each to launch: with fewer frames a device waits for the
host. Temporaries, 50 kB a frame, are all that it holds beside the batch."""
AHEAD = 2
"""Batches under way while the next one is decoded."""
DECIBEL = 10 / math.log(10)
"""To a neper of power."""


class Lane:
    """A CUDA stream; on a CPU nothing, since everything there happens at once."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self) -> AbstractContextManager:
        """Context in which work is queued here."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def follow(self, other: Lane, *tensors: Tensor) -> None:
        """Work queued here from now on comes after all that is queued there; `tensors`, made there, are read here.

        The allocator must hear of the latter: it would hand their memory out again as soon as `other` is past them.
        """
        if self._stream and other._stream:
            self._stream.wait_stream(other._stream)
            for tensor in tensors:
                tensor.record_stream(self._stream)

    def mark(self) -> torch.cuda.Event | None:
        """An event behind all that is queued here. Who waits for it sleeps, and leaves the core to the decoders."""
        return self._stream.record_event(torch.cuda.Event(blocking=True)) if self._stream else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight(Generic[Key]):
    """A batch under way."""

    keys: Sequence[Key]
    rows: Sequence[slice]
    """Of each utterance's frames among those of the stream."""
    mel: Tensor
    """(frames, M), on the host; to be read after `landed`."""
    mfcc: Tensor
    """(frames, C), likewise."""
    landed: torch.cuda.Event | None

    def wait(self) -> None:
        if self.landed:
            self.landed.synchronize()

    def land(self) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Wait, then give each utterance its own copy: the pinned memory goes back to be used again."""
        self.wait()
        mel, mfcc = self.mel.numpy(), self.mfcc.numpy()
        for key, rows in zip(self.keys, self.rows, strict=True):
            yield key, checked(Spectra(mel[rows].copy(), mfcc[rows].copy()))


class Batched:
    """Engine of one recipe on one device."""

    def __init__(self, recipe: SpectralRecipe, device: str, dtype: type[np.floating] = np.float16) -> None:
        """
        Args:
            dtype: of the results; float32 where engines are compared.
        """
        torch.set_float32_matmul_precision("highest")  # NVIDIA's containers set TF32, which has 10 bits of mantissa
        self._recipe = recipe
        self._dtype = getattr(torch, np.dtype(dtype).name)
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._in, self._compute, self._out = (Lane(self._device) for _ in range(3))
        self._window = self._table(window(recipe) / 32768, torch.float64)
        self._mel_basis_FM = self._table(slaney_mel(recipe), torch.float32)
        self._dct_MC = self._table(dct(recipe.n_mels, recipe.n_mfcc) * DECIBEL, torch.float64)
        self._floor = torch.tensor(1e-4, device=self._device)

    def _table(self, values: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(self._device, dtype)

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        flights: deque[Flight[Key]] = deque()
        for batch in batches(waves, BATCH):
            flights.append(self._take_off(batch))
            if len(flights) > AHEAD:
                yield from flights.popleft().land()
        while flights:
            yield from flights.popleft().land()

    def _take_off(self, batch: Sequence[tuple[Key, np.ndarray]]) -> Flight[Key]:
        """Queue all work of a batch; wait for none of it."""
        layout = Layout(self._recipe, [len(wave) for _, wave in batch])
        samples = blocks(layout.stream([wave for _, wave in batch]), BLOCK, self._pinned)
        return self.launch([key for key, _ in batch], layout, samples)

    @torch.inference_mode()
    def launch(self, keys: Sequence[Key], layout: Layout, samples: Iterable[Tensor]) -> Flight[Key]:
        """
        Args:
            samples: of the stream that `layout` describes, int16, pinned where the device is not this one.
        """
        with self._in():
            stream = self._upload(layout, samples)
            owner = self._send(torch.from_numpy(layout.owner()))
        with self._compute():
            self._compute.follow(self._in, stream, owner)
            mel, mfcc = self.features(stream, owner, len(keys))
        with self._out():
            self._out.follow(self._compute, mel, mfcc)
            mel, mfcc = self._fetch(mel), self._fetch(mfcc)
        return Flight(keys=keys, rows=layout.rows, mel=mel, mfcc=mfcc, landed=self._out.mark())

    def _upload(self, layout: Layout, samples: Iterable[Tensor]) -> Tensor:
        """(layout.samples,) int16 on the device, sent block by block."""
        stream = torch.empty(layout.samples, dtype=torch.int16, device=self._device)
        sent = 0
        for block in samples:
            stream[sent : sent + len(block)].copy_(block, non_blocking=True)
            sent += len(block)
        return stream

    def _send(self, host: Tensor) -> Tensor:
        return (host.pin_memory() if self._pinned else host).to(self._device, non_blocking=True)

    def _fetch(self, result: Tensor) -> Tensor:
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=self._pinned)
        return host.copy_(result, non_blocking=True)

    def features(self, stream: Tensor, owner: Tensor, utterances: int) -> tuple[Tensor, Tensor]:
        """What the device does with a stream that lies there; rows that nobody owns mean nothing.

        Args:
            stream: (samples,) int16, as `Layout` has it.
            owner: (frames,) int64.
        Returns:
            mel (frames, M) and mfcc (frames, C), in the engine's dtype.
        """
        mel, loudness = self._bands(stream, len(owner))
        return mel, self._mfcc(loudness, owner, utterances)

    def _bands(self, stream: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """(samples,) int16 to log-mel and the logarithm of the power mel, in float32, both natural and (frames, M).

        `out` spares passes over memory: on CUDA types are converted inside the kernel that computes.
        """
        recipe = self._recipe
        mel = torch.empty(frames, recipe.n_mels, dtype=self._dtype, device=self._device)
        loudness = torch.empty(frames, recipe.n_mels, device=self._device)
        magnitude = torch.empty(CHUNK, recipe.n_fft // 2 + 1, device=self._device)
        framed = stream.unfold(0, recipe.n_fft, recipe.hop)
        for start in range(0, frames, CHUNK):
            at = slice(start, start + CHUNK)
            spectrum = torch.fft.rfft(framed[at] * self._window)
            torch.hypot(spectrum.real, spectrum.imag, out=magnitude)
            power = magnitude.square() @ self._mel_basis_FM
            torch.log(power.clamp_(min=1e-10), out=loudness[at])
            floored = torch.hypot(magnitude, self._floor) @ self._mel_basis_FM
            torch.log(floored.clamp_(min=1e-5), out=mel[at])
        return mel, loudness

    def _mfcc(self, loudness: Tensor, owner: Tensor, utterances: int) -> Tensor:
        """(frames, C), floored 80 dB under the peak of each utterance. Rows that nobody owns count as one more."""
        loudest = loudness.amax(1)
        peak = loudest.new_full((utterances + 1,), -torch.inf).scatter_reduce_(0, owner, loudest, "amax")
        floor = peak - 80 / DECIBEL
        return (torch.maximum(loudness, floor[owner, None]).double() @ self._dct_MC).to(self._dtype)


def batches(waves: Iterable[tuple[Key, np.ndarray]], samples: int) -> Iterator[list[tuple[Key, np.ndarray]]]:
    """Neighbours, until there are as many samples or more."""
    batch: list[tuple[Key, np.ndarray]] = []
    held = 0
    for key, wave in waves:
        batch.append((key, wave))
        held += len(wave)
        if held >= samples:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


class Layout:
    """Where the utterances of a batch lie in its stream."""

    def __init__(self, recipe: SpectralRecipe, lengths: Sequence[int]) -> None:
        """
        Args:
            lengths: samples of each utterance, whole hops.
        """
        self._recipe = recipe
        guard = -(-2 * recipe.padding // recipe.hop)
        owned = np.asarray(lengths) // recipe.hop
        stops = np.cumsum(owned + guard)
        self.rows = [slice(int(b - guard - n), int(b - guard)) for b, n in zip(stops, owned, strict=True)]
        self.frames = -(-int(stops[-1]) // CHUNK) * CHUNK
        """Of the stream, those between utterances included: whole chunks."""
        self.samples = self.frames * recipe.hop + 2 * recipe.padding

    def owner(self) -> np.ndarray:
        """(frames,) int64: the utterance whose frame it is, or the number of utterances where it is nobody's."""
        owner = np.full(self.frames, len(self.rows))
        for number, rows in enumerate(self.rows):
            owner[rows] = number
        return owner

    def stream(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The samples of the stream, in pieces."""
        pad, at = self._recipe.padding, 0
        for wave, rows in zip(waves, self.rows, strict=True):
            yield np.zeros(rows.start * self._recipe.hop - at, np.int16)
            yield wave[pad:0:-1]
            yield wave
            yield wave[-2 : -2 - pad : -1]
            at = rows.start * self._recipe.hop + len(wave) + 2 * pad
        yield np.zeros(self.samples - at, np.int16)


def blocks(pieces: Iterable[np.ndarray], size: int, pinned: bool) -> Iterator[Tensor]:
    """The same samples in blocks of `size`, the last one shorter.

    A pinned block given up here is handed out again only after the copies out of it are done: torch's allocator of
    pinned memory keeps an event for each.
    """
    block, filled = torch.empty(size, dtype=torch.int16, pin_memory=pinned), 0
    for piece in pieces:
        while len(piece):
            part, piece = piece[: size - filled], piece[size - filled :]
            block.numpy()[filled : filled + len(part)] = part
            filled += len(part)
            if filled == size:
                yield block
                block, filled = torch.empty(size, dtype=torch.int16, pin_memory=pinned), 0
    yield block[:filled]
