"""Decode many recordings, each to a waveform or to a reject, even if some crash or hang their decoder.

    first attempt   in this process, in one thread or in several that decode a bounded amount in advance. A watchdog
                    ends the process when a decoder hangs, as a crash would.
    isolated        in a child process, one recording at a time. A recording that crashes or hangs the child is
                    rejected, and a new child continues. Used for a part whose worker died.

The first attempt has no overhead. A recording that crashes its decoder costs one worker and one child, and is found.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from headrace.featurize.audio import decode
from headrace.featurize.audio.decode import Decoded, Decoder, Level
from headrace.featurize.audio.recording import Limits, is_whole_recording
from headrace.featurize.audio.subprocess_decoder import POLL_INTERVAL_S, DecoderProcess
from headrace.featurize.files import source
from headrace.store.errors import Rejected, rejecting
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

DecodedOrReject: TypeAlias = Decoded | Rejected

MAX_PENDING_SAMPLES = 1 << 24
"""Samples decoded, or queued for decoding, before they are consumed: at most 100 MB, nine minutes at 32 kHz. A longer
utterance is decoded once all before it have been consumed."""
HANG_EXIT_CODE = 86
"""Exit code of a process that its watchdog ended."""


def decode_utterances(
    root: StoragePath,
    utterances: Iterable[Utterance],
    sample_rate: int,
    level: Level,
    *,
    isolated: bool,
    threads: int,
    limits: Limits,
    decoder: Decoder = decode.decode,
) -> Iterator[tuple[Utterance, DecodedOrReject]]:
    """Decode utterances in the order given.

    Args:
        root, utterances: root of the corpus, and the utterances of it to decode.
        sample_rate: sample rate of the result, in Hz.
        level: level normalisation.
        isolated: decode in a child process, so that a file which crashes or hangs its decoder is found and rejected.
        threads: number of threads that decode in this process.
        limits: maximum duration and decoding time.
        decoder: an importable function.
    Yields:
        An utterance with its waveform at `sample_rate`, or with the reason why it is rejected.
    """
    if isolated:
        with closing(DecoderProcess(decoder, sample_rate, level, limits)) as child:
            for utterance in utterances:
                yield utterance, decode_local_copy(root, utterance, child.decode)
        return
    threads = threads if isinstance(root, Path) else max(threads, source.CONCURRENT_DOWNLOADS)
    with closing(_Watchdog()) as watchdog:

        def decode_watched(folder: StoragePath, utterance: Utterance) -> DecodedOrReject:
            try:
                with watchdog.watching(utterance.audio, limits.decode_timeout_s(utterance)), rejecting("decode"):
                    return decoder(folder, utterance, sample_rate, level, limits)
            except Rejected as error:
                return error

        def decode_one(utterance: Utterance) -> DecodedOrReject:
            if is_whole_recording(utterance) or utterance.member:
                return decode_local_copy(root, utterance, decode_watched)
            # A segment is read in place: a copy of its recording may be a thousand times as large.
            return decode_watched(root, utterance)

        if threads == 1:
            for utterance in utterances:
                yield utterance, decode_one(utterance)
        else:
            yield from _decode_ahead(decode_one, utterances, threads, sample_rate)


def decode_local_copy(
    root: StoragePath, utterance: Utterance, decode: Callable[[Path, Utterance], DecodedOrReject]
) -> DecodedOrReject:
    """Decode a local copy, so that the time of a download does not count as decoding time."""
    try:
        with (
            rejecting("decode"),
            source.local_folder(root, utterance.audio, utterance.member, utterance.size) as folder,
        ):
            return decode(folder, utterance)
    except Rejected as error:
        return error


def _decode_ahead(
    decode: Callable[[Utterance], DecodedOrReject], utterances: Iterable[Utterance], threads: int, rate: int
) -> Iterator[tuple[Utterance, DecodedOrReject]]:
    """Decode in several threads. libsndfile and soxr release the GIL."""
    pending: deque[tuple[Utterance, int, Future[DecodedOrReject]]] = deque()
    pending_samples = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for utterance in utterances:
            samples = int(utterance.seconds * rate)
            while pending and pending_samples + samples > MAX_PENDING_SAMPLES:
                first, first_samples, future = pending.popleft()
                pending_samples -= first_samples
                yield first, future.result()
            pending.append((utterance, samples, pool.submit(decode, utterance)))
            pending_samples += samples
        while pending:
            first, _, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class _Watched:
    name: str
    timeout_s: float
    remaining_s: float


class _Watchdog:
    """Ends the process when decoding exceeds its timeout in any thread."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, name: str, timeout_s: float) -> Iterator[None]:
        """End the process if this thread does not leave the context within `timeout_s`."""
        key = threading.get_ident()
        self._watched[key] = _Watched(name, timeout_s, timeout_s)
        try:
            yield
        finally:
            del self._watched[key]

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(POLL_INTERVAL_S):
            for watched in list(self._watched.values()):
                watched.remaining_s -= POLL_INTERVAL_S
                if watched.remaining_s <= 0:
                    limit = f"{watched.timeout_s:.0f} s"
                    sys.stderr.write(f"Decoding {watched.name} takes more than {limit}: this worker is ended.\n")
                    sys.stderr.flush()
                    os._exit(HANG_EXIT_CODE)
