"""Read Lhotse's cuts as a corpus. They are lines of JSON, so Lhotse itself is not needed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from sys import intern
from typing import Any

from headrace.featurize.alignment.label_files import PHONE_TIERS, WORD_TIERS, Interval, to_json
from headrace.featurize.corpus.formats import Entries, Entry
from headrace.featurize.files.source import Source, open_whole, read_lines
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject

SUFFIXES = (".jsonl", ".jsonl.gz")
TIERS = (PHONE_TIERS, WORD_TIERS)
_LANGUAGES = {"english": "en", "chinese": "zh", "mandarin": "zh", "japanese": "ja", "korean": "ko", "cantonese": "yue"}


def read_cuts(source: Source, file: str) -> Entries:
    """Read a manifest, whose lines are cuts of one recording each. A recording that is a command is not run."""
    for number, line in enumerate(_read_lines(source, file), 1):
        location = f"{file}:{number}"
        try:
            yield _entry(source, location, json.loads(line))
        except Rejected as error:
            yield Reject(location, error.stage, error.reason)
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            yield Reject(location, "scan", f"not a cut of one recording with text ({error!r:.100})")


def _read_lines(source: Source, file: str) -> Iterator[bytes]:
    try:
        with open_whole(source.root, file) as data:
            content: Any = gzip.GzipFile(fileobj=data) if file.endswith(".gz") else data
            lines = read_lines(content, file)
            yield from (line for line in lines if line.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{source.root / file} cannot be read: {error}.") from None


def _entry(source: Source, location: str, cut: Mapping[str, Any]) -> Entry:
    if cut["type"] != "MonoCut":
        raise Rejected("scan", f"a {cut['type']}: only a MonoCut is an unmodified part of one recording")
    recording, supervisions = cut["recording"], cut["supervisions"]
    (audio_source,) = recording["sources"]
    kind, channels = audio_source["type"], audio_source["channels"]
    if kind != "file":
        raise Rejected("scan", f"its recording is a {kind}, which is neither run nor downloaded: save it as a file")
    if len(channels) > 1:
        raise Rejected("scan", f"one of {len(channels)} channels: save it as a recording of its own")
    speakers = {str(supervision["speaker"]) for supervision in supervisions if supervision.get("speaker")}
    if len(speakers) > 1:
        raise Rejected("scan", f"{len(speakers)} speakers: cut it between them")
    start, stop = float(cut["start"]), float(cut["start"]) + float(cut["duration"])
    sample = 1 / float(recording["sampling_rate"])
    ends_with_recording = abs(stop - float(recording["duration"])) <= sample
    is_whole = ends_with_recording and start < sample
    languages = (str(supervision["language"]) for supervision in supervisions if supervision.get("language"))
    phones = (str((supervision.get("custom") or {}).get("phones", "")) for supervision in supervisions)
    return Entry(
        location=location,
        audio=str(audio_source["source"]),
        speaker=intern(next(iter(speakers), source.root.name)),
        language=_language_code(next(languages, "")),
        text=" ".join(str(supervision["text"]).strip() for supervision in supervisions if supervision.get("text")),
        phones=" ".join(phones).strip(),
        seconds=None if is_whole else (start, inf if ends_with_recording else stop),
        alignment=_alignment_json(location, supervisions) or (None if is_whole else ""),
        name=str(cut["id"]),
    )


def _alignment_json(location: str, supervisions: Iterable[Mapping[str, Any]]) -> str:
    """Return the alignment of a cut's supervisions. Their times count from the cut's start."""
    tiers = [tier for supervision in supervisions for tier in (supervision.get("alignment") or {}).items()]
    try:
        phones, words = (
            [_interval(*item) for name, items in tiers if str(name).casefold() in names for item in items]
            for names in TIERS
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise Rejected("align", f"an interval is not label, start and duration ({error!r:.100})") from None
    return to_json(location, phones, words)


def _interval(label: Any, start: Any, duration: Any, *_: Any) -> Interval:
    return Interval(float(start), float(start) + float(duration), str(label).strip())


def _language_code(language: str) -> str:
    """Return the code of a language, given by its tag or its English name."""
    lower = language.lower()
    return _LANGUAGES.get(lower) or language_code(lower) or lower
