"""What is said when in an utterance, wherever its times come from: phones and silences, without a gap.

The alignment law: the segments of an utterance share out its frames, and its phones are among them, each once and in
order. Frames and phones can be found from one another.

P phones, T frames, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.store.reader import Store

SILENCE = -1
"""In the place of a phone."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Of one utterance."""

    phones: np.ndarray
    """(S,) int32: which phone of the utterance each is, or SILENCE."""
    ends: np.ndarray
    """(S,) int32: where each ends, in samples. The last one ends with the utterance."""
    frames: np.ndarray
    """(S,) int32: durations. They sum to T; what is shorter than half a frame may have none."""

    @property
    def starts(self) -> np.ndarray:
        """(S,) in samples."""
        return np.append(0, self.ends[:-1])

    def phone_of_frame(self) -> np.ndarray:
        """(T,) int32: the phone that every frame belongs to, or SILENCE."""
        return np.repeat(self.phones, self.frames)

    def frames_of_phone(self) -> np.ndarray:
        """(P, 2) int64: every phone's first frame and one past its last."""
        stops = np.cumsum(self.frames, dtype=np.int64)
        return np.stack([stops - self.frames, stops], 1)[self.phones != SILENCE]

    def phones_within(self, start: int, stop: int) -> tuple[int, int]:
        """The phones of a stretch of frames, for training on it alone: the first, and one past the last, of those that
        lie in it by half or more. Stretches that follow one another share the phones out."""
        middles = self.frames_of_phone().sum(1)
        first, last = np.searchsorted(middles, [2 * start, 2 * stop])
        return int(first), int(last)


def segments_of_times(times: np.ndarray, *, frames: int, hop: int) -> Segments:
    """
    Args:
        times: (P, 2) first sample and one past the last of each phone; ascending.
        frames: T.
        hop: samples of a frame.
    """
    count, end = len(times), frames * hop
    silences = np.append(times[1:, 0], end)  # each ends where the next phone begins
    ends = np.append(times[:1, 0], np.stack([times[:, 1], silences], 1)).astype(np.int32)
    phones = np.append(SILENCE, np.stack([np.arange(count), np.full(count, SILENCE)], 1)).astype(np.int32)
    there = (phones != SILENCE) | (np.diff(ends, prepend=0) > 0)
    ends = ends[there]
    return Segments(phones[there], ends, np.diff((ends + hop // 2) // hop, prepend=0).astype(np.int32))


def read_segments(store: Store, number: int) -> Segments | None:
    """Of an utterance of a store: by `align` where it has that, else by the times that it was built with. None where it
    has neither."""
    if "align" in store.features:
        times = store.read("align", number)
    elif "phone_end" in store.features:
        ends = store.read("phone_end", number)
        times = np.stack([np.append(0, ends[:-1]), ends], 1)
    else:
        return None
    if not len(times) or times[0, 1] < 0:
        return None
    return segments_of_times(times, frames=int(store.frames[number]), hop=store.hop)
