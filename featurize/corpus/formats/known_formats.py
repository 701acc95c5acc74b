"""The formats of corpora: how each is recognised and read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from headrace.featurize.corpus.entry import Entries
from headrace.featurize.corpus.formats import (
    datasets,
    elan,
    gpt_sovits_list,
    kaldi,
    lhotse_cuts,
    lhotse_shar,
    ljspeech,
    table_files,
    texts_beside,
    tree,
    webdataset,
)
from headrace.featurize.corpus.formats import transcript_lists as lists
from headrace.featurize.corpus.formats.lines import first_line
from headrace.featurize.corpus.formats.table_files import Columns
from headrace.featurize.files import folders
from headrace.featurize.files.folders import AUDIO_SUFFIXES
from headrace.featurize.files.source import Source
from headrace.store.schema import Reject

SAMPLE = 2000
"""Files that are listed to recognise a format, in the order of their folders."""


class Listing:
    """What is in a corpus, as far as it takes to recognise its format."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @cached_property
    def names(self) -> list[str]:
        """Names of files and folders in the corpus folder, sorted."""
        return sorted(name for name in self.source.names("") if name[:1] != ".")

    @cached_property
    def sample(self) -> list[str]:
        """Paths of the first files."""
        listed = (item for item in self.source.walk() if not isinstance(item, Reject))
        return list(islice((folders.join(folder, name) for folder, names in listed for name in names), SAMPLE))

    def has(self, *names: str) -> bool:
        return all(map(self.source.exists, names))

    def some(self, pattern: str) -> list[str]:
        """Return the paths in the sample of which a regular expression matches the end, whole names at least."""
        compiled = re.compile(rf"(?:.*/)?{pattern}")
        return [path for path in self.sample if compiled.fullmatch(path)]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of corpora."""

    layout: str
    """How it is laid out, in a line."""
    read: Callable[[Source, str], Entries]
    """Reads a corpus, given its files and the name of the file that was given as the corpus, or an empty string."""
    lacks: Callable[[Listing], str]
    """Returns what a folder lacks to be of this format; an empty string if it is."""
    suffixes: tuple[str, ...] = ()
    """Of a file that may be given as the corpus, in place of its folder."""
    in_archives: bool = False
    """Whether it has archives beside other files, in which recordings lie."""
    lists_all: bool = True
    """Whether a recording that is not listed is one without text. Some corpora have others on purpose."""


def _needs(*names: str) -> Callable[[Listing], str]:
    return lambda listing: " and ".join(name for name in names if not listing.has(name))


def _has_some(pattern: str, what: str) -> Callable[[Listing], str]:
    return lambda listing: "" if listing.some(pattern) else what


def _never(what: str) -> Callable[[Listing], str]:
    return lambda _: what


def _folder_only(read: Callable[[Source], Entries]) -> Callable[[Source, str], Entries]:
    return lambda source, _: read(source)


def list_files(listing: Listing) -> list[str]:
    """Return the names of the .list files in a corpus folder."""
    return [name for name in listing.names if name.endswith(".list")]


def _lacks_list(listing: Listing) -> str:
    return "" if len(list_files(listing)) == 1 else "one .list file"


def _read_list(source: Source, file: str) -> Entries:
    return gpt_sovits_list.read_list(source, file or list_files(Listing(source))[0])


def _lacks_ljspeech(listing: Listing) -> str:
    lacking = _needs(ljspeech.METADATA, "wavs")(listing)
    return lacking or (
        "a metadata.csv without a column file_name" if _has_file_name(listing, ljspeech.METADATA) else ""
    )


def _has_file_name(listing: Listing, file: str) -> bool:
    return table_files.is_table(listing.source, file) and "file_name" in first_line(listing.source, file)


def _lacks_audiofolder(listing: Listing) -> str:
    found = (path for path in listing.some(r"metadata\.(?:csv|jsonl)") if _has_file_name(listing, path))
    return "" if any(found) else "a metadata.csv or metadata.jsonl with file_name and a text"


def _lacks_emilia(listing: Listing) -> str:
    present = set(listing.sample)
    stems = (path.rpartition(".")[0] for path in listing.sample if folders.suffix(path) in AUDIO_SUFFIXES)
    first = next(stems, "")
    return "" if first and f"{first}.json" in present else "recordings with a .json of the same name"


def _lacks_shards(listing: Listing) -> str:
    """Tars of which the first recording has a text of its key. Another layout may lie in a tar, too."""
    audio = f"(?:{'|'.join(map(re.escape, AUDIO_SUFFIXES))})"
    shards = listing.some(rf"[^/]+\.(?:tar|TAR)/(?:.*/)?[^/]+{audio}")
    key = shards[0].rpartition("/")[2].partition(".")[0] if shards else ""
    folder = shards[0].rpartition("/")[0] if shards else ""
    present = set(listing.sample)
    stems = (f"{folder}/{key}", shards[0].rpartition(".")[0] if shards else "")
    found = any(stem + end in present for stem in stems for end in (".json", ".txt"))
    return "" if found else ".tar files of recordings, each with a .json or .txt of its key"


def _lacks_shar(listing: Listing) -> str:
    found = listing.some(lhotse_shar.CUTS.pattern) and listing.some(r"recording(?:\.\d+)?\.tar(?:/.*)?")
    return "" if found else "cuts.000000.jsonl.gz and recording.000000.tar"


def _lacks_tables(listing: Listing) -> str:
    """Tables that do not lie beside texts, as in a tree: in one they are none of the corpus."""
    texts = any(folders.suffix(path) in tree.TRANSCRIPT_SUFFIXES for path in listing.sample)
    recordings = texts and any(folders.suffix(path) in AUDIO_SUFFIXES for path in listing.sample)
    has_tables = any(map(datasets.is_dataset, listing.sample))
    return "" if has_tables and not recordings else ".parquet or .arrow files, and no recordings with texts beside them"


def _lacks_recordings(listing: Listing) -> str:
    recordings = any(folders.recordings(listing.source.walk()))  # a reject counts: it gives a reason
    return "" if recordings else f"recordings ({', '.join(AUDIO_SUFFIXES)})"


FORMATS: Mapping[str, Format] = {
    "list": Format("one .list file of path|speaker|language|text", _read_list, _lacks_list, (".list",)),
    "ljspeech": Format("metadata.csv and wavs/", _folder_only(ljspeech.read_ljspeech), _lacks_ljspeech),
    "kaldi": Format("wav.scp and text", _folder_only(kaldi.read_kaldi), _needs("wav.scp", "text")),
    "lhotse": Format(
        "a .jsonl or .jsonl.gz file of cuts, itself named as the corpus",
        lhotse_cuts.read_cuts,
        _never("a file of cuts, named as the corpus"),
        lhotse_cuts.SUFFIXES,
    ),
    "table": Format(
        "a .tsv, .csv or .jsonl file with columns of recordings and texts, itself named as the corpus",
        table_files.read_table,
        _never("a table, named as the corpus"),
        (*table_files.SUFFIXES, ".txt"),
    ),
    "vits": Format(
        "a .txt file of path|text or path|speaker|text, itself named as the corpus",
        gpt_sovits_list.read_vits_list,
        _never("a list, named as the corpus"),
        (".txt", ".cleaned"),
    ),
    "audiofolder": Format(
        "metadata.csv or metadata.jsonl with a column file_name",
        _folder_only(lists.read_audiofolder),
        _lacks_audiofolder,
    ),
    "common-voice": Format(
        "validated.tsv and clips/",
        lists.read_common_voice,
        _needs(lists.COMMON_VOICE_TABLE, "clips"),
        (".tsv",),
        lists_all=False,
    ),
    "libritts": Format(
        "recordings, each with a .normalized.txt",
        _folder_only(texts_beside.read_libritts),
        _has_some(r"[^/]+\.normalized\.txt", "recordings with a .normalized.txt"),
    ),
    "librispeech": Format(
        "SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt",
        _folder_only(lists.read_librispeech),
        _has_some(r"\d+-\d+\.trans\.txt", "a .trans.txt"),
    ),
    "mls": Format(
        "transcripts.txt and audio/, of each split",
        _folder_only(lists.read_mls),
        lambda listing: "" if _splits(listing, "transcripts.txt", "audio") else "transcripts.txt beside audio/",
    ),
    "hifitts": Format(
        "SPEAKER_manifest_clean_train.json and audio/",
        _folder_only(lists.read_hifitts),
        lambda listing: "" if any(map(lists.HIFITTS_MANIFEST.fullmatch, listing.names)) else "a manifest of a speaker",
    ),
    "vctk": Format(
        "txt/ and wav48_silence_trimmed/",
        _folder_only(texts_beside.read_vctk),
        lambda listing: (
            ""
            if listing.has("txt") and any(map(listing.has, texts_beside.VCTK_AUDIO))
            else "txt and wav48_silence_trimmed"
        ),
        lists_all=False,
    ),
    "m-ailabs": Format(
        "SPEAKER/BOOK/metadata.csv and SPEAKER/BOOK/wavs/",
        _folder_only(ljspeech.read_m_ailabs),
        lambda listing: "" if _books(listing) else "metadata.csv beside wavs/ in the folder of a book",
    ),
    "css10": Format("transcript.txt", _folder_only(lists.read_css10), _has_some(r"transcript\.txt", "transcript.txt")),
    "aishell3": Format(
        "train/content.txt and train/wav/",
        _folder_only(lists.read_aishell3),
        lambda listing: "" if _splits(listing, "content.txt", "wav") else "content.txt beside wav/",
    ),
    "databaker": Format(
        "ProsodyLabeling/ and Wave/", _folder_only(lists.read_databaker), _needs("ProsodyLabeling", "Wave")
    ),
    "opencpop": Format(
        "transcriptions.txt and wavs/",
        _folder_only(lists.read_opencpop),
        lambda listing: "" if _splits(listing, "transcriptions.txt", "wavs") else "transcriptions.txt beside wavs/",
    ),
    "thchs30": Format(
        "recordings, each with a .wav.trn",
        _folder_only(texts_beside.read_thchs30),
        _has_some(r"[^/]+\.wav\.trn", "recordings with a .wav.trn"),
        lists_all=False,
    ),
    "esd": Format(
        "0001/0001.txt and 0001/EMOTION/",
        _folder_only(lists.read_esd),
        _has_some(r"(00[012]\d)/\1\.txt", "0001/0001.txt"),
    ),
    "jsut": Format(
        "SUBSET/transcript_utf8.txt and SUBSET/wav/",
        _folder_only(lists.read_jsut),
        lambda listing: "" if _splits(listing, "transcript_utf8.txt", "wav") else "transcript_utf8.txt beside wav/",
    ),
    "jvs": Format(
        "SPEAKER/SUBSET/transcripts_utf8.txt",
        _folder_only(lists.read_jvs),
        _has_some(r"transcripts_utf8\.txt", "transcripts_utf8.txt"),
    ),
    "kss": Format(
        "transcript.v.1.4.txt and 1/ to 4/",
        _folder_only(lists.read_kss),
        lambda listing: "" if any(map(lists.is_kss_transcript, listing.names)) else "transcript.v.1.4.txt",
    ),
    "emilia": Format("recordings, each with a .json", _folder_only(texts_beside.read_emilia), _lacks_emilia),
    "elan": Format(
        "recordings, each with an .eaf of ELAN",
        _folder_only(elan.read_elan),
        _has_some(rf"[^/]+\{elan.SUFFIX}", "an .eaf"),
    ),
    "shar": Format(
        "cuts.000000.jsonl.gz and recording.000000.tar, as Lhotse Shar has them",
        _folder_only(lhotse_shar.read_shar),
        _lacks_shar,
        in_archives=True,
    ),
    "webdataset": Format(
        ".tar files of recordings, each with a .json or .txt of its key",
        _folder_only(webdataset.read_webdataset),
        _lacks_shards,
        lists_all=False,
    ),
    "datasets": Format(
        ".parquet or .arrow files with a column of recordings, as Hugging Face has them",
        datasets.read_datasets,
        _lacks_tables,
        (".parquet", ".arrow"),
        lists_all=False,
    ),
    "tree": Format(
        f"{', '.join(AUDIO_SUFFIXES)}, each with a .txt, .lab or .TextGrid of its name beside it",
        _folder_only(tree.read_tree),
        _lacks_recordings,
    ),
}
"""All formats by their names. A folder is a tree if nothing else fits."""


_BY_THEMSELVES = ("datasets", "tree")
"""What a folder is only if it is nothing else, the first of them."""


def _splits(listing: Listing, file: str, folder: str) -> bool:
    """Return whether a file lies beside a folder, in the corpus or in one of the folders there."""
    pairs = ((file, folder), *((f"{name}/{file}", f"{name}/{folder}") for name in listing.names))
    return any(listing.has(*pair) for pair in pairs)


def _books(listing: Listing) -> list[str]:
    paths = listing.some(r"[^/]+/metadata\.csv")
    return [path for path in paths if listing.has(f"{path.rpartition('/')[0]}/wavs")]


def fitting(source: Source) -> list[str]:
    """Return the names of the formats that a folder is of; shards, data sets or a tree only by themselves."""
    listing = Listing(source)
    for name in ("shar", "webdataset"):
        if not FORMATS[name].lacks(listing):
            return [name]  # Emilia's shards, say, are laid out as its folders are
    found = [name for name, format in FORMATS.items() if name not in _BY_THEMSELVES and not format.lacks(listing)]
    return found or [name for name in _BY_THEMSELVES if not FORMATS[name].lacks(listing)][:1]


def format_of_file(source: Source, file: str) -> str:
    """Return the format of a file that is given as the corpus; an empty string if it is none."""
    if file.endswith(".list"):
        return "list"
    if datasets.is_dataset(file):
        return "datasets"
    if file.endswith(".jsonl.gz"):
        return "lhotse"
    if file.endswith(table_files.SUFFIXES):
        if file.endswith(".tsv") and source.exists("clips"):
            return "common-voice"
        return "lhotse" if file.endswith(".jsonl") and lhotse_cuts.is_cut(first_line(source, file)) else "table"
    if file.endswith((".txt", ".cleaned")):
        line = first_line(source, file)
        return "table" if table_files.is_table(source, file) else "vits" if "|" in line else ""
    return ""


def read(name: str, source: Source, file: str, columns: Columns | None) -> Entries:
    """Read a corpus.

    Args:
        name: of its format.
        file: that was given as the corpus; an empty string if its folder was.
        columns: of a table.
    """
    if not columns:
        return FORMATS[name].read(source, file)
    read_rows = datasets.read_datasets if name == "datasets" else table_files.read_table
    return read_rows(source, file, columns)
