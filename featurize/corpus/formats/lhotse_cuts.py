"""Read Lhotse's cuts as a corpus. They are lines of JSON, so Lhotse itself is not needed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from sys import intern
from typing import Any

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.files.source import Source, read_lines
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject

SUFFIXES = (".jsonl", ".jsonl.gz")
_CUT_FIELDS = frozenset("id start duration channel supervisions features recording custom type".split())
_RECORDING_FIELDS = frozenset("id sources sampling_rate num_samples duration channel_ids transforms".split())
_SOURCE_FIELDS = frozenset(("type", "channels", "source"))
"""What a cut, its recording and that one's source have. Another field may change what is heard."""
_SAME_SOUND = frozenset({"Resample"})
"""Transforms after which a recording sounds the same, at the same times."""
OUTSIDE_TOLERANCE_S = 0.01
"""Seconds by which a supervision may reach outside of its cut: times are rounded."""


OfShard = Callable[[str], str]
"""Returns the path of the recording of a cut in a shard, by the cut's id. Raises Rejected if it has none."""


def read_cuts(source: Source, file: str, of_shard: OfShard | None = None) -> Entries:
    """Read a manifest, whose lines are cuts of one recording each. A recording that is a command is not run.

    Args:
        of_shard: of a manifest of a shard, returns the path of the recording of a cut by the cut's id.
    """
    for number, line in enumerate(_read_lines(source, file), 1):
        location = f"{file}:{number}"
        try:
            yield _entry(source, location, json.loads(line), of_shard)
        except Rejected as error:
            yield Reject(location, error.stage, error.reason)
        except json.JSONDecodeError:
            yield Reject(location, "scan", "not a cut of one recording with text: it is not JSON")
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError):
            yield Reject(location, "scan", "not a cut of one recording with text: a field is of another type")


def is_cut(line: str) -> bool:
    """Return whether a line is a cut of any kind, or nothing that could be a line of another table."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return not isinstance(document, dict) or "recording" in document or "supervisions" in document or "type" in document


def _read_lines(source: Source, file: str) -> Iterator[bytes]:
    try:
        with source.open(file) as data:
            content: Any = gzip.GzipFile(fileobj=data) if file.endswith(".gz") else data
            lines = read_lines(content, file)
            yield from (line for line in lines if line.strip())
    except (OSError, EOFError, zlib.error, Rejected) as error:
        raise CorpusError(f"{source.root / file} cannot be read: {error}.") from None


def _entry(source: Source, location: str, cut: Mapping[str, Any], of_shard: OfShard | None) -> Entry:
    kind = _field(cut, "type")
    if kind != "MonoCut":
        raise Rejected("scan", f"a {str(kind)[:40]}: only a MonoCut is an unmodified part of one recording")
    recording, supervisions = _field(cut, "recording"), _field(cut, "supervisions")
    audio, channel = _audio_file(cut, recording, of_shard), _channel(cut, recording)
    speakers = {str(supervision["speaker"]) for supervision in supervisions if supervision.get("speaker")}
    if len(speakers) > 1:
        raise Rejected("scan", f"{len(speakers)} speakers: cut it between them")
    start, length = float(_field(cut, "start")), float(_field(cut, "duration"))
    for supervision in supervisions:
        _check_inside(supervision, length)
    stop, sample = start + length, 1 / float(_field(recording, "sampling_rate"))
    ends_with_recording = abs(stop - float(_field(recording, "duration"))) <= sample
    is_whole = ends_with_recording and start < sample
    languages = (str(supervision["language"]) for supervision in supervisions if supervision.get("language"))
    language = next(languages, "")
    phones = (str((supervision.get("custom") or {}).get("phones", "")) for supervision in supervisions)
    return Entry(
        location=location,
        audio=audio,
        channel=channel,
        speaker=intern(next(iter(speakers), source.root.name)),
        language=language_code(language) or language.lower(),
        text=" ".join(str(supervision["text"]).strip() for supervision in supervisions if supervision.get("text")),
        phones=" ".join(phones).strip(),
        seconds=None if is_whole else (start, inf if ends_with_recording else stop),
        alignment=_alignment_json(location, supervisions) or (None if is_whole else ""),
        name=str(cut.get("id", "")),
    )


def _field(document: Mapping[str, Any], name: str) -> Any:
    if name not in document:
        raise Rejected("scan", f"not a cut of one recording with text: it has no {name!r}")
    return document[name]


def _audio_file(cut: Mapping[str, Any], recording: Mapping[str, Any], of_shard: OfShard | None) -> str:
    """Return the file of a cut's recording. Raise Rejected if the cut sounds otherwise than that file."""
    (audio_source,) = _field(recording, "sources")
    for document, known in ((cut, _CUT_FIELDS), (recording, _RECORDING_FIELDS), (audio_source, _SOURCE_FIELDS)):
        if unknown := sorted(name for name, value in document.items() if name not in known and value is not None):
            raise Rejected("scan", f"it has {unknown[0][:40]!r}, which is not known and may change what is heard")
    kind = _field(audio_source, "type")
    is_of_shard = kind == "shar" and of_shard is not None
    if kind != "file" and not is_of_shard:
        raise Rejected("scan", f"its recording is a {kind}, which is neither run nor downloaded: save it as a file")
    names = [str(one.get("name", one) if isinstance(one, dict) else one) for one in recording.get("transforms") or ()]
    if changing := [name for name in names if name not in _SAME_SOUND]:
        raise Rejected("scan", f"its recording is transformed ({', '.join(changing)[:60]}): save it as it is to sound")
    return of_shard(str(_field(cut, "id"))) if is_of_shard and of_shard else str(_field(audio_source, "source"))


def _channel(cut: Mapping[str, Any], recording: Mapping[str, Any]) -> int:
    """Return the channel of a cut in the file of its recording, from 0; -1 if the file has only that."""
    (audio_source,) = _field(recording, "sources")
    channels, channel = _field(audio_source, "channels"), cut.get("channel", 0)
    if len(channels) == 1:
        return -1
    if channel not in channels:
        raise Rejected("scan", f"it is of channel {str(channel)[:40]}, and its recording has {str(channels)[:40]}")
    return int(channels.index(channel))


def _check_inside(supervision: Mapping[str, Any], length: float) -> None:
    """Raise Rejected if a supervision reaches outside of its cut, whose text is then not all in it."""
    start = float(supervision.get("start", 0.0))
    stop = start + float(supervision.get("duration", length - start))
    if start < -OUTSIDE_TOLERANCE_S or stop > length + OUTSIDE_TOLERANCE_S:
        reason = f"its text is of {start:g} to {stop:g} s, and the cut of 0 to {length:g} s: cut it where the text ends"
        raise Rejected("scan", reason)


def _alignment_json(location: str, supervisions: Iterable[Mapping[str, Any]]) -> str:
    """Return the alignment of a cut's supervisions. Their times count from the cut's start."""
    from headrace.featurize.alignment import label_files  # not above: the names of formats are in `--help`

    tiers = [tier for supervision in supervisions for tier in (supervision.get("alignment") or {}).items()]
    try:
        phones, words = (
            [
                label_files.Interval(float(start), float(start) + float(duration), str(label).strip())
                for name, items in tiers
                if str(name).casefold() in names
                for label, start, duration, *_ in items
            ]
            for names in (label_files.PHONE_TIERS, label_files.WORD_TIERS)
        )
    except (ValueError, TypeError, OverflowError):
        raise Rejected("align", "an interval of its alignment is not label, start and duration") from None
    return label_files.to_json(location, phones, words)
