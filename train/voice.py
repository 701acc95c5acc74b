"""A voice: both models of GPT-SoVITS, trained one after the other on the codes of one store, and samples of them.

VOICE/
  voice.json    the store, and the utterance whose voice is the default
  sovits/       a run of stage sovits
  gpt/          a run of stage gpt
  samples/      utterances of the store as both models speak them, one of each language

Every step is resumed where it stopped: the same command continues, with the same result.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headrace import store as stores
from headrace.featurize.features.codebooks import codebook_of
from headrace.store.advice import command
from headrace.store.errors import Interrupted, RunError, StoreError, UsageError
from headrace.store.names import LOCK_FILE
from headrace.store.reader import Store
from headrace.store.storage import StoragePath, parse_path
from headrace.store.storage.file_names import portable_name
from headrace.store.storage.local import DRAFT_FILE, atomic_file, folder_lock, make_folder
from headrace.train.checkpoints import initial_weights, trained_models
from headrace.train.config import RunConfig
from headrace.train.config_sections import STAGES
from headrace.train.inference.reference import reference_from_store
from headrace.train.inference.synthesis import SynthesisRequest, synthesize_speech
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.speech_reference import Reference
from headrace.train.monitoring.observer import Observer
from headrace.train.stages.sovits_features import choose_codebook
from headrace.train.trainer import loop
from headrace.train.trainer.pruned_run import prune_run

FILE = "voice.json"
SAMPLE_SECONDS = 4.0
"""Utterances that are spoken are the nearest to this length."""


@dataclass(frozen=True, kw_only=True)
class VoiceConfig:
    """A voice to train."""

    store: StoragePath
    """A store, or a text file with a list of stores."""
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of both runs, by name, as for `RunConfig.with_options`."""
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of the run of a stage."""
    samples: int = 4
    """Samples to speak at the end, at most."""

    def run(self, stage: str) -> RunConfig:
        """Return the config of the run of a stage."""
        return RunConfig.from_options(store=self.store, out=self.out / stage, **self.given(stage))

    def given(self, stage: str) -> dict[str, Any]:
        """Return the options of the run of a stage; it ends by steps or by epochs."""
        end = {"max_steps": 0, "max_epochs": 0}
        return {**end, **self.options, **self.stages.get(stage, {}), "stage": stage}


def train_voice(
    config: VoiceConfig,
    add_codes: Callable[[], None],
    observer: Observer,
    train: Callable[[RunConfig, Mapping[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train both models of a voice and speak with them, or continue to do so.

    Args:
        add_codes: adds `semantic` to the store; called if that lacks it.
        train: starts or resumes the run of a stage with the options given now, and returns its summary. None trains in
            this process.
    Returns:
        The summaries of both runs, and of the samples.
    Raises:
        UsageError: `out` holds other things, or the codes of the store are not of a codebook that sovits can have.
        RunError: another command is writing `out`, or it was begun with other options.
        Interrupted: SIGTERM or SIGINT came; the same command continues.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("train voice starts its processes itself: run it once, with --gpus.")
    runs = {stage: config.run(stage) for stage in STAGES}
    _check_folder(config.out)
    make_folder(config.out)
    with folder_lock(config.out, RunError):
        if "semantic" not in stores.open(config.store).features:
            observer.log("codes: the store has none, semantic is added to it")
            add_codes()
        store = stores.open(config.store)
        _check_codebook(runs["sovits"], store)
        numbers = _spoken_utterances(store, config.samples)
        _write_json(config.out / FILE, {"store": _absolute(config.store), "utterance": str(store.ids[numbers[0]])})
        train = train or partial(_train, observer)
        summaries = {stage: train(run, config.given(stage)) for stage, run in runs.items()}
        samples = [_speak(config, runs["sovits"], store, number, observer) for number in numbers]
    return {
        "voice": str(config.out),
        "store": str(config.store),
        "codebook": codebook_of(store.features),
        **summaries,
        "samples": samples,
    }


def sample_options(voice: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `SynthesisRequest` that speak with a voice.

    Args:
        given: options that replace those of the voice: its models, and the utterance whose voice is the default.
    Raises:
        RunError: it is none.
    """
    reference = _default_utterance(voice)
    models = {"sovits": voice} if "semantic" in given else {"sovits": voice, "gpt": voice}
    return models | ({} if {"reference", "store"} & given.keys() else reference) | dict(given)


def default_reference(
    run: Path,
    store: StoragePath | None,
    utterance: str | None,
    generator: SynthesizerTrn | None,
    log: Callable[[str], object],
) -> Reference | None:
    """Return the reference that is exported along; None where there is none.

    Args:
        run: a voice, whose own utterance it is unless one is given; or another source of weights.
        store, utterance: the utterance that is given, and its store.
        log: is told why there is none.
    Raises:
        StoreError, RunError, UsageError: there is no such utterance, or it lacks what the generator reads.
    """
    if (utterance is None) != (store is None):
        raise UsageError("Give --store and --utterance together: the voice is that of an utterance of a store.")
    if generator is None or (utterance is None and not (run / FILE).exists()):
        return None
    found: dict[str, Any] = {"store": store, "utterance": utterance} if store is not None else _default_utterance(run)
    try:
        return reference_from_store(found["store"], found["utterance"], generator.config, prompt=True)
    except StoreError as error:
        if store is not None:
            raise
        log(f"no voice is exported along: {error.message}")
        return None


def store_of_voice(run: Path) -> StoragePath | None:
    """Return the store of a voice, or None where there is no voice. Raises RunError where it is damaged."""
    return _default_utterance(run)["store"] if (run / FILE).exists() else None


def _default_utterance(voice: Path) -> dict[str, Any]:
    """Return the store and the utterance whose voice is the default. Raises RunError where there is no voice."""
    try:
        saved = json.loads((voice / FILE).read_bytes())
        return {"store": parse_path(saved["store"]), "utterance": str(saved["utterance"])}
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise RunError(f"{voice} is not a voice: give a folder that train voice has made.") from error


def _check_folder(out: Path) -> None:
    """Check that `out` is new, empty, or a voice. Raises UsageError otherwise."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give the voice a folder by --out.")
    names = os.listdir(out) if out.exists() else []
    names = [name for name in names if name != LOCK_FILE and not DRAFT_FILE.fullmatch(name)]
    if names and FILE not in names:
        raise UsageError(f"{out} is not empty and holds no voice ({min(names)!r} is there): give another --out.")


def _check_codebook(config: RunConfig, store: Store) -> None:
    """Check, before anything is trained, that both models will be trained on codes of one codebook.

    Raises:
        UsageError: they would not.
    """
    again = f"run {command('featurize drop', store.path, 'semantic')}, and the same command again"
    if config.model.init is None:
        codebook, why = choose_codebook(config, store)
        if codebook != "store":
            raise UsageError(f"sovits would learn a codebook of its own and gpt another one, since {why}: {again}.")
        return
    initial = initial_weights.read(config.model.init, "generator", config.model.at)
    if codebook_of(store.features) not in initial.codebooks:
        raise UsageError(f"The codes of {store.path} are not known to be those of {config.model.init}: {again}.")


def _train(observer: Observer, config: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Start a run, or resume it with the options that are given now, and return its summary."""
    observer.log(f"{config.model.stage}: {config.out}")
    try:
        summary = loop.start_or_resume(config, {**given, "store": config.store}, observer)
    except Interrupted as error:
        done, _, _ = error.message.partition(" Continue with")
        raise Interrupted(f"{done} The same command continues.") from error
    assert summary is not None, "one process trains"
    return summary


def _spoken_utterances(store: Store, count: int) -> list[int]:
    """Return the numbers of utterances to speak: one of each language, the nearest to `SAMPLE_SECONDS`.

    Raises:
        StoreError: the store holds no utterance.
    """
    if not len(store):
        raise StoreError(f"{store.path} holds no utterance.")
    seconds = store.frames * store.hop / store.sample_rate
    nearest = np.argsort(abs(seconds - SAMPLE_SECONDS), kind="stable")
    _, first = np.unique(store.languages[nearest].astype(str), return_index=True)
    return [int(nearest[place]) for place in sorted(first.tolist())[: max(1, count)]]


def _speak(config: VoiceConfig, run: RunConfig, store: Store, number: int, observer: Observer) -> dict[str, Any]:
    """Speak an utterance of the store in its own voice. Returns what was said, and where it is."""
    id, text, language = str(store.ids[number]), str(store.texts[number]), str(store.languages[number])
    file = config.out / "samples" / f"{portable_name(id.replace('/', '_'))}.wav"
    request = SynthesisRequest(
        text=text,
        language=language,
        sovits=config.out,
        gpt=config.out,
        store=config.store,
        utterance=str(number),
        device=run.compute.device,
    )
    said = {"utterance": id, "language": language, "text": text}
    try:
        speech = synthesize_speech(request)
    except UsageError as error:  # a text whose frontend is not installed here, or that was not read for its phones
        observer.log(f"sample of {id}: {error.message}")
        return {**said, "failed": error.message}
    file.parent.mkdir(parents=True, exist_ok=True)
    speech.write(file)
    observer.log(f"sample {file}: {speech.seconds:.2f} s")
    return {**said, "file": str(file), "seconds": speech.seconds, "scores": speech.scores}


def _absolute(path: StoragePath) -> str:
    return str(path.resolve())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def export_voice(
    voice: Path,
    out: Path,
    at: str = "",
    log: Callable[[str], object] | None = None,
    *,
    mixed_origins: bool = False,
) -> Iterator[tuple[Path, str]]:
    """Export both models of a voice into a folder, and yield the file and the version of each.

    Args:
        at, log, mixed_origins: as for `trained_models.export_run`.

    Raises:
        UsageError: `out` is not a folder; or as `trained_models.export_run`.
    """
    if not out.is_dir():
        raise UsageError(f"A voice is exported as two files: make the folder {out} first, or name one that is there.")
    for stage in STAGES:
        yield trained_models.export_run(voice / stage, out, voice.resolve().name, at, log, mixed_origins=mixed_origins)


def prune_voice(
    voice: Path,
    out: Path,
    channels: float,
    layers: float = 0.0,
    at: str = "",
    store: StoragePath | None = None,
    log: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Prune both models of a voice, as a voice of its own. Returns what `prune_run` returns of each.

    Args, Raises:
        As `prune_run`.
    """
    _check_folder(out)
    make_folder(out)
    with folder_lock(out, RunError):
        saved = json.loads((voice / FILE).read_bytes())
        options: dict[str, Any] = {"layers": layers, "at": at, "store": store, "log": log}
        pruned = [prune_run(voice / stage, out / stage, channels, **options) for stage in STAGES]
        _write_json(out / FILE, saved)
    return pruned
