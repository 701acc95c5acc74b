"""Cut long recordings at silence into the segments of a list. No audio is copied: the list points into recordings.

recordings --levels, in child processes--> runs of speech --> segments --> LIST, a table that `build` reads
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from headrace.featurize.audio import recording
from headrace.featurize.audio.decode import Decoded
from headrace.featurize.audio.decode_pool import decode_local_copy
from headrace.featurize.audio.recording import Limits
from headrace.featurize.audio.subprocess_decoder import DecoderProcess
from headrace.featurize.files import folders, source
from headrace.featurize.files.source import Source
from headrace.featurize.segmentation import segment_list, segments, speech_activity
from headrace.featurize.segmentation.frame_levels import FRAME_RATE, decode_levels, frame_samples, to_db
from headrace.featurize.segmentation.segment_list import Row
from headrace.featurize.segmentation.segments import Bounds, Segment
from headrace.featurize.segmentation.speech_activity import Activity
from headrace.store import rejects
from headrace.store.errors import CorpusError, Rejected, rejecting
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import StoragePath
from headrace.store.storage.output_files import check_output_file

LIMITS = Limits(max_duration_s=86_400.0)
"""A recording may last a day: it is decoded block by block."""
_UNLISTABLE = re.compile(r"[\x00-\x1f\x85\u2028\u2029\\]")
_HALF = re.compile("[\ud800-\udfff\n\t]")
"""In a path, a byte that is not UTF-8."""
_AHEAD = 2
"""Recordings that wait for each child process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """What to cut, and how."""

    corpus: StoragePath
    """A folder of recordings, or one recording."""
    out: Path
    """The list, a .tsv."""
    activity: Activity = field(default_factory=Activity)
    bounds: Bounds = field(default_factory=Bounds)
    language: str = "en"
    """Code or tag of the language that is spoken."""
    workers: int | None = None
    """Child processes that decode; one per CPU by default."""
    follow_outside: bool = False
    """Whether recordings may lie outside the corpus folder."""


def split(config: SplitConfig, progress: Callable[[int, int], None] = lambda done, recordings: None) -> dict[str, Any]:
    """Write the list of the segments of all recordings in a corpus.

    Args:
        config: what to cut, and how.
        progress: called with the number of recordings that are done, and of all.
    Returns:
        Counts and seconds: of recordings, of segments, and of speech in no segment by the reason; `dropped`, a list of
        those; `rejects`, the recordings that cannot be read.
    Raises:
        UsageError: there is nothing at the corpus, or the list cannot be written.
        CorpusError: no recording is in the corpus, or no speech in any.
    """
    segment_list.check_name(config.out)
    language = segment_list.checked_language(config.language)
    found, file = source.find(config.corpus, follow_outside=config.follow_outside)
    check_output_file(config.out)
    names = [file] if file else [*folders.recordings(found.walk())]
    if not names:
        raise CorpusError(f"{config.corpus} holds no recording: there is no {', '.join(folders.AUDIO_SUFFIXES)} in it")
    tally, rows = _Tally(), list[Row]()
    for done, (item, result) in enumerate(_levels(found, names, config.workers), 1):
        if isinstance(result, Rejected):
            tally.rejects.append(Reject(_name(item), result.stage, result.reason))
        elif isinstance(item, Utterance):
            for segment in _segments(item, result, config):
                if tally.add(item, segment):
                    rows.append(_row(item, segment, language))
        progress(done, len(names))
    if not rows:
        raise CorpusError(f"No speech was found in {config.corpus}: nothing is written.", *tally.lines())
    segment_list.write(config.out, found.root, rows)
    return tally.to_json(len(names))


def _levels(
    found: Source, names: Iterable[str | Reject], workers: int | None
) -> Iterator[tuple[Utterance | str, Decoded | Rejected]]:
    """Yield each recording with its levels, or its name with the reason why it cannot be read, in order."""
    workers = workers or os.cpu_count() or 1
    with ExitStack() as stack:
        children: SimpleQueue[DecoderProcess] = SimpleQueue()
        for _ in range(workers):
            child = DecoderProcess(decode_levels, FRAME_RATE, "none", LIMITS)
            stack.callback(child.close)
            children.put(child)

        def decode(name: str | Reject) -> tuple[Utterance | str, Decoded | Rejected]:
            if isinstance(name, Reject):
                return name.id, Rejected("scan", name.reason)
            try:
                with rejecting("scan"):
                    utterance = _whole(found, name)
            except Rejected as error:
                return name, error
            child = children.get()
            try:
                return utterance, decode_local_copy(found.root, utterance, child.decode)
            finally:
                children.put(child)

        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)
        pending: deque[Future[tuple[Utterance | str, Decoded | Rejected]]] = deque()
        for name in names:
            pending.append(pool.submit(decode, name))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _whole(found: Source, name: str) -> Utterance:
    """Return a recording as one utterance without a text."""
    if _UNLISTABLE.search(name) or name != name.strip() or _HALF.search(str(found.root)):
        reason = (
            "its path cannot stand in a table: rename it without tabs, line ends, backslashes and broken characters"
        )
        raise Rejected("scan", reason)
    size = found.size(name)
    header = recording.read_header(found.root, name, size, LIMITS)
    return Utterance(
        id=name,
        audio=name,
        start=0,
        stop=header.samples,
        sample_rate=header.sample_rate,
        size=size,
        speaker=name.partition("/")[0] if "/" in name else found.root.name,
        language="",
        text="",
    )


def _segments(utterance: Utterance, decoded: Decoded, config: SplitConfig) -> Iterator[Segment]:
    levels_T = to_db(decoded.wave)
    runs = speech_activity.speech_runs(levels_T, config.activity)
    runs = speech_activity.without_clicks(runs, round(config.bounds.pause * FRAME_RATE))
    yield from segments.cut(runs, len(levels_T), config.bounds)


def _row(utterance: Utterance, segment: Segment, language: str) -> Row:
    start, end = _seconds(utterance, segment)
    return Row(utterance.audio, start, end, utterance.speaker, language)


def _seconds(utterance: Utterance, segment: Segment) -> tuple[float, float]:
    frame_s = frame_samples(utterance.sample_rate) / utterance.sample_rate
    return segment.start * frame_s, segment.stop * frame_s


def _name(item: Utterance | str) -> str:
    return item.id if isinstance(item, Utterance) else item


@dataclass(slots=True)
class _Tally:
    """What became of the recordings."""

    seconds: float = 0.0
    """Of segments."""
    count: int = 0
    recordings: dict[str, float] = field(default_factory=dict)
    """Duration of each recording in which there is speech."""
    dropped: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def add(self, utterance: Utterance, segment: Segment) -> bool:
        """Count a segment. Return whether it is used."""
        start, end = _seconds(utterance, segment)
        self.recordings[utterance.audio] = utterance.seconds
        if segment.dropped:
            place = {"audio": utterance.audio, "start": round(start, 3), "end": round(end, 3)}
            self.dropped.append(place | {"reason": segment.dropped})
            return False
        self.count += 1
        self.seconds += end - start
        return True

    def lines(self) -> list[str]:
        """Return why there is no segment, a line for each reason."""
        dropped = [Reject(each["audio"], "scan", f"speech that is {each['reason']}") for each in self.dropped]
        return [str(kind) for kind in rejects.group([*self.rejects, *dropped])]

    def to_json(self, recordings: int) -> dict[str, Any]:
        dropped: dict[str, dict[str, float]] = {}
        for each in self.dropped:
            total = dropped.setdefault(each["reason"], {"count": 0, "seconds": 0.0})
            total["count"] += 1
            total["seconds"] += each["end"] - each["start"]
        return {
            "recordings": recordings,
            "recordings_without_speech": recordings - len(self.recordings) - len(self.rejects),
            "segments": self.count,
            "hours": self.seconds / 3600,
            "hours_of_recordings": sum(self.recordings.values()) / 3600,
            "dropped_by_reason": dropped,
            "dropped": self.dropped,
            "rejects": [{"id": reject.id, "reason": reject.reason} for reject in self.rejects],
            "reject_kinds": [asdict(kind) for kind in rejects.group(self.rejects)],
        }
