"""Read shards of WebDataset: tars in which the files of one key are a recording and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Any

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats.table_files import Columns
from headrace.featurize.corpus.formats.texts_beside import read_json
from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import Rejected, rejecting
from headrace.store.schema import Reject

_TEXTS = (".json", ".txt", ".lab")
"""Suffixes of what is read of a key, beside its recording. Nothing else is: least of all pickles."""


def read_webdataset(source: Source) -> Entries:
    """Read shards in which a recording has a `.json` or a `.txt` of its key, as those of Emilia have.

    A JSON gives text, speaker and language by the usual names of columns. A shard's members are read in their order.
    """
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        present = set(names)
        for name in (name for name in names if suffix(name) in AUDIO_SUFFIXES):
            audio = join(folder, name)
            try:
                with rejecting("scan"):
                    entry = _entry(source, audio, _texts_of(folder, name, present))
            except Rejected as error:
                yield Reject(audio, "scan", error.reason)
            else:
                yield entry


def _texts_of(folder: str, name: str, present: set[str]) -> dict[str, str]:
    """Return the paths of the texts of a recording's key, by their suffixes.

    The key ends at the first dot of the name. Keys that hold dots are known by what is before the last one.
    """
    stems = dict.fromkeys((name[: -len(suffix(name))], name.partition(".")[0]))
    found = {end: stem + end for stem in reversed(stems) for end in _TEXTS if stem + end in present}
    return {end: join(folder, path) for end, path in found.items()}


def _entry(source: Source, audio: str, texts: Mapping[str, str]) -> Entry:
    document: Mapping[str, Any] = read_json(source, texts[".json"]) if ".json" in texts else {}
    keys = [*document]
    known = {role: document[keys[position]] for role, position in Columns().positions(keys).items()}
    text = known.get("text")
    file = next((texts[end] for end in _TEXTS[1:] if end in texts), "") if not isinstance(text, str) else ""
    tag = str(known.get("language") or "")
    language = language_code(tag) if tag else ""
    problem = unknown_tag(tag)
    if not isinstance(text, str) and not file:
        problem = "audio without text: no .json with a text and no .txt of its key beside it"
    return Entry(
        location=texts.get(".json", audio),
        audio=audio,
        speaker=intern(str(known.get("speaker") or source.root.name)),
        language=language,
        text=text.strip() if isinstance(text, str) else "",
        text_file=file,
        phones=str(known.get("phones") or ""),
        problem=problem,
    )
