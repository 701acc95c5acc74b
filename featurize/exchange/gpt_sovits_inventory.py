"""List the utterances of a prepared directory of GPT-SoVITS, each as importable or as a reject. Reads only tables and
headers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.featurize.corpus.formats import gpt_sovits_list
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.files import source
from headrace.featurize.pipeline.build import ScannedCorpus
from headrace.featurize.pipeline.reject_limit import nothing_usable
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject, Utterance
from headrace.store.storage import read_file
from headrace.store.storage.file_names import unescape

_PACKING = 2048
"""Bytes of a file beside its tensor, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """An utterance's lines in the tables of the directory, unparsed."""

    phones: str
    characters: str
    """Number of phones of each character of the text, as a list in brackets; `None` if unknown."""
    codes: str
    widest: tuple[str, ...]
    """Features whose files are large enough for float32."""


def scan_directory(
    folder: Path, features: Sequence[str], list_file: Path | None, scanning: Callable[[int, int], None]
) -> tuple[ScannedCorpus, list[TableRow]]:
    """Return the importable utterances with the rejects, and the table rows of the utterances.

    Args:
        features: features to import.
        list_file: as in `import_gpt_sovits.ImportConfig`.
        scanning: called with the numbers of utterances and rejects so far.
    Raises:
        CorpusError: no utterance can be imported.
    """
    rejects: list[Reject] = []
    known = _read_list(list_file, rejects) if list_file else {}
    written = _read_names(folder, rejects)
    texts = _read_table(folder, gpt_sovits_dir.TEXTS, gpt_sovits_dir.TEXT_COLUMNS, rejects)
    codes = (
        _read_table(folder, gpt_sovits_dir.CODES, gpt_sovits_dir.CODE_COLUMNS, rejects)
        if "semantic" in features
        else {}
    )
    found: dict[str, tuple[Utterance, TableRow]] = {}
    for name, texts_of in texts.items():
        id, speaker = written.get(name, (unescape(name), ""))
        if speaker and name in known:
            known[name] = (speaker, known[name][1])
        try:
            if id in found:
                raise Rejected("scan", "for the second time; the first counts")
            found[id] = _check_utterance(folder, name, id, texts_of, codes.get(name), features, known)
        except Rejected as error:
            rejects.append(Reject(id, "scan", error.reason))
        scanning(len(found), len(rejects))
    rejects += _unclaimed(folder, texts, codes)
    if not found:
        raise nothing_usable(rejects, f"{folder}")
    utterances, lines = zip(*found.values(), strict=True)
    return ScannedCorpus(folder.resolve(), list(utterances), rejects), list(lines)


def _check_utterance(
    folder: Path,
    name: str,
    id: str,
    texts: Sequence[str],
    codes: Sequence[str] | None,
    features: Sequence[str],
    known: Mapping[str, tuple[str, str]],
) -> tuple[Utterance, TableRow]:
    """Return an utterance and its table row.

    Raises:
        Rejected: a file is missing, or its size or header differs from what upstream writes.
    """
    phones, characters, text = texts
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        raise Rejected("scan", "its name is none of a file in a folder: it would lead elsewhere")
    if "semantic" in features and codes is None:
        raise Rejected("scan", f"{gpt_sovits_dir.CODES} has no line for it: run upstream's 3-get-semantic.py again")
    has_bert = characters != "None" and gpt_sovits_dir.language_of(phones.split()) == "zh"
    sizes = _sizes(folder, name, features if has_bert else [one for one in features if one != "bert"])
    speaker, language = known.get(name, (folder.resolve().name, ""))
    utterance = Utterance(
        id=id,
        audio=f"{gpt_sovits_dir.WAVES}/{name}",
        start=0,
        stop=gpt_sovits_dir.count_samples(folder, name, sizes["wave"]),
        sample_rate=gpt_sovits_dir.RATE,
        size=sum(sizes.values()),
        modified=tuple(gpt_sovits_dir.modified(folder, file) for file in _files(name, sizes).values()),
        speaker=speaker,
        language=language or gpt_sovits_dir.language_of(phones.split()),
        text=text,
    )
    widest = _widest(sizes, len(phones.split()))
    return utterance, TableRow(phones=phones, characters=characters, codes="".join(codes or ()), widest=widest)


def _read_table(folder: Path, file: str, columns: Sequence[str], rejects: list[Reject]) -> dict[str, list[str]]:
    """Return the lines of a table by their first column."""
    found: dict[str, list[str]] = {}
    for item in gpt_sovits_dir.table(folder, file, columns):
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        where, (name, *rest) = item
        if name in found:
            rejects.append(Reject(where, "scan", f"{name} for the second time; the first counts"))
        elif [name, *rest] != gpt_sovits_dir.CODES_HEAD:
            found[name] = rest
    return found


def _read_list(file: Path, rejects: list[Reject]) -> dict[str, tuple[str, str]]:
    """Return speaker and language by file name, from upstream's list."""
    found: dict[str, tuple[str, str]] = {}
    for entry in gpt_sovits_list.read_list(source.Folder(file.resolve().parent), file.name):
        if isinstance(entry, Reject):
            rejects.append(entry)
        else:
            found.setdefault(entry.audio.rpartition("/")[2], (entry.speaker, entry.language))
    return found


def _read_names(folder: Path, rejects: list[Reject]) -> dict[str, tuple[str, str]]:
    """Return id and speaker by file name where names could not hold them. Only an export of Headrace has this file."""
    found: dict[str, tuple[str, str]] = {}
    try:
        lines = read_file(folder / gpt_sovits_dir.NAMES).splitlines()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise CorpusError(f"{folder / gpt_sovits_dir.NAMES} cannot be read: {error.strerror}.") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            name, id, speaker = (entry[key] for key in ("file", "id", "speaker"))
            "".join((name, id, speaker)).encode()  # they are strings, and whole characters
            found.setdefault(name, (id, speaker))
        except (ValueError, TypeError, KeyError, RecursionError):
            where = f"{gpt_sovits_dir.NAMES}:{number}"
            rejects.append(Reject(where, "scan", "not a file, its id and its speaker in JSON: export the store again"))
    return found


def _unclaimed(folder: Path, texts: Mapping[str, Any], codes: Mapping[str, Any]) -> Iterator[Reject]:
    """Yield rejects for audio and codes without a line of text."""
    waves = {item.name for item in (folder / gpt_sovits_dir.WAVES).iterdir()}
    for name in sorted((waves | codes.keys()) - texts.keys()):
        what = "audio" if name in waves else "codes"
        yield Reject(name, "scan", f"{what} without text: {gpt_sovits_dir.TEXTS} has no line for it")


def _files(name: str, features: Iterable[str]) -> dict[str, str]:
    """Return the names of an utterance's files by feature, its recording first."""
    tensors = {one: gpt_sovits_dir.tensor_file(one, name) for one in gpt_sovits_dir.FOLDERS if one in features}
    return {"wave": f"{gpt_sovits_dir.WAVES}/{name}"} | tensors


def _sizes(folder: Path, name: str, features: Sequence[str]) -> dict[str, int]:
    """Return the sizes in bytes of an utterance's files, by feature."""
    return {feature: gpt_sovits_dir.size_of(folder, file) for feature, file in _files(name, features).items()}


def _widest(sizes: Mapping[str, int], phones: int) -> tuple[str, ...]:
    """Return the features whose files have about four bytes per value instead of two."""
    values = {"content": 768 * sizes["wave"] / 2 / gpt_sovits_dir.HOP, "bert": 1024 * phones, "speaker_vector": 20480}
    return tuple(name for name in values if sizes.get(name, 0) - _PACKING > 3 * values[name])
