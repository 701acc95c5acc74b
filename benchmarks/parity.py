"""How far the features of a corpus lie from a float64 reference and from librosa's.

    python -m benchmarks.parity CORPUS

Log-mel and MFCC, before they are cast to float16, against the same formulae in float64; MFCC also against librosa's of
the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import librosa
import numpy as np
import torch

from benchmarks import report
from headrace.featurize.audio import decode
from headrace.featurize.corpus import scanner
from headrace.featurize.pipeline.presets import PRESETS, Preset
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe, dct, slaney_mel, window
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance

COMPARISONS = ("log-mel against float64", "MFCC against float64", "MFCC against librosa")


def float64_features(wave: np.ndarray, recipe: SpectralRecipe) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) to log-mel (T, M) and MFCC (T, C), float64 from end to end."""
    padded = np.pad(wave.astype(np.float64), recipe.padding, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, recipe.n_fft)[:: recipe.hop]
    power, basis = np.abs(np.fft.rfft(frames * window(recipe))) ** 2, slaney_mel(recipe)
    decibel = 10 * np.log10(np.maximum(power @ basis, 1e-10))
    mfcc = np.maximum(decibel, decibel.max() - 80) @ dct(recipe.n_mels, recipe.n_mfcc)
    return np.log(np.maximum(np.sqrt(power + 1e-8) @ basis, 1e-5)), mfcc


def librosa_mfcc(wave: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """(samples,) to (T, C)."""
    padded = np.pad(wave, recipe.padding, mode="reflect")
    power = librosa.feature.melspectrogram(
        y=padded, sr=recipe.sample_rate, n_fft=recipe.n_fft, hop_length=recipe.hop, win_length=recipe.win, center=False,
        n_mels=recipe.n_mels, fmin=recipe.fmin, fmax=recipe.fmax,
    )  # fmt: skip
    return librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=recipe.n_mfcc).T


def waves(folder: Path, preset: Preset) -> Iterator[np.ndarray]:
    """Every utterance of a corpus that can be decoded, as (T * hop,) float32."""
    hop = preset.spectral.hop
    for item in scanner.scan(folder):
        if isinstance(item, Utterance):
            with suppress(Rejected):
                wave = decode.waveform(folder, item, preset.spectral.sample_rate, preset.level)
                if len(wave) >= preset.spectral.min_frames * hop:
                    yield wave[: len(wave) // hop * hop].astype(np.float32) / 32768


@click.command()
@click.argument("folder", metavar="CORPUS", type=click.Path(exists=True, path_type=Path))
@click.option("--preset", "name", default="gpt-sovits-v2", show_default=True)
def main(folder: Path, name: str) -> None:
    recipe = PRESETS[name].spectral
    spectral = Spectral(recipe)
    errors: dict[str, list[np.ndarray]] = {comparison: [] for comparison in COMPARISONS}
    for wave in waves(folder, PRESETS[name]):
        mel, mfcc = spectral.features(torch.from_numpy(wave))
        exact = (*float64_features(wave, recipe), librosa_mfcc(wave, recipe))
        for ours, theirs, found in zip((mel, mfcc, mfcc), exact, errors.values(), strict=True):
            found.append(np.abs(ours.numpy() - theirs).ravel())
    rows = []
    for comparison, found in errors.items():
        error = np.concatenate(found)
        figures = (error.max(), np.quantile(error, 0.999), np.median(error))
        rows.append((comparison, len(found), error.size, *map(float, figures)))
    head = ("feature", "utterances", "values", "worst", "99.9th percentile", "median")
    markdown = f"Absolute error, preset {name}.\n\n{report.table(head, rows)}"
    click.echo(markdown)
    report.save("parity", markdown, {"preset": name, "rows": [dict(zip(head, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
