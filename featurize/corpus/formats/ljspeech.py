"""Read LJSpeech, and corpora that are laid out like it: M-AILABS has one such folder for each book."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from sys import intern

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats import table_files
from headrace.featurize.corpus.formats.lines import parse_lines, read_lines
from headrace.featurize.files.folders import AUDIO_SUFFIXES, suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import Rejected
from headrace.store.schema import Reject

METADATA = "metadata.csv"
SAMPLE = 1000
"""Lines from which is judged what the columns hold."""
SPEAKER_SHARE = 0.9
"""Least share of lines whose field looks like the name of a speaker, if its column is one of speakers."""
MAX_NAME_WORDS = 3


def read_ljspeech(source: Source, folder: str = "", speaker: str = "", language: str = "") -> Entries:
    """Read LJSpeech. A line is `name|text` or `name|text|normalised text`, and the recording `wavs/name.wav`.

    Names may have a suffix, which may be another than .wav. A column in which values recur, or which looks
    like names throughout, is the speaker. Of a header the names of the columns count.

    Args:
        folder: of metadata.csv.
        speaker: of lines that give none.
    """
    file = f"{folder}/{METADATA}" if folder else METADATA
    if table_files.is_table(source, file):
        yield from table_files.read_table(source, file, folders=("wavs",), speaker=speaker)
        return
    speaker, column = speaker or source.root.name, _speaker_column(source, file)

    def parse(location: str, line: str) -> Entry:
        name, *texts = (field.strip() for field in line.split("|"))
        if len(texts) not in (1, 2):
            raise Rejected("scan", f"{len(texts) + 1} fields between bars instead of name|text|normalised text")
        said_by = texts.pop(column) if column is not None and len(texts) == 2 else ""
        path = f"wavs/{name}" if suffix(name) in AUDIO_SUFFIXES else f"wavs/{name}.wav"
        return Entry(
            location=location,
            audio=f"{folder}/{path}" if folder else path,
            speaker=intern(said_by or speaker),
            language=language,
            text=texts[-1] or texts[0],
            name=name,
        )

    yield from parse_lines(source, file, parse)


def read_m_ailabs(source: Source) -> Entries:
    """Read M-AILABS: `en_US/by_book/female/SPEAKER/BOOK/metadata.csv` beside `wavs/`, or any folder of that.

    The speaker is the folder above the book's, and the language that of a folder such as `de_DE`.
    """
    root = source.root.name.split("/")
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
            continue
        folder, names = item
        if METADATA in names:
            above = [*root, *folder.split("/")] if folder else root
            language = next(filter(None, (language_code(part) for part in above if _is_locale(part))), "")
            speaker = above[-2] if len(above) > 1 else above[-1]
            yield from read_ljspeech(source, folder, speaker, language)


def _is_locale(name: str) -> bool:
    language, _, region = name.partition("_")
    return len(language) == 2 and language.islower() and len(region) == 2 and region.isupper()


def _speaker_column(source: Source, file: str) -> int | None:
    """Return which of the two columns after the name holds the speaker; None if both hold the text."""
    pairs = list(islice(_pairs(source, file), SAMPLE))
    for column in (0, 1):
        names, texts = [pair[column] for pair in pairs], [pair[1 - column] for pair in pairs]
        repeated = len({*names}) <= len(names) / 2 < len({*texts})
        alike = sum(map(_may_be_speaker_of, names, texts))
        if pairs and (repeated or alike >= SPEAKER_SHARE * len(pairs)):
            return column
    return None


def _pairs(source: Source, file: str) -> Iterator[Sequence[str]]:
    for _, line in read_lines(source, file):
        if not isinstance(line, Reject):
            _, *texts = (field.strip() for field in line.split("|"))
            if len(texts) == 2 and all(texts):
                yield texts


def _may_be_speaker_of(name: str, text: str) -> bool:
    """Return whether a field looks like the name of who says a text, and not like the text in another spelling."""
    is_short = len(name.split()) <= MAX_NAME_WORDS and 2 * len(name) < len(text) and name[-1] not in ".,;:!?\u3002"
    letters = iter(text.casefold())
    return is_short and not all(letter in letters for letter in name.casefold() if letter.isalpha())
