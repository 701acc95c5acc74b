"""Many recordings decoded, each to its waveform or to the reason why there is none, whatever they do to their decoder.

    at first    in this process, by one thread or by several that work a bounded way ahead. A watchdog ends the process
                when a decoder hangs, as a crash would have done.
    isolated    in a child process, one after the other: what crashes or hangs there is rejected, and a new child goes
                on. For a part over which a worker died.

So the first attempt costs nothing, and a recording that ends processes ends a worker and a child, and is found.
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

import numpy as np

from headrace.featurize.audio import decode
from headrace.featurize.audio.decode import Decoder, Level
from headrace.featurize.audio.recording import Limits, is_whole
from headrace.featurize.audio.subprocess_decoder import TICK_S, Child
from headrace.featurize.files import source
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from headrace.store.storage import StoragePath

Wave: TypeAlias = np.ndarray | Rejected

AHEAD_SAMPLES = 1 << 24
"""That are decoded, or about to be, before they are asked for: 100 MB at worst, nine minutes at 32 kHz. What is longer
is decoded when all before it has been taken."""
HANGING = 86
"""Exit code of a process that its watchdog ended."""


def decoded(
    root: StoragePath,
    utterances: Iterable[Utterance],
    sample_rate: int,
    level: Level,
    *,
    isolated: bool,
    threads: int,
    limits: Limits,
    decoder: Decoder = decode.waveform,
) -> Iterator[tuple[Utterance, Wave]]:
    """Decode utterances, in the order given.

    Args:
        root: of the corpus.
        isolated: decode in a child process, so that a file which crashes or hangs its decoder is found and rejected.
        threads: that decode at once in this process.
        decoder: an importable function.
    Yields:
        An utterance with its waveform, (samples,) int16 at `sample_rate`, or with why there is none.
    """
    if isolated:
        with closing(Child(decoder, sample_rate, level, limits)) as child:
            for utterance in utterances:
                yield utterance, _fetched(root, utterance, child.decode)
        return
    threads = threads if isinstance(root, Path) else max(threads, source.DOWNLOADS_AT_ONCE)
    with closing(_Watchdog()) as watchdog:

        def watched(here: StoragePath, utterance: Utterance) -> Wave:
            with watchdog.watching(utterance.audio, limits.allowance(utterance)):
                try:
                    return decoder(here, utterance, sample_rate, level, limits)
                except Rejected as error:
                    return error

        def work(utterance: Utterance) -> Wave:
            # A segment is read from where it is: a copy of its recording may be a thousand times as large.
            return _fetched(root, utterance, watched) if is_whole(utterance) else watched(root, utterance)

        if threads == 1:
            for utterance in utterances:
                yield utterance, work(utterance)
        else:
            yield from _ahead(work, utterances, threads, sample_rate)


def _fetched(root: StoragePath, utterance: Utterance, decode: Callable[[Path, Utterance], Wave]) -> Wave:
    """Decode from this machine: for how long a bucket is waited for is no fault of the recording."""
    try:
        with source.copied(root, utterance.audio) as here:
            return decode(here, utterance)
    except Rejected as error:
        return error


def _ahead(
    work: Callable[[Utterance], Wave], utterances: Iterable[Utterance], threads: int, rate: int
) -> Iterator[tuple[Utterance, Wave]]:
    """`work` by several threads. libsndfile and soxr hold no lock of Python's."""
    pending: deque[tuple[Utterance, int, Future[Wave]]] = deque()
    ahead = 0
    pool = ThreadPoolExecutor(threads)
    try:
        for utterance in utterances:
            samples = int(utterance.seconds * rate)
            while pending and ahead + samples > AHEAD_SAMPLES:
                done, taken, future = pending.popleft()
                ahead -= taken
                yield done, future.result()
            pending.append((utterance, samples, pool.submit(work, utterance)))
            ahead += samples
        while pending:
            done, _, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class _Watched:
    name: str
    allowance: float
    left: float


class _Watchdog:
    """Ends the process when something takes longer than it may, in any of its threads."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, name: str, allowance: float) -> Iterator[None]:
        """
        Args:
            allowance: in seconds.
        """
        key = threading.get_ident()
        self._watched[key] = _Watched(name, allowance, allowance)
        try:
            yield
        finally:
            del self._watched[key]

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(TICK_S):
            for watched in list(self._watched.values()):
                watched.left -= TICK_S
                if watched.left <= 0:
                    said = f"Decoding {watched.name} takes more than {watched.allowance:.0f} s: this worker is ended.\n"
                    sys.stderr.write(said)
                    sys.stderr.flush()
                    os._exit(HANGING)
