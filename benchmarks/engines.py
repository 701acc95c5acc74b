"""Do the engines agree, and how fast is each?

    python -m benchmarks.engines CORPUS [--preset NAME] [--minutes M] [--hours H] [--rounds N]

Agreement, over the whole corpus, before the cast to float16, against torch on a CPU. CPU time of the spectral stage
alone, one thread, engines in turn in every round. And where there is a CUDA device, over H hours (the corpus again and
again): decoding alone on all cores, decoding with each engine, each engine alone, the device's own work from pinned
memory, and the least time in which the card could move its bytes.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks import report
from headrace.featurize.audio import decode_pool
from headrace.featurize.audio.decode import Decoded
from headrace.featurize.audio.recording import DEFAULT_LIMITS
from headrace.featurize.corpus import scanner
from headrace.featurize.pipeline.presets import Preset, get_preset
from headrace.featurize.spectral import cuda_engine, dali, engine, whitening
from headrace.featurize.spectral.dsp import SpectralRecipe, window
from headrace.featurize.spectral.engine import Engine, Spectra
from headrace.store.schema import Utterance

Wave = tuple[str, np.ndarray]
ENGINES = (("torch", "cpu"), ("dali", "cpu"), ("torch", "cuda"), ("dali", "cuda"))
Table = tuple[str, Sequence[str], list[tuple]]
"""Title, head, rows."""


def here() -> list[tuple[str, str]]:
    return [pair for pair in ENGINES if pair[1] == "cpu" or torch.cuda.is_available()]


def decoded(root: Path, utterances: Iterable[Utterance], preset: Preset, threads: int) -> Iterator[Wave]:
    """Waves as an engine wants them: whole hops, long enough."""
    recipe = preset.spectral
    rate, level = recipe.sample_rate, preset.level
    waves = decode_pool.decode_utterances(
        root, utterances, rate, level, isolated=False, threads=threads, limits=DEFAULT_LIMITS
    )
    for utterance, decoded in waves:
        wave = decoded.wave if isinstance(decoded, Decoded) else np.empty(0, np.int16)
        if len(wave) >= recipe.min_frames * recipe.hop:
            yield utterance.id, wave[: len(wave) // recipe.hop * recipe.hop]


def hours(waves: Iterable[Wave], recipe: SpectralRecipe) -> float:
    return sum(len(wave) for _, wave in waves) / recipe.sample_rate / 3600


def agreement(waves: Sequence[Wave], recipe: SpectralRecipe) -> Table:
    reference = features(engine.load("torch", "cpu", recipe, np.float32), waves)
    others: list[tuple[str, Engine]] = [
        ("torch cuda's code, on a CPU", cuda_engine.BatchedEngine(recipe, "cpu", np.float32))
    ]
    others += [(f"{name} {place}", engine.load(name, place, recipe, np.float32)) for name, place in here()[1:]]
    rows = []
    for name, made in others:
        found = features(made, waves)
        frames = all(found[key].mel.shape == expected.mel.shape for key, expected in reference.items())
        errors = ([np.abs(found[key][part] - reference[key][part]).ravel() for key in reference] for part in (0, 1))
        mel, mfcc = map(np.concatenate, errors)
        worst = [float(value) for value in (mel.max(), np.quantile(mel, 0.999), mfcc.max())]
        rows.append((name, len(found), "equal" if frames else "DIFFER", *worst))
    head = ("engine", "utterances", "frames", "log-mel, worst", "log-mel, 99.9th percentile", "MFCC, worst")
    return "Against torch on a CPU, absolute, before the cast to float16", head, rows


def features(made: Engine, waves: Iterable[Wave]) -> dict[str, Spectra]:
    return {key: spectra for key, spectra in made.spectra(iter(waves)) if isinstance(spectra, Spectra)}


def cpu_time(waves: Sequence[Wave], recipe: SpectralRecipe, rounds: int) -> Table:
    """Of the process, so that DALI's own threads count."""
    ready: dict[str, Callable[[], object]] = {
        f"{name} cpu": partial(features, engine.load(name, "cpu", recipe), waves) for name in ("torch", "dali")
    }
    ready["dali's share of the host: cut, window, whiten"] = partial(whitened, waves, recipe)
    spent: dict[str, list[float]] = {name: [] for name in ready}
    length = hours(waves, recipe)
    for _ in range(rounds + 1):  # the first compiles and allocates
        for name, run in ready.items():
            start = time.process_time()
            run()
            spent[name].append((time.process_time() - start) / length)
    medians = {name: statistics.median(times[1:]) for name, times in spent.items()}
    rows = [
        (name, medians[name], f"{min(times[1:]):.2f} to {max(times[1:]):.2f}", medians[name] / medians["torch cpu"])
        for name, times in spent.items()
    ]
    head = ("engine", "CPU-s per hour of audio", "range", "times torch")
    return f"Log-mel and MFCC from int16 samples, {length * 60:.0f} minutes, {rounds} rounds", head, rows


def whitened(waves: Iterable[Wave], recipe: SpectralRecipe) -> None:
    block, n = dali.BLOCK["cpu"], recipe.n_fft
    white, gain = np.empty((block, n), np.float32), np.empty((block, n // 2 + 1), np.float32)
    shape, unit = window(recipe) / 32768, whitening.cosines_and_sines(n)
    for _, wave in waves:
        frames = sliding_window_view(np.pad(wave, recipe.padding, mode="reflect"), n)[:: recipe.hop]
        for at in range(0, len(frames), block):
            rows = slice(min(block, len(frames) - at))
            whitening.whiten_in_place(frames[at : at + block], shape, unit, white[rows], gain[rows])


def on_device(
    root: Path, utterances: Sequence[Utterance], preset: Preset, wanted: float, device: str = "cuda"
) -> list[Table]:
    """Over so many hours: decoding, each engine of a device behind it and by itself, and the device's own work."""
    recipe, cores = preset.spectral, os.cpu_count() or 1
    waves = list(decoded(root, utterances, preset, cores))
    repeats = int(wanted / hours(waves, recipe)) + 1
    length = repeats * hours(waves, recipe)

    def decoding() -> Iterator[Wave]:
        return decoded(root, itertools.chain.from_iterable([utterances] * repeats), preset, cores)

    alone = elapsed(decoding())
    rows = [("decoding alone", length / alone, 1.0, "")]
    for name, place in ((name, place) for name, place in ENGINES if place == device):
        made = engine.load(name, place, recipe)
        elapsed(made.spectra(iter(waves)))
        stage = elapsed(made.spectra(iter(waves * repeats)))
        both = elapsed(made.spectra(decoding()))
        hidden = 1 - max(0.0, both - alone) / stage
        rows.append((f"decoding and {name} {place}", length / both, both / alone, f"{hidden:.0%}"))
        rows.append((f"{name} {place} from waves in memory", length / stage, stage / alone, ""))
    head = ("what", "hours of audio per second", "times decoding alone", "of the engine's time, hidden")
    title = f"{length:.1f} hours, {cores} cores decoding"
    return [(title, head, rows), device_stage(waves, recipe, repeats, device)]


def elapsed(results: Iterable[object]) -> float:
    """Wall seconds until the last one."""
    start = time.perf_counter()
    deque(results, 0)
    return time.perf_counter() - start


def device_stage(waves: Sequence[Wave], recipe: SpectralRecipe, repeats: int, device: str) -> Table:
    """The torch engine's copies and kernels, its batches pinned beforehand."""
    made = cuda_engine.BatchedEngine(recipe, device)
    pinned = []
    for batch in cuda_engine.make_batches(iter(waves), cuda_engine.BATCH_SAMPLES):
        layout = cuda_engine.Layout(recipe, [len(wave) for _, wave in batch])
        samples = layout.stream([wave for _, wave in batch])
        blocks = cuda_engine.make_blocks(samples, cuda_engine.BLOCK_SAMPLES, device == "cuda")
        pinned.append(([key for key, _ in batch], layout, list(blocks)))
    seconds = elapsed(flown(made, pinned))
    seconds = elapsed(flown(made, pinned * repeats))
    length = hours(waves, recipe) * repeats
    frames = length * 3600 * recipe.sample_rate / recipe.hop
    bins, bands = recipe.n_fft // 2 + 1, recipe.n_mels
    # As the kernels are: float64 frames written and read, their complex spectrum too, then float32 magnitudes.
    kernels = recipe.n_fft * 16 + bins * (32 + 4 + 8 + 4 + 8 + 4) + bands * 50
    least = recipe.hop * 2 + (bands + recipe.n_mfcc) * 2
    card, bus = bandwidth(device, from_host=False), bandwidth(device, from_host=True)
    rows = [
        (f"torch {device}, measured", length / seconds, seconds / length * 1e3, 1.0),
        *(
            (
                f"{what}: {size / 1e3:.1f} kB a frame at {rate / 1e9:.0f} GB/s",
                length / floor,
                floor / length * 1e3,
                floor / seconds,
            )
            for what, size, rate in (
                ("bytes its kernels move", kernels, card),
                ("samples in and features out, over the bus", least, bus),
                ("samples in and features out, in the card's memory", least, card),
            )
            for floor in (frames * size / rate,)
        ),
    ]
    head = ("device stage, from pinned memory", "hours of audio per second", "ms per hour", "of the time measured")
    return f"{length:.1f} hours on {report.machine()['accelerator' if device == 'cuda' else 'processor']}", head, rows


def flown(made: cuda_engine.BatchedEngine, pinned: Sequence[tuple]) -> Iterator[cuda_engine.PendingBatch]:
    flights: deque[cuda_engine.PendingBatch] = deque()
    for keys, layout, samples in pinned:
        flights.append(made.submit(keys, layout, samples))
        if len(flights) > cuda_engine.MAX_PENDING_BATCHES:
            yield landed(flights.popleft())
    while flights:
        yield landed(flights.popleft())


def landed(flight: cuda_engine.PendingBatch) -> cuda_engine.PendingBatch:
    flight.wait()
    return flight


def bandwidth(device: str, *, from_host: bool) -> float:
    """Bytes per second: read and written by a copy on the device, or brought to it from pinned memory."""
    pinned, size = device == "cuda", 1 << (29 if device == "cuda" else 24)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    source = torch.empty(size, dtype=torch.uint8, pin_memory=pinned) if from_host else torch.empty_like(target)
    target.copy_(source, non_blocking=True)
    wait_for(device)
    start = time.perf_counter()
    for _ in range(10):
        target.copy_(source, non_blocking=True)
    wait_for(device)
    return 10 * size * (1 if from_host else 2) / (time.perf_counter() - start)


def wait_for(device: str) -> None:
    """Wait until a device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@click.command()
@click.argument("root", metavar="CORPUS", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--preset", default="gpt-sovits-v2", show_default=True)
@click.option("--minutes", default=10.0, show_default=True, help="Of audio in the comparison of CPU time.")
@click.option("--hours", "wanted", default=10.0, show_default=True, help="Of audio, with a GPU.")
@click.option("--rounds", default=7, show_default=True)
def main(root: Path, preset: str, minutes: float, wanted: float, rounds: int) -> None:
    torch.set_num_threads(1)
    chosen = get_preset(preset)
    utterances = [item for item in scanner.scan(root) if isinstance(item, Utterance)]
    waves = list(decoded(root, utterances, chosen, 1))
    share = max(1, round(hours(waves, chosen.spectral) * 60 / minutes))
    tables = [agreement(waves, chosen.spectral), cpu_time(waves[::share], chosen.spectral, rounds)]
    if torch.cuda.is_available():
        tables += on_device(root, utterances, chosen, wanted)
    text = [f"Preset {preset}."]
    text += [f"{title}\n\n{report.table(head, rows)}" for title, head, rows in tables]
    if not torch.cuda.is_available():
        text.append("No GPU here: the CUDA engines and their speed were not measured.")
    markdown = "\n\n".join(text)
    click.echo(markdown)
    data = [
        {"title": title, "rows": [dict(zip(head, row, strict=True)) for row in rows]} for title, head, rows in tables
    ]
    report.save(
        "engines" if preset == "gpt-sovits-v2" else f"engines-{preset}", markdown, {"preset": preset, "tables": data}
    )


if __name__ == "__main__":
    main()
