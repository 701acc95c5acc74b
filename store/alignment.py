"""The alignment of an utterance as segments: phones and silences without gaps, whatever the source of the times.

The durations of the segments sum to the frames of the utterance, and each of its phones is one segment, in order. So
the phone of each frame, and the frames of each phone, can be looked up.

Shapes: P phones, T frames, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.store.reader import Store

SILENCE = -1
"""Index of a segment that is not a phone."""


@dataclass(frozen=True, slots=True)
class Segments:
    """The segments of an utterance."""

    phones: np.ndarray
    """(S,) int32: index of the phone in the utterance, or SILENCE."""
    ends: np.ndarray
    """(S,) int32: one past the last sample. The last segment ends with the utterance."""
    frames: np.ndarray
    """(S,) int32: duration in frames. They sum to T; a segment shorter than half a frame may have none."""

    @property
    def starts(self) -> np.ndarray:
        """Return the first sample of each segment: (S,)."""
        return np.append(0, self.ends[:-1])

    def phone_of_frame(self) -> np.ndarray:
        """Return the phone of each frame, or SILENCE: (T,) int32."""
        return np.repeat(self.phones, self.frames)

    def frames_of_phone(self) -> np.ndarray:
        """Return the first frame of each phone, and one past the last: (P, 2) int64."""
        stops = np.cumsum(self.frames, dtype=np.int64)
        return np.stack([stops - self.frames, stops], 1)[self.phones != SILENCE]

    def phones_within(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first, and one past the last, of the phones that lie by half or more in a range of frames.

        Of adjacent ranges, each phone belongs to exactly one.
        """
        middles = self.frames_of_phone().sum(1)
        first, last = np.searchsorted(middles, [2 * start, 2 * stop])
        return int(first), int(last)


def segments_of_times(times: np.ndarray, *, frames: int, hop: int) -> Segments:
    """Return the segments of phones with these times, and of the silences between them.

    Args:
        times: (P, 2), first sample of each phone and one past the last; ascending.
        frames: number of frames of the utterance.
        hop: number of samples in a frame.
    """
    count, end = len(times), frames * hop
    silences = np.append(times[1:, 0], end)  # each ends where the next phone begins
    ends = np.append(times[:1, 0], np.stack([times[:, 1], silences], 1)).astype(np.int32)
    phones = np.append(SILENCE, np.stack([np.arange(count), np.full(count, SILENCE)], 1)).astype(np.int32)
    nonempty = (phones != SILENCE) | (np.diff(ends, prepend=0) > 0)
    ends = ends[nonempty]
    return Segments(phones[nonempty], ends, np.diff((ends + hop // 2) // hop, prepend=0).astype(np.int32))


def read_segments(store: Store, number: int) -> Segments | None:
    """Read the alignment of an utterance: `align` if the store has it, otherwise the times that it was built with.

    Returns:
        None if the store has neither, or the utterance has no times.
    """
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
