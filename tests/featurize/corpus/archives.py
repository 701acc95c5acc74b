"""Corpora of one content: in a folder, and in archives of every kind. And builds of them without other processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import soundfile

from headrace import store
from headrace.featurize.pipeline import build as pipeline
from headrace.featurize.pipeline.presets import PRESETS
from headrace.featurize.spectral import engine
from tests.helpers.corpora import buzz, sentence
from tests.helpers.corpus_formats import write


def make_recordings(folder: Path, count: int = 12, seconds: float = 0.3) -> Path:
    """Recordings of several kinds and rates, each with a .json of its name that has text, speaker and language."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        rate, end = ((32_000, "flac"), (16_000, "wav"), (16_000, "flac"), (24_000, "ogg"))[n % 4]
        wave = buzz(seconds * (1 + n * 7 % count / count), rate, n)
        soundfile.write(folder / f"u{n:04}.{end}", wave, rate)
        document = {"text": sentence(n, 2 + n % 5), "speaker": f"s{n % 3}", "language": "en"}
        write(folder / f"u{n:04}.json", json.dumps(document))
    return folder


@contextmanager
def workers_in_this_process() -> Iterator[None]:
    """Make parts in this process: no worker is started."""

    @contextmanager
    def start(config: Any, parts: int, observer: Any) -> Iterator[Any]:
        workers = SimpleNamespace(map=lambda process, tasks: (process(task, 1) for task in tasks), workers=1)
        yield workers, engine.choose("torch", "cpu")

    with mock.patch.object(pipeline, "_start_workers", start):
        yield


def build(corpus: Path, out: Path, features: tuple[str, ...] = ("wave", "mel"), **options: Any) -> dict[str, Any]:
    """Build a store in this process, and return what `build.json` says."""
    config = pipeline.BuildConfig(
        corpus=corpus,
        out=out,
        preset=PRESETS["gpt-sovits-v2"],
        features=features,
        engine="torch",
        device="cpu",
        **options,
    )
    with workers_in_this_process():
        return pipeline.build(config)


def contents(out: Path, features: tuple[str, ...] = ("wave", "mel")) -> dict[str, tuple[Any, ...]]:
    """What a store holds of each utterance, by the name of its recording without the archive and suffix, or its row."""
    opened = store.open(out)
    found: dict[str, tuple[Any, ...]] = {}
    for number, id in enumerate(opened.ids):
        name, _, segment = str(id).rpartition("/")[2].partition("#")
        key = f"{name.partition('.')[0]}#{segment}".rstrip("#")
        key = key if ".arrow/" not in str(id) and ".parquet/" not in str(id) else str(id)
        arrays = tuple(np.asarray(opened.read(name, number)).tobytes() for name in features)
        found[key] = (opened.texts[number], opened.speakers[number], opened.languages[number], *arrays)
    assert len(found) == len(opened)
    return found
