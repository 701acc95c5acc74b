"""From a store to GPT-SoVITS' prepared directory, for upstream's own trainers.

Every number is written as it is in the store. The directory is there when all of it is, and not before.
"""

from __future__ import annotations

import io
import shutil
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.featurize.alignment.words import indexed_text
from headrace.featurize.corpus.formats import LANGUAGE_TAGS
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.text.symbols import DEFAULT_TABLE, SYMBOLS
from headrace.store.errors import StoreError, UsageError
from headrace.store.reader import Store
from headrace.store.writer import write_error

_TAGS = {language: tag.upper() for tag, language in reversed(LANGUAGE_TAGS.items())}


def export_directory(store: Store, out: Path, done: Callable[[int], None]) -> dict[str, Any]:
    """Write the prepared directory of a store, and a list of its recordings beside the tables.

    Args:
        done: told how many utterances are written so far.
    Returns:
        Counts, and what the store had not.
    Raises:
        UsageError: there is something at `out`.
        StoreError: the store lacks what upstream always reads, or the disk is full.
    """
    _check(store)
    features = [name for name in gpt_sovits_dir.FILES if name in store.features]
    tables: dict[str, list[str]] = {gpt_sovits_dir.TEXTS: [], f"{out.name}.list": []}
    if "semantic" in features:
        tables[gpt_sovits_dir.CODES] = ["\t".join(gpt_sovits_dir.CODES_HEAD)]
    with new_folder(out) as draft:
        for folder in (
            gpt_sovits_dir.WAVES,
            *(gpt_sovits_dir.FOLDERS[name] for name in features if name in gpt_sovits_dir.FOLDERS),
        ):
            (draft / folder).mkdir()
        for number in range(len(store)):
            _write_utterance(store, number, features, draft)
            for file, line in _lines(store, number, features, out).items():
                tables[file].append(line)
            done(number + 1)
        for file, lines in tables.items():
            (draft / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    missing = [name for name in gpt_sovits_dir.FILES if name not in features]
    return {"utterances": len(store), "hours": store.hours, "features": features, "missing": missing}


def _check(store: Store) -> None:
    missing = [name for name in ("wave", "phones") if name not in store.features]
    if missing:
        raise StoreError(f"{store.path} has no {' and no '.join(missing)}: upstream's trainers always read them.")
    if (store.sample_rate, store.hop) != (gpt_sovits_dir.RATE, gpt_sovits_dir.HOP):
        raise StoreError(
            f"{store.path} has {store.sample_rate} Hz and {store.hop} samples a frame, upstream reads "
            f"{gpt_sovits_dir.RATE} and {gpt_sovits_dir.HOP}: build a store with --preset gpt-sovits-v2."
        )
    if (table := str(store.features["phones"].recipe["symbols"])) == "headrace-ipa":
        raise StoreError(
            f"{store.path} has phones of {table}, which upstream does not know: "
            f"build a store with --symbols {DEFAULT_TABLE}."
        )


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Where to write a folder that shall appear as `out` at once, when the `with` block ends, or not at all.

    Raises:
        UsageError: there is something at `out`.
        StoreError: it cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} is there already: name a new or an empty folder.")
    draft = out.with_name(f".{out.name}.draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of a command that was killed
        draft.mkdir(parents=True)
        yield draft
        if out.is_dir():
            out.rmdir()  # it is empty; Windows renames nothing onto a folder
        draft.rename(out)
    except OSError as error:
        raise write_error(error, str(out)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_utterance(store: Store, number: int, features: list[str], draft: Path) -> None:
    name = gpt_sovits_dir.name_of(store.ids[number])
    _write_wave(draft / gpt_sovits_dir.WAVES / name, store.read("wave", number))
    for feature in features:
        if feature in gpt_sovits_dir.FOLDERS:
            rows = store.read(feature, number)
            if feature == "content":
                rows = rows[: _hubert_frames(store, number, rows)]
            if feature != "bert" or rows.any():  # none is written where there is none
                _write_tensor(draft / gpt_sovits_dir.FOLDERS[feature] / f"{name}.pt", feature, rows)


def _hubert_frames(store: Store, number: int, rows: np.ndarray) -> int:
    """Return the rows of upstream's HuBERT for the recording: without the last row if the store repeats it."""
    samples = len(rows) * store.hop + int(store.column("samples_dropped")[number])
    frames = ((samples + 1) // 2 - 80) // 320
    repeated = len(rows) > 1 and np.array_equal(rows[-1], rows[-2])
    return frames if repeated and frames == len(rows) - 1 else len(rows)


def _write_wave(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setframerate(gpt_sovits_dir.RATE)
        file.setnchannels(1)
        file.setsampwidth(2)
        file.writeframes(samples.astype("<i2", copy=False).tobytes())


def _write_tensor(path: Path, feature: str, rows: np.ndarray) -> None:
    """Transpose the rows, with time contiguous in memory first, as in upstream's files."""
    tensor = torch.from_numpy(np.array(rows))
    shaped = {"content": tensor.T[None], "bert": tensor.T, "speaker_vector": tensor}[feature]
    buffer = io.BytesIO()  # to a path torch reports a full disk as an error of its own
    torch.save(shaped, buffer)
    path.write_bytes(buffer.getbuffer())


def _lines(store: Store, number: int, features: list[str], out: Path) -> dict[str, str]:
    """Return an utterance's line of each table."""
    name, (text, counts) = gpt_sovits_dir.name_of(store.ids[number]), _spelled(store, number)
    phones = " ".join(SYMBOLS[id] for id in store.read("phones", number).tolist())
    language = store.languages[number]
    speaker = " ".join(store.speakers[number].replace("|", " ").split())
    written = " ".join(store.texts[number].replace("|", " ").split())
    listed = (f"{gpt_sovits_dir.WAVES}/{name}", speaker, _TAGS.get(language, language), written)
    lines = {
        gpt_sovits_dir.TEXTS: "\t".join((name, phones, counts, text)),
        f"{out.name}.list": "|".join(listed),
    }
    if "semantic" in features:
        lines[gpt_sovits_dir.CODES] = f"{name}\t{' '.join(map(str, store.read('semantic', number).tolist()))}"
    return lines


def _spelled(store: Store, number: int) -> tuple[str, str]:
    """The text in words, as far as it is known, and how many phones each character has, or `None`: `prepared.words`,
    undone."""
    text, counts = store.texts[number], np.zeros(1, np.int64)
    if "phone_word" in store.features:
        words, recipe = store.read("phone_word", number), store.features["phone_word"].recipe
        timed = bool(store.column("aligned")[number])
        text = indexed_text(text, store.languages[number], words, recipe, aligned=timed) or text
        counts = np.bincount(words, minlength=len(text)) if len(words) and words.min() >= 0 else counts
    # Where it is words that phones belong to, characters have none.
    return " ".join(text.split()), str(counts.tolist()) if counts.all() else "None"
