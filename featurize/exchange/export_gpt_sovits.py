"""From a store to GPT-SoVITS' prepared directory, for upstream's own trainers.

Every number is written as it is in the store. The directory is there when all of it is, and not before.
"""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.featurize.alignment.phone_labels import UPSTREAM_LANGUAGES
from headrace.featurize.alignment.words import indexed_text
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.text import reading_options
from headrace.featurize.text.languages.language_tags import LANGUAGE_TAGS
from headrace.featurize.text.symbols import DEFAULT_TABLE, SYMBOLS
from headrace.store.advice import command
from headrace.store.errors import DamagedStore, StoreError
from headrace.store.reader import Store
from headrace.store.storage.file_names import file_names, unescape
from headrace.store.storage.output_files import output_folder

_BREAKS_LISTS = re.compile("[|\x00-\x1f\x7f\x85\u2028\u2029]")
"""What ends a field or a line of a list."""
_TAGS = {language: tag.upper() for tag, language in reversed(LANGUAGE_TAGS.items())}


def export_directory(
    store: Store, out: Path, done: Callable[[int], None], *, incomplete: bool = False
) -> dict[str, Any]:
    """Write the prepared directory of a store, and a list of its recordings beside the tables.

    Args:
        done: told how many utterances are written so far.
        incomplete: export a store whose build is not finished, too.
    Returns:
        Counts, and what the store had not.
    Raises:
        UsageError: there is something at `out`.
        StoreError: the store is not complete, upstream could not read what the store holds, or the disk is full.
    """
    if not incomplete:
        store.require_complete()
    _check(store)
    features = [name for name in gpt_sovits_dir.FILES if name in store.features]
    list_file = f"{out.resolve().name}.list"
    tables: dict[str, list[str]] = {gpt_sovits_dir.TEXTS: [], list_file: []}
    if "semantic" in features:
        tables[gpt_sovits_dir.CODES] = ["\t".join(gpt_sovits_dir.CODES_HEAD)]
    names = file_names(store.ids.tolist())
    with output_folder(out) as draft:
        for folder in (
            gpt_sovits_dir.WAVES,
            *(gpt_sovits_dir.FOLDERS[name] for name in features if name in gpt_sovits_dir.FOLDERS),
        ):
            (draft / folder).mkdir()
        for number, name in enumerate(names):
            _write_utterance(store, number, name, features, draft)
            for file, line in _lines(store, number, name, features).items():
                tables.setdefault(file or list_file, []).append(line)
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
    _check_networks(store)
    if (table := str(store.features["phones"].recipe["symbols"])) == "headrace-ipa":
        raise StoreError(f"{store.path} has phones of {table}, which upstream does not know: {_symbols_remedy(store)}.")


def _symbols_remedy(store: Store) -> str:
    """Return how a store with phones in IPA can be exported; the other table has no phones for other languages."""
    known = ("en", *UPSTREAM_LANGUAGES)
    other = sorted({*store.languages.tolist()}.difference(known))
    if not other:
        return f"build another store with featurize build CORPUS --out STORE --symbols {DEFAULT_TABLE}"
    rest = f"build a store of {', '.join(known)} alone" if {*store.languages.tolist()} - {*other} else "train it here"
    return f"no table of upstream has phones of {', '.join(other[:5])}, so {rest}"


def _check_networks(store: Store) -> None:
    """Check that upstream's networks read features of these shapes, which no import would take back otherwise."""
    for name in gpt_sovits_dir.FOLDERS:
        if name not in store.features:
            continue
        spec = store.features[name]
        wanted = gpt_sovits_dir.tensor_spec(name, spec.dtype)
        if (spec.axis, spec.channels) != (wanted.axis, wanted.channels) or spec.dtype not in ("float16", "float32"):
            made = {"content": " by HuBERT or with --content-channels 768", "speaker_vector": " by ERes2NetV2"}
            remedy = f"run {command('featurize drop', store.path, name)}, and add it again{made.get(name, '')}"
            raise StoreError(
                f"{store.path} has {name} of {spec.channels or 1} channels in {spec.dtype}, upstream reads "
                f"{wanted.channels} in float16 or float32: {remedy} or leave it out."
            )
    if "semantic" in store.features:
        codebook = store.features["semantic"].recipe.get("codebook", gpt_sovits_dir.CODEBOOK)
        if codebook > gpt_sovits_dir.CODEBOOK:
            raise StoreError(
                f"{store.path} has semantic tokens of {codebook} codes, upstream reads at most "
                f"{gpt_sovits_dir.CODEBOOK}: make them with one of its models."
            )


def _write_utterance(store: Store, number: int, name: str, features: list[str], draft: Path) -> None:
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
    buffer = io.BytesIO()  # a writer to a path that cannot be made complains once more when it is deleted
    with wave.open(buffer, "wb") as file:
        file.setframerate(gpt_sovits_dir.RATE)
        file.setnchannels(1)
        file.setsampwidth(2)
        file.writeframes(samples.astype("<i2", copy=False).tobytes())
    path.write_bytes(buffer.getbuffer())


def _write_tensor(path: Path, feature: str, rows: np.ndarray) -> None:
    """Transpose the rows, with time contiguous in memory first, as in upstream's files."""
    tensor = torch.from_numpy(np.array(rows))
    shaped = {"content": tensor.T[None], "bert": tensor.T, "speaker_vector": tensor}[feature]
    buffer = io.BytesIO()  # to a path torch reports a full disk as an error of its own
    torch.save(shaped, buffer)
    path.write_bytes(buffer.getbuffer())


def _lines(store: Store, number: int, name: str, features: list[str]) -> dict[str, str]:
    """Return an utterance's line of each table, that of the list under an empty name."""
    id, speaker, language = (str(names[number]) for names in (store.ids, store.speakers, store.languages))
    phones = store.read("phones", number)
    if len(phones) and not 0 <= phones.min() <= phones.max() < len(SYMBOLS):
        remedy = f"run {command('store verify', store.path)}"
        raise DamagedStore(f"{store.path}: {id!r} has phones that are in no table of symbols: {remedy}.")
    text, counts = _spelled(store, number)
    written = " ".join(store.texts[number].replace("|", " ").split())
    listed_speaker = _list_field(speaker)
    listed = (f"{gpt_sovits_dir.WAVES}/{name}", listed_speaker, _list_field(_TAGS.get(language, language)), written)
    lines = {
        gpt_sovits_dir.TEXTS: "\t".join((name, " ".join(SYMBOLS[id] for id in phones.tolist()), counts, text)),
        "": "|".join(listed),
    }
    if unescape(name) != id or listed_speaker != speaker:
        lines[gpt_sovits_dir.NAMES] = json.dumps({"file": name, "id": id, "speaker": speaker}, ensure_ascii=False)
    if "semantic" in features:
        lines[gpt_sovits_dir.CODES] = f"{name}\t{' '.join(map(str, store.read('semantic', number).tolist()))}"
    return lines


def _list_field(value: str) -> str:
    """Return a value as a field of a list: what would end it as %XX, and no spaces around it."""
    return _BREAKS_LISTS.sub(lambda match: f"%{ord(match[0]):02X}", value.strip())


def _spelled(store: Store, number: int) -> tuple[str, str]:
    """The text in words, as far as it is known, and how many phones each character has, or `None`: `prepared.words`,
    undone."""
    text, counts = store.texts[number], np.zeros(1, np.int64)
    if "phone_word" in store.features:
        words, recipe = store.read("phone_word", number), store.features["phone_word"].recipe
        timed = bool(store.column("aligned")[number])
        known = reading_options.of_specs(store.features)
        text = indexed_text(text, store.languages[number], words, recipe, aligned=timed, options=known) or text
        counts = np.bincount(words, minlength=len(text)) if len(words) and words.min() >= 0 else counts
    # Where it is words that phones belong to, characters have none.
    return " ".join(text.split()), str(counts.tolist()) if counts.all() else "None"
