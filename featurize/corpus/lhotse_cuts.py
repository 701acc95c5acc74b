"""Lhotse's cuts as a corpus. They are lines of JSON: Lhotse itself is not needed."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from sys import intern
from typing import Any

from headrace.featurize.alignment.label_files import PHONE_TIERS, WORD_TIERS, Row, packed
from headrace.featurize.corpus.formats import LANGUAGE_TAGS, Entries, Entry
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject

SUFFIXES = (".jsonl", ".jsonl.gz")
TIERS = (PHONE_TIERS, WORD_TIERS)
_LANGUAGES = {"english": "en", "chinese": "zh", "mandarin": "zh", "japanese": "ja", "korean": "ko", "cantonese": "yue"}


def read_cuts(source: Source, file: str) -> Entries:
    """Lhotse: a line of the manifest is a cut of one recording. A recording that is a command is never run."""
    for number, line in enumerate(_lines(source, file), 1):
        where = f"{file}:{number}"
        try:
            yield _entry(source, where, json.loads(line))
        except Rejected as error:
            yield Reject(where, error.stage, error.reason)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            yield Reject(where, "scan", f"no cut of one recording with text ({error!r:.100})")


def _lines(source: Source, file: str) -> Iterator[bytes]:
    try:
        data = (source.root / file).read_bytes()
        opened = gzip.GzipFile(fileobj=io.BytesIO(data)) if file.endswith(".gz") else io.BytesIO(data)
        yield from (line for line in opened if line.strip())
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{source.root / file} cannot be read: {error}.") from None


def _entry(source: Source, where: str, cut: Mapping[str, Any]) -> Entry:
    if cut["type"] != "MonoCut":
        raise Rejected("scan", f"a {cut['type']}: only a MonoCut is a stretch of one recording as it is")
    recording, spoken = cut["recording"], cut["supervisions"]
    (origin,) = recording["sources"]
    if origin["type"] != "file":
        raise Rejected("scan", f"its recording is a {origin['type']}, and none is run or fetched: save it as a file")
    if len(origin["channels"]) > 1:
        raise Rejected("scan", f"one of {len(origin['channels'])} channels: save it as a recording of its own")
    speakers = {str(supervision["speaker"]) for supervision in spoken if supervision.get("speaker")}
    if len(speakers) > 1:
        raise Rejected("scan", f"{len(speakers)} speakers: cut it between them")
    start, stop = float(cut["start"]), float(cut["start"]) + float(cut["duration"])
    sample = 1 / float(recording["sampling_rate"])
    to_the_end = abs(stop - float(recording["duration"])) <= sample
    whole = to_the_end and start < sample
    language = next((str(supervision["language"]) for supervision in spoken if supervision.get("language")), "")
    return Entry(
        where=where,
        audio=str(origin["source"]),
        speaker=intern(next(iter(speakers), source.root.name)),
        language=_language(language),
        text=" ".join(str(supervision["text"]).strip() for supervision in spoken if supervision.get("text")),
        phones=" ".join(str((supervision.get("custom") or {}).get("phones", "")) for supervision in spoken).strip(),
        seconds=None if whole else (start, inf if to_the_end else stop),
        alignment=_alignment(where, spoken) or (None if whole else ""),
        name=str(cut["id"]),
    )


def _alignment(where: str, spoken: Iterable[Mapping[str, Any]]) -> str:
    """Of a cut's supervisions, whose clock is the cut's."""
    held = [(str(name).casefold(), items) for one in spoken for name, items in (one.get("alignment") or {}).items()]
    try:
        phones, words = (
            [Row(float(start), float(start) + float(length), str(label).strip()) for label, start, length, *_ in items]
            for items in ([item for name, some in held if name in names for item in some] for names in TIERS)
        )
    except (ValueError, TypeError) as error:
        raise Rejected("align", f"an interval is not label, start and duration ({error!r:.100})") from None
    return packed(where, phones, words)


def _language(named: str) -> str:
    """ISO code of a language by its tag or its English name."""
    lower = named.lower()
    return _LANGUAGES.get(lower) or LANGUAGE_TAGS.get(lower, lower)
