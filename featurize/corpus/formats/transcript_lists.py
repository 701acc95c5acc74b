"""Read published corpora whose transcripts are lists: a line gives the name of a recording and its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from sys import intern

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats import table_files
from headrace.featurize.corpus.formats.lines import parse_lines, read_lines
from headrace.featurize.files.folders import join, suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code
from headrace.store.errors import Rejected
from headrace.store.schema import Reject

COMMON_VOICE_TABLE = "validated.tsv"
HIFITTS_MANIFEST = re.compile(r"(\d+)_manifest_(clean|other)_(train|dev|test)\.json")
_PROSODY_MARK = re.compile(r"#\d")
_ESD_ENGLISH = range(11, 21)  # speakers; 1 to 10 speak Mandarin


def files_called(source: Source, is_wanted: Callable[[str], bool]) -> Iterator[str | Reject]:
    """Yield the paths of files whose name is wanted, anywhere in a corpus, and rejects of folders."""
    for item in source.walk():
        if isinstance(item, Reject):
            yield item
        else:
            yield from (join(item[0], name) for name in item[1] if is_wanted(name))


def _read_all(
    source: Source, is_wanted: Callable[[str], bool], parser: Callable[[str], Callable[[str, str], Entry]]
) -> Entries:
    """Read every file whose name is wanted; `parser(file)` parses its lines."""
    for file in files_called(source, is_wanted):
        yield from (file,) if isinstance(file, Reject) else parse_lines(source, file, parser(file))


def _fields(line: str, separator: str | None, form: str, least: int = 2) -> list[str]:
    """Return the fields of a line. Raise Rejected if there are fewer than those of `form`."""
    fields = [field.strip() for field in line.split(separator)]
    if len(fields) < least or not fields[0]:
        raise Rejected("scan", f"{len(fields)} fields instead of {form}")
    return fields


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def read_librispeech(source: Source) -> Entries:
    """Read LibriSpeech: `SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`, with a line `ID TEXT` for each FLAC beside it.

    Its texts are in capitals throughout, and are read in small letters: a word in capitals would be spelled.
    """

    def parser(file: str) -> Callable[[str, str], Entry]:
        def parse(location: str, line: str) -> Entry:
            name, text = _fields(line.replace(" ", "\t", 1), "\t", "ID TEXT")[:2]
            audio, speaker = join(_folder(file), f"{name}.flac"), intern(name.partition("-")[0])
            return Entry(location=location, audio=audio, speaker=speaker, language="en", text=text.lower(), name=name)

        return parse

    return _read_all(source, lambda name: name.endswith(".trans.txt"), parser)


def read_mls(source: Source) -> Entries:
    """Read Multilingual LibriSpeech: `SPLIT/transcripts.txt`, `ID<tab>TEXT`, and `SPLIT/audio/SPEAKER/BOOK/ID.flac`.

    The language is that of the folder's name, as in `mls_german`.
    """
    name_of_root = source.root.name if "_" in source.root.name else source.root.parent.name
    language = next(filter(None, map(language_code, name_of_root.split("_")[1:])), "")

    def parser(file: str) -> Callable[[str, str], Entry]:
        def parse(location: str, line: str) -> Entry:
            name, text = _fields(line, "\t", "ID<tab>TEXT")[:2]
            speaker, book = _fields(name, "_", "SPEAKER_BOOK_NUMBER", 3)[:2]
            audio = join(_folder(file), f"audio/{speaker}/{book}/{name}.flac")
            return Entry(
                location=location, audio=audio, speaker=intern(speaker), language=language, text=text, name=name
            )

        return parse

    return _read_all(source, lambda name: name == "transcripts.txt", parser)


def read_aishell3(source: Source) -> Entries:
    """Read AISHELL-3: `train/content.txt`, `FILE<tab>character pinyin ...`, and `train/wav/SPEAKER/FILE`."""

    def parser(file: str) -> Callable[[str, str], Entry]:
        def parse(location: str, line: str) -> Entry:
            name, spelled = _fields(line, "\t", "FILE<tab>character pinyin ...")[:2]
            characters = spelled.split()[::2]
            speaker = intern(name[: len("SSB0000")])
            audio = join(_folder(file), f"wav/{speaker}/{name}")
            return Entry(
                location=location, audio=audio, speaker=speaker, language="zh", text="".join(characters), name=name
            )

        return parse

    return _read_all(source, lambda name: name == "content.txt", parser)


def read_jsut(source: Source) -> Entries:
    """Read JSUT: `SUBSET/transcript_utf8.txt`, `NAME:TEXT`, and `SUBSET/wav/NAME.wav`."""
    return _read_all(
        source,
        lambda name: name == "transcript_utf8.txt",
        lambda file: _japanese_parser(join(_folder(file), "wav"), "jsut"),
    )


def read_jvs(source: Source) -> Entries:
    """Read JVS: `SPEAKER/SUBSET/transcripts_utf8.txt`, `NAME:TEXT`, and `SPEAKER/SUBSET/wav24kHz16bit/NAME.wav`."""

    def parser(file: str) -> Callable[[str, str], Entry]:
        above = [source.root.name, *file.split("/")]
        return _japanese_parser(join(_folder(file), "wav24kHz16bit"), intern(above[-3] if len(above) > 2 else above[0]))

    return _read_all(source, lambda name: name == "transcripts_utf8.txt", parser)


def _japanese_parser(folder: str, speaker: str) -> Callable[[str, str], Entry]:
    def parse(location: str, line: str) -> Entry:
        name, colon, text = line.partition(":")
        if not colon:
            raise Rejected("scan", "no colon between NAME and TEXT")
        audio = f"{folder}/{name.strip()}.wav"
        return Entry(location=location, audio=audio, speaker=speaker, language="ja", text=text.strip(), name=name)

    return parse


def read_kss(source: Source) -> Entries:
    """Read KSS: `transcript.v.1.4.txt`, `FILE|original|expanded|...`, of which the expanded text is read."""

    def parser(file: str) -> Callable[[str, str], Entry]:
        def parse(location: str, line: str) -> Entry:
            name, _, expanded = _fields(line, "|", "FILE|original|expanded|...", 3)[:3]
            audio = join(_folder(file), name.removeprefix("kss/"))
            return Entry(location=location, audio=audio, speaker="kss", language="ko", text=expanded, name=name)

        return parse

    return _read_all(source, is_kss_transcript, parser)


def is_kss_transcript(name: str) -> bool:
    """Return whether a file is the transcript of KSS, of any version."""
    return name.startswith("transcript.v.") and name.endswith(".txt")


def read_css10(source: Source) -> Entries:
    """Read CSS10: `transcript.txt`, `FILE|text|normalised text|seconds`. The folder's name is the language's."""

    def parser(file: str) -> Callable[[str, str], Entry]:
        folder = _folder(file).rpartition("/")[2] or source.root.name

        def parse(location: str, line: str) -> Entry:
            name, text, normalised = _fields(line, "|", "FILE|text|normalised text|seconds", 3)[:3]
            return Entry(
                location=location,
                audio=join(_folder(file), name),
                speaker=intern(folder),
                language=language_code(folder) if language_code(folder) != folder.lower() else "",
                text=normalised or text,
                name=name,
            )

        return parse

    return _read_all(source, lambda name: name == "transcript.txt", parser)


def read_opencpop(source: Source) -> Entries:
    """Read Opencpop: `segments/transcriptions.txt`, `NAME|text|phones|notes|...`, and `segments/wavs/NAME.wav`.

    Its phones lack tones, which a song has none of: the text is read.
    """

    def parser(file: str) -> Callable[[str, str], Entry]:
        def parse(location: str, line: str) -> Entry:
            name, text = _fields(line, "|", "NAME|text|phones|notes|...")[:2]
            audio = join(_folder(file), f"wavs/{name}.wav")
            return Entry(location=location, audio=audio, speaker="opencpop", language="zh", text=text, name=name)

        return parse

    return _read_all(source, lambda name: name == "transcriptions.txt", parser)


def read_databaker(source: Source) -> Entries:
    """Read Databaker's BZNSYP: `ProsodyLabeling/000001-010000.txt` and `Wave/NAME.wav`.

    A line `NAME<tab>text` is followed by one of pinyin, which begins with a tab. Marks of prosody (`#1`) are left out.
    """

    def is_pinyin(line: str | Reject) -> bool:
        return not isinstance(line, Reject) and line[:1].isspace()

    for file in files_called(source, lambda name: bool(re.fullmatch(r"\d{6}-\d{6}\.txt", name))):
        if isinstance(file, Reject):
            yield file
            continue
        base = _folder(_folder(file))

        for location, line in read_lines(source, file):
            if is_pinyin(line):
                continue
            name, tab, text = ("", "", "") if isinstance(line, Reject) else line.partition("\t")
            if not tab:
                yield line if isinstance(line, Reject) else Reject(location, "scan", "no tab between NAME and text")
                continue
            said, marks = _PROSODY_MARK.sub("", text).strip(), tuple(_PROSODY_MARK.findall(text))
            audio = join(base, f"Wave/{name}.wav")
            yield Entry(
                location=location, audio=audio, speaker="databaker", language="zh", text=said, name=name, markup=marks
            )


def read_esd(source: Source) -> Entries:
    """Read ESD: `0001/0001.txt`, `NAME<tab>text<tab>emotion`, and `0001/EMOTION/NAME.wav` or a folder below."""
    recordings = {
        path.rpartition("/")[2].removesuffix(".wav"): path
        for path in files_called(source, lambda name: name.endswith(".wav"))
        if not isinstance(path, Reject)
    }

    def parser(file: str) -> Callable[[str, str], Entry]:
        speaker = intern(_folder(file).rpartition("/")[2] or source.root.name)

        def parse(location: str, line: str) -> Entry:
            name, text = _fields(line, "\t", "NAME<tab>text<tab>emotion")[:2]
            audio = recordings.get(name, join(_folder(file), f"{name}.wav"))
            language = "en" if int(speaker) in _ESD_ENGLISH else "zh"
            return Entry(location=location, audio=audio, speaker=speaker, language=language, text=text, name=name)

        return parse

    return _read_all(source, lambda name: bool(re.fullmatch(r"00[012]\d\.txt", name)), parser)


def read_common_voice(source: Source, file: str = "") -> Entries:
    """Read Common Voice: `validated.tsv`, or another of its tables that is named, and recordings in `clips/`."""
    return table_files.read_table(source, file or COMMON_VOICE_TABLE, folders=("clips",))


def read_hifitts(source: Source) -> Entries:
    """Read Hi-Fi TTS: manifests `SPEAKER_manifest_clean_train.json` beside `audio/`. The normalised text is read."""
    for file in files_called(source, lambda name: bool(HIFITTS_MANIFEST.fullmatch(name))):
        if isinstance(file, Reject):
            yield file
        else:
            yield from table_files.read_table(source, file, speaker=file.rpartition("/")[2].partition("_")[0])


def read_audiofolder(source: Source) -> Entries:
    """Read an audiofolder of Hugging Face: `metadata.csv` or `.jsonl` with a column `file_name`, in any folder."""
    for file in files_called(source, is_audiofolder_table):
        yield from (file,) if isinstance(file, Reject) else table_files.read_table(source, file)


def is_audiofolder_table(name: str) -> bool:
    """Return whether a file may be the table of an audiofolder."""
    return name.rpartition(".")[0] == "metadata" and suffix(name) in (".csv", ".jsonl")
