"""Read recordings anywhere in a folder, each with a transcript of its name beside it."""

from __future__ import annotations

import os
from sys import intern

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.files.folders import AUDIO_SUFFIXES, join, suffix
from headrace.featurize.files.source import Source
from headrace.store.schema import Reject

TRANSCRIPT_SUFFIXES = (".txt", ".lab", ".textgrid")
"""Suffixes of transcripts in a tree, in lower case. If several have one name, the first in this order is the text."""
ALIGNMENT_SUFFIXES = (".lab", ".textgrid")
"""Suffixes of transcripts that may be an alignment."""


def read_tree(source: Source) -> Entries:
    """Read recordings anywhere in a folder, each with a .txt, .lab or .TextGrid of its name beside it.

    The speaker is the first folder of the path, or the corpus folder's name. A .TextGrid gives the alignment, and
    the text if nothing else does. A .lab is either a text or an alignment.
    """
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        speaker = intern(folder.partition("/")[0] or source.root.name)
        by_stem: dict[str, list[str]] = {}
        for name in names:
            by_stem.setdefault(os.path.splitext(name)[0], []).append(join(folder, name))
        for paths in by_stem.values():
            yield from _recordings_of_stem(paths, speaker)


def _recordings_of_stem(paths: list[str], speaker: str) -> Entries:
    """Yield an entry for every recording among the files of one stem, with the text that they share."""
    texts = sorted(
        (p for p in paths if suffix(p) in TRANSCRIPT_SUFFIXES), key=lambda path: TRANSCRIPT_SUFFIXES.index(suffix(path))
    )
    recordings = [path for path in paths if suffix(path) in AUDIO_SUFFIXES]
    if texts and not recordings:
        yield Reject(texts[0], "scan", f"text without audio: no {', '.join(AUDIO_SUFFIXES)} of its name beside it")
    for audio in recordings:
        yield Entry(
            location=audio,
            audio=audio,
            speaker=speaker,
            text_file=texts[0] if texts else "",
            alignment=next((path for path in reversed(texts) if suffix(path) in ALIGNMENT_SUFFIXES), ""),
            problem="" if texts else "audio without text: no .txt, .lab or .TextGrid of its name beside it",
        )
