"""Read the files of a prepared directory of GPT-SoVITS, which upstream's preparation writes for its trainers.

    2-name2text.txt       an utterance a line: name, phones, phones of each character, text, between tabs
    3-bert/NAME.pt        (1024, phones), for Chinese
    4-cnhubert/NAME.pt    (1, 768, frames or one less), 50 Hz
    5-wav32k/NAME         WAV, 32 kHz, mono, int16
    6-name2semantic.tsv   name and codes, between tabs; 25 Hz
    7-sv_cn/NAME.pt       (1, 20480)
    names.jsonl           ours, where needed: ids and speakers that no name and no line can hold

Tensors are float16, or float32 where upstream had no GPU. A file that would run code is refused, and so is one that
does not match its checksums.
"""

from __future__ import annotations

import ast
import math
import os
import re
import stat
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.featurize.files import torch_archive
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Axis, FeatureSpec, Reject
from headrace.store.storage import read_file
from headrace.store.storage.regular_files import open_regular

RATE, HOP = 32_000, 640
TEXTS, CODES, WAVES = "2-name2text.txt", "6-name2semantic.tsv", "5-wav32k"
TEXT_COLUMNS, CODE_COLUMNS = ("name", "phones", "phones of each character", "text"), ("name", "codes")
CODES_HEAD = ["item_name", "semantic_audio"]
FOLDERS = {"content": "4-cnhubert", "bert": "3-bert", "speaker_vector": "7-sv_cn"}
"""Feature to the folder of its tensors."""
FILES = {"wave": WAVES, "phones": TEXTS, **FOLDERS, "semantic": CODES}
"""Feature to its file or folder."""
CODEBOOK = 1024
MAX_EXCESS = 8
"""How many times the size of its tensor a file may have. A file holds a whole storage, of which a tensor may be a view.
"""
_PACKING = 1 << 16
_NETWORKS: dict[str, tuple[Axis, int, dict[str, Any]]] = {
    "content": ("frames", 768, {"network": "chinese-hubert-base", "layer": "last", "short_of_a_frame": "repeated"}),
    "bert": ("phones", 1024, {"network": "chinese-roberta-wwm-ext-large", "layer": -3, "missing": "zeros"}),
    "speaker_vector": ("utterance", 20480, {"network": "eres2netv2", "layer": "pooled"}),
}
NAMES = "names.jsonl"
"""A file of ours beside upstream's: the ids and speakers that the names in the others do not say."""


def tensor_spec(name: str, dtype: str) -> FeatureSpec:
    """Return the spec of `content`, `bert` or `speaker_vector` as imported, with dtype float16 or float32."""
    axis, channels, recipe = _NETWORKS[name]
    return FeatureSpec(name=name, axis=axis, dtype=dtype, channels=channels, recipe=recipe)


def semantic_spec() -> FeatureSpec:
    """Return the spec of `semantic`: (tokens,) int16 codes at 25 Hz."""
    recipe = {"quantiser": "gpt-sovits", "codebook": CODEBOOK, "hz": 25}
    return FeatureSpec(name="semantic", axis="tokens", dtype="int16", channels=None, recipe=recipe)


def word_spec() -> FeatureSpec:
    """Return the spec of `phone_word`: index of the character of the text of each phone, -1 if unknown."""
    return FeatureSpec(name="phone_word", axis="phones", dtype="int16", channels=None, recipe={"unit": "character"})


def table(root: Path, file: str, columns: Sequence[str]) -> Iterator[tuple[str, list[str]] | Reject]:
    """Yield the location (FILE:LINE) and the columns of each line of a table; a malformed line is a reject.

    Raises:
        CorpusError: the file is missing or cannot be read.
    """
    try:
        lines = read_file(root / file).split(b"\n")
    except OSError as error:
        raise CorpusError(f"{root / file} cannot be read: {error.strerror}.") from None
    for number, raw in enumerate(lines, 1):
        where = f"{file}:{number}"
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            yield Reject(where, "scan", f"not UTF-8 from byte {error.start + 1} on: save it as UTF-8")
            continue
        fields = line.split("\t")
        if len(fields) == len(columns):
            yield where, fields
        elif line:
            yield Reject(where, "scan", f"{len(fields)} columns between tabs instead of {', '.join(columns)}")


def size_of(root: Path, name: str) -> int:
    """Return the size of a file in bytes.

    Raises:
        Rejected: stage "scan"; the file is missing, unreadable, or not a regular file.
    """
    try:
        status = os.stat(root / name)
    except FileNotFoundError:
        raise Rejected("scan", f"{name} is not there: run upstream's preparation again") from None
    except OSError as error:
        raise Rejected("scan", f"{name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Rejected("scan", f"{name} is not a regular file")
    return status.st_size


def modified(root: Path, name: str) -> int:
    """Return when a file was last modified, in nanoseconds; 0 if that is not known."""
    try:
        return os.stat(root / name).st_mtime_ns
    except OSError:
        return 0


def tensor_file(feature: str, name: str) -> str:
    """Return the name of the file with a feature's tensor, for a recording of this name."""
    return f"{FOLDERS[feature]}/{name}.pt"


def count_samples(root: Path, name: str, size: int) -> int:
    """Return the number of samples of a recording of `size` bytes, from its header.

    Raises:
        Rejected: stage "decode"; the file is truncated, or not 32 kHz mono int16 WAV.
    """
    with _opened(root, name) as file:
        count = file.getnframes()
    if 2 * count > size:
        raise Rejected("decode", f"{WAVES}/{name} is cut short: {size} bytes, and {count} samples by its header")
    return count


def read_wave(root: Path, name: str) -> np.ndarray:
    """Return the samples of a recording, (samples,) int16.

    Raises:
        Rejected: stage "decode"; the file is truncated, or not 32 kHz mono int16 WAV.
    """
    with _opened(root, name) as file:
        count = file.getnframes()
        samples = np.frombuffer(bytearray(file.readframes(count)), "<i2")
    if len(samples) != count:
        raise Rejected("decode", f"{WAVES}/{name} is cut short: {len(samples)} of its {count} samples are there")
    return samples


@contextmanager
def _opened(root: Path, name: str) -> Iterator[wave.Wave_read]:
    try:
        with open_regular(root / WAVES / name) as opened, wave.open(opened, "rb") as file:
            rate, channels, bits = file.getframerate(), file.getnchannels(), 8 * file.getsampwidth()
            if (rate, channels, bits) != (RATE, 1, 16):
                found = f"{rate} Hz, {channels} channels, {bits} bits"
                raise Rejected("decode", f"{WAVES}/{name} has {found}, not {RATE} Hz, 1, 16: prepare it with upstream")
            yield file
    except (OSError, EOFError, wave.Error) as error:
        reason = str(error) or "it ends too early"
        raise Rejected("decode", f"{WAVES}/{name} is no WAV of int16 samples: {reason}") from None


def read_rows(root: Path, name: str, spec: FeatureSpec, columns: Mapping[str, int]) -> np.ndarray:
    """Return an utterance's tensor as (rows, channels), transposed from upstream's files.

    HuBERT's output may be one frame short: its last frame is then repeated, as upstream's loader does. A missing BERT
    file gives zeros, as upstream does.

    Args:
        columns: `frames` and `phones_n` of the utterance.
    Raises:
        Rejected: stage "features"; the file is missing, would run code, or has another shape or dtype than upstream's.
    """
    frames, phones = columns["frames"], columns["phones_n"]
    file = tensor_file(spec.name, name)
    if spec.name == "bert" and not (root / file).exists():
        return np.zeros((phones, *spec.row_shape), spec.dtype)
    array = _read_tensor(root, file, 4 * max(frames, phones, 1) * math.prod(spec.row_shape))
    expected = {
        "content": [(1, *spec.row_shape, frames), (1, *spec.row_shape, frames - 1)],
        "bert": [(*spec.row_shape, phones)],
        "speaker_vector": [(1, *spec.row_shape)],
    }[spec.name]
    if array.shape not in expected:
        raise Rejected("features", f"{file} has shape {array.shape}, not {' or '.join(map(str, expected))}")
    if not np.can_cast(array.dtype, spec.dtype):
        raise Rejected("features", f"{file} is {array.dtype}, and all others are {spec.dtype}: prepare it again")
    rows = array if spec.name == "speaker_vector" else array.reshape(array.shape[-2:]).T
    if not np.isfinite(rows).all():
        raise Rejected("features", f"{file} holds numbers that are not finite: prepare it again")
    if spec.name == "content" and len(rows) < frames:
        rows = np.concatenate((rows, rows[-1:]))
    return rows.astype(spec.dtype, copy=False)


def _read_tensor(root: Path, file: str, size: int) -> np.ndarray:
    """Read a tensor that needs about `size` bytes at most."""
    if (found := size_of(root, file)) > MAX_EXCESS * size + _PACKING:
        raise Rejected("features", f"{file} has {found:,} bytes, and its tensor needs {size:,}: prepare it again")
    try:
        value = torch_archive.load(root / file)
    except (OSError, torch_archive.ArchiveError) as error:
        reason = str(error)[:120]
        raise Rejected("features", f"{file} is not a tensor that loads without running code ({reason})") from None
    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float16, torch.float32):
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise Rejected("features", f"{file} holds {kind}, not a tensor of float16 or float32")
    array: np.ndarray = value.detach().numpy()
    return array


def words(characters: str, phones: int) -> np.ndarray:
    """Return the index of each phone's character, (P,) int16, from the phone counts of the characters; -1 for `None`.

    Raises:
        Rejected: stage "text"; it is not a list of counts, or their sum is not `phones`.
    """
    try:
        counts = ast.literal_eval(characters)  # numbers, lists and the like: nothing is run
        if counts is None:
            return np.full(phones, -1, np.int16)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        counts = ()
    if not isinstance(counts, list) or not all(type(count) is int and 0 <= count < 1 << 31 for count in counts):
        raise Rejected("text", f"{characters[:60]!r} does not say how many phones each character has")
    if sum(counts) != phones:  # before anything is made of that size
        raise Rejected("text", f"its characters have {sum(counts)} phones together, and there are {phones}")
    if len(counts) > np.iinfo(np.int16).max:
        raise Rejected("text", f"it has {len(counts)} characters, more than a store counts")
    return np.repeat(np.arange(len(counts), dtype=np.int16), counts)


def codes(text: str, frames: int) -> np.ndarray:
    """Return the codes in a line of the table, (tokens,) int16, one per two frames.

    Raises:
        Rejected: stage "features"; values are not codes, or there are not half as many as frames.
    """
    try:
        values = np.array([int(word) for word in text.split()], np.int64)
    except (ValueError, OverflowError):
        raise Rejected("features", f"{CODES} gives {text[:60]!r}, not codes") from None
    if len(values) and not 0 <= values.min() <= values.max() < CODEBOOK:
        raise Rejected("features", f"{CODES} gives codes that are not 0 to {CODEBOOK - 1}")
    if not (frames - 1) // 2 <= len(values) <= (frames + 1) // 2:
        raise Rejected("features", f"{CODES} gives {len(values)} codes for {frames} frames, not half as many")
    return values.astype(np.int16)


_VOWELS = {
    "yue": re.compile(r"Y[a-z]+\d?"),
    "ko": re.compile(r"[ㄱ-ㅣ停空]"),
    "en": re.compile(r"[A-Z]{2}[0-2]"),
    "zh": re.compile(r"[a-zE][a-z]*0?[1-5]"),
    "ja": re.compile(r"[aiueoIUEON]"),
}
"""Symbols that only this language has."""


def language_of(phones: Sequence[str]) -> str:
    """Return the language that most symbols are specific to, or `und` (undetermined) if none is."""
    counts = {name: sum(vowel.fullmatch(phone) is not None for phone in phones) for name, vowel in _VOWELS.items()}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else "und"
