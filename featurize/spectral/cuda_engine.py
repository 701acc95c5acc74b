"""The torch engine on CUDA: ragged batches, decoded on the host while the device computes the previous ones.

A batch is concatenated to one array of int16 samples. Each utterance, reflected at both ends, starts at a multiple of
the hop, followed by as many free hops as its padding needs. Framing the array then gives every utterance exactly its
own frames, and a few frames between utterances that are ignored. Frames are transformed in chunks of one shape, so that
FFT and matrix products use the same kernels whatever else is in the batch: results do not depend on neighbours.

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
from headrace.featurize.spectral.engine import Key, Spectra, reject_if_not_finite
from headrace.featurize.spectral.float32 import allow_tf32
from headrace.store.errors import Rejected

BATCH_SAMPLES = 1 << 24
"""Samples after which a batch is submitted: 9 minutes at 32 kHz, 33 MB. Batches are padded to whole chunks, so that a
smaller one would waste computation."""
BLOCK_SAMPLES = 1 << 20
"""Samples of a pinned block, 2 MB. Long recordings reuse the same few blocks."""
CHUNK_FRAMES = 2048
"""Frames transformed at a time. A chunk takes seven kernels, 5 us each to launch: with fewer frames the device would
wait for the host. Temporaries take 50 kB per frame."""
MAX_PENDING_BATCHES = 2
"""Batches in flight while the next one is decoded."""
DB_PER_NEPER = 10 / math.log(10)
"""Decibels per neper of power."""


class Stream:
    """A CUDA stream. On a CPU it does nothing, since everything is computed immediately."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self) -> AbstractContextManager:
        """Return a context in which work is queued on this stream."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def wait_for(self, other: Stream, *tensors: Tensor) -> None:
        """Make later work on this stream wait for all that is queued on `other`.

        Args:
            other: stream that computes `tensors`.
            tensors: read on this stream. The allocator is told, or it would reuse their memory as soon as `other` is
                done with them.
        """
        if self._stream and other._stream:
            self._stream.wait_stream(other._stream)
            for tensor in tensors:
                tensor.record_stream(self._stream)

    def record_event(self) -> torch.cuda.Event | None:
        """Record an event after all queued work. Waiting for it blocks, so that the core is free for the decoders."""
        return self._stream.record_event(torch.cuda.Event(blocking=True)) if self._stream else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingBatch(Generic[Key]):
    """A batch in flight."""

    keys: Sequence[Key]
    rows: Sequence[slice]
    """The frames of each utterance in the batch."""
    mel: Tensor
    """(frames, M) on the host, valid after `finished`."""
    mfcc: Tensor
    """(frames, C), likewise."""
    finished: torch.cuda.Event | None

    def wait(self) -> None:
        """Wait until the results are on the host."""
        if self.finished:
            self.finished.synchronize()

    def results(self) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Wait, then yield a copy of each utterance's results, so that the pinned memory can be reused."""
        self.wait()
        mel, mfcc = self.mel.numpy(), self.mfcc.numpy()
        for key, rows in zip(self.keys, self.rows, strict=True):
            yield key, reject_if_not_finite(Spectra(mel[rows].copy(), mfcc[rows].copy()))


class BatchedEngine:
    """The engine of one recipe on one device."""

    def __init__(self, recipe: SpectralRecipe, device: str, dtype: type[np.floating] = np.float16) -> None:
        """Allocate the tables on the device.

        Args:
            recipe: of the spectra.
            device: cpu or cuda.
            dtype: of the results; float32 to compare engines.
        """
        allow_tf32(False)
        self._recipe = recipe
        self._dtype = getattr(torch, np.dtype(dtype).name)
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._copy_in, self._compute, self._copy_out = (Stream(self._device) for _ in range(3))
        self._window = self._table(window(recipe) / 32768, torch.float64)
        self._mel_basis_FM = self._table(slaney_mel(recipe), torch.float32)
        self._dct_MC = self._table(dct(recipe.n_mels, recipe.n_mfcc) * DB_PER_NEPER, torch.float64)
        self._floor = torch.tensor(1e-4, device=self._device)

    def _table(self, values: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(self._device, dtype)

    def spectra(self, waves: Iterable[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        pending: deque[PendingBatch[Key]] = deque()
        for batch in make_batches(waves, BATCH_SAMPLES):
            submitted = self._try_to_submit(batch)
            if submitted is None:
                while pending:
                    yield from pending.popleft().results()
                yield from self._spectra_in_halves(batch)
                continue
            pending.append(submitted)
            if len(pending) > MAX_PENDING_BATCHES:
                yield from pending.popleft().results()
        while pending:
            yield from pending.popleft().results()

    def _try_to_submit(
        self, batch: Sequence[tuple[Key, np.ndarray]], may_split: bool = True
    ) -> PendingBatch[Key] | None:
        """Queue all work of a batch; None if it does not fit into the device's memory, and may be split."""
        try:
            return self._submit(batch)
        except torch.OutOfMemoryError:
            if not may_split:
                raise
            return None

    def _spectra_in_halves(self, batch: Sequence[tuple[Key, np.ndarray]]) -> Iterator[tuple[Key, Spectra | Rejected]]:
        """Compute a batch that did not fit into memory beside others: alone, then in halves.

        Raises:
            torch.OutOfMemoryError: a single utterance does not fit.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if (submitted := self._try_to_submit(batch, may_split=len(batch) > 1)) is not None:
            yield from submitted.results()
            return
        half = len(batch) // 2
        yield from self._spectra_in_halves(batch[:half])
        yield from self._spectra_in_halves(batch[half:])

    def _submit(self, batch: Sequence[tuple[Key, np.ndarray]]) -> PendingBatch[Key]:
        """Queue all work of a batch without waiting for it."""
        layout = Layout(self._recipe, [len(wave) for _, wave in batch])
        samples = make_blocks(layout.stream([wave for _, wave in batch]), BLOCK_SAMPLES, self._pinned)
        return self.submit([key for key, _ in batch], layout, samples)

    @torch.inference_mode()
    def submit(self, keys: Sequence[Key], layout: Layout, samples: Iterable[Tensor]) -> PendingBatch[Key]:
        """Queue the copies and the computation of a batch without waiting for them.

        Args:
            keys: one per utterance, returned with the results.
            layout: of the batch.
            samples: int16 blocks of the batch as `layout` describes it, in pinned memory for a CUDA device.
        """
        with self._copy_in():
            stream = self._upload(layout, samples)
            owner = self._send(torch.from_numpy(layout.owner()))
        with self._compute():
            self._compute.wait_for(self._copy_in, stream, owner)
            mel, mfcc = self.features(stream, owner, len(keys))
        with self._copy_out():
            self._copy_out.wait_for(self._compute, mel, mfcc)
            mel, mfcc = self._fetch(mel), self._fetch(mfcc)
        return PendingBatch(keys=keys, rows=layout.rows, mel=mel, mfcc=mfcc, finished=self._copy_out.record_event())

    def _upload(self, layout: Layout, samples: Iterable[Tensor]) -> Tensor:
        """Copy the samples to the device block by block. Return (layout.samples,) int16."""
        stream = torch.empty(layout.samples, dtype=torch.int16, device=self._device)
        start = 0
        for block in samples:
            stream[start : start + len(block)].copy_(block, non_blocking=True)
            start += len(block)
        return stream

    def _send(self, host: Tensor) -> Tensor:
        return (host.pin_memory() if self._pinned else host).to(self._device, non_blocking=True)

    def _fetch(self, result: Tensor) -> Tensor:
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=self._pinned)
        return host.copy_(result, non_blocking=True)

    def features(self, stream: Tensor, owner: Tensor, utterances: int) -> tuple[Tensor, Tensor]:
        """Compute the spectra of a batch on the device. Rows that belong to no utterance are undefined.

        Args:
            stream: (samples,) int16, as `Layout` describes it.
            owner: (frames,) int64, the utterance of every frame.
            utterances: their number.
        Returns:
            mel (frames, M) and mfcc (frames, C), in the engine's dtype.
        """
        mel, loudness = self._bands(stream, len(owner))
        return mel, self._mfcc(loudness, owner, utterances)

    def _bands(self, stream: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return log-mel and the natural logarithm of the power mel, both (frames, M).

        `out` saves passes over memory: on CUDA the kernel that computes also converts types. What is small, the bands,
        is made of all chunks at once: it is launches that cost there.
        """
        recipe = self._recipe
        mel = torch.empty(frames, recipe.n_mels, dtype=self._dtype, device=self._device)
        loudness, floored = (torch.empty(frames, recipe.n_mels, device=self._device) for _ in range(2))
        magnitude = torch.empty(CHUNK_FRAMES, recipe.n_fft // 2 + 1, device=self._device)
        framed = stream.unfold(0, recipe.n_fft, recipe.hop)
        for start in range(0, frames, CHUNK_FRAMES):
            at = slice(start, start + CHUNK_FRAMES)
            spectrum = torch.fft.rfft(framed[at] * self._window)
            torch.hypot(spectrum.real, spectrum.imag, out=magnitude)
            torch.mm(magnitude.square(), self._mel_basis_FM, out=loudness[at])
            torch.mm(torch.hypot(magnitude, self._floor), self._mel_basis_FM, out=floored[at])
        torch.log(floored.clamp_(min=1e-5), out=mel)
        return mel, loudness.clamp_(min=1e-10).log_()

    def _mfcc(self, loudness: Tensor, owner: Tensor, utterances: int) -> Tensor:
        """Return (frames, C), floored 80 dB under each utterance's peak. All other rows count as one utterance."""
        loudest = loudness.amax(1)
        peak = loudest.new_full((utterances + 1,), -torch.inf).scatter_reduce_(0, owner, loudest, "amax")
        floor = peak - 80 / DB_PER_NEPER
        return (torch.maximum(loudness, floor[owner, None]).double() @ self._dct_MC).to(self._dtype)


def make_batches(waves: Iterable[tuple[Key, np.ndarray]], samples: int) -> Iterator[list[tuple[Key, np.ndarray]]]:
    """Yield batches of consecutive waves, each with at least `samples` samples; the last may have fewer."""
    batch: list[tuple[Key, np.ndarray]] = []
    total = 0
    for key, wave in waves:
        batch.append((key, wave))
        total += len(wave)
        if total >= samples:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


class Layout:
    """The positions of the utterances in a batch."""

    def __init__(self, recipe: SpectralRecipe, lengths: Sequence[int]) -> None:
        """Lay the utterances out.

        Args:
            recipe: of the spectra.
            lengths: samples of each utterance, multiples of the hop.
        """
        self._recipe = recipe
        guard = -(-2 * recipe.padding // recipe.hop)
        owned = np.asarray(lengths) // recipe.hop
        stops = np.cumsum(owned + guard)
        self.rows = [slice(int(b - guard - n), int(b - guard)) for b, n in zip(stops, owned, strict=True)]
        self.frames = -(-int(stops[-1]) // CHUNK_FRAMES) * CHUNK_FRAMES
        """Frames of the batch, including those between utterances: a multiple of CHUNK_FRAMES."""
        self.samples = self.frames * recipe.hop + 2 * recipe.padding

    def owner(self) -> np.ndarray:
        """Return (frames,) int64: the utterance of every frame, or the number of utterances if it belongs to none."""
        owner = np.full(self.frames, len(self.rows))
        for number, rows in enumerate(self.rows):
            owner[rows] = number
        return owner

    def stream(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the samples of the batch in pieces, int16."""
        pad, at = self._recipe.padding, 0
        for wave, rows in zip(waves, self.rows, strict=True):
            yield np.zeros(rows.start * self._recipe.hop - at, np.int16)
            yield wave[pad:0:-1]
            yield wave
            yield wave[-2 : -2 - pad : -1]
            at = rows.start * self._recipe.hop + len(wave) + 2 * pad
        yield np.zeros(self.samples - at, np.int16)


def make_blocks(pieces: Iterable[np.ndarray], size: int, pinned: bool) -> Iterator[Tensor]:
    """Yield the samples of pieces in blocks of `size`; the last is shorter.

    The memory of a pinned block is reused only after the copies from it are done: torch's allocator of pinned memory
    keeps an event for each block.
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
