"""How far the features of a corpus lie from a float64 reference and from librosa's.

    python -m benchmarks.parity CORPUS

Log-mel, before it is cast to float16, against the same formulae in float64; MFCC against librosa on the same samples.
"""

from __future__ import annotations

from pathlib import Path

import click
import librosa
import numpy as np
import torch

from benchmarks import report
from featurize import corpus, decode
from featurize.dsp import Spectral, SpectralRecipe, hann, slaney_mel
from featurize.presets import PRESETS
from store.errors import Rejected
from store.schema import Utterance


def float64_mel(wave: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """(samples,) to (T, M), float64 from end to end."""
    padded = np.pad(wave.astype(np.float64), recipe.padding, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, recipe.n_fft)[:: recipe.hop]
    spectrum = np.fft.rfft(frames * hann(recipe.n_fft))
    return np.log(np.maximum(np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-8) @ slaney_mel(recipe), 1e-5))


def librosa_mfcc(wave: np.ndarray, recipe: SpectralRecipe) -> np.ndarray:
    """(samples,) to (T, C)."""
    padded = np.pad(wave, recipe.padding, mode="reflect")
    power = librosa.feature.melspectrogram(
        y=padded, sr=recipe.sample_rate, n_fft=recipe.n_fft, hop_length=recipe.hop, center=False,
        n_mels=recipe.n_mels, fmin=recipe.fmin, fmax=recipe.fmax,
    )  # fmt: skip
    return librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=recipe.n_mfcc).T


@click.command()
@click.argument("folder", metavar="CORPUS", type=click.Path(exists=True, path_type=Path))
@click.option("--preset", default="gpt-sovits-v2", show_default=True)
def main(folder: Path, preset: str) -> None:
    recipe, level = PRESETS[preset].spectral, PRESETS[preset].level
    spectral, mel_errors, mfcc_errors, skipped = Spectral(recipe), [], [], 0
    for item in corpus.scan(folder):
        try:
            assert isinstance(item, Utterance)
            wave = decode.waveform(folder, item, recipe.sample_rate, level)
        except (Rejected, AssertionError):
            skipped += 1
            continue
        wave = wave[: len(wave) // recipe.hop * recipe.hop].astype(np.float32) / 32768
        mel, mfcc = spectral.features(torch.from_numpy(wave))
        mel_errors.append(np.abs(mel.numpy() - float64_mel(wave, recipe)).ravel())
        mfcc_errors.append(np.abs(mfcc.numpy() - librosa_mfcc(wave, recipe)).ravel())
    rows = []
    for name, errors in (("log-mel against float64", mel_errors), ("MFCC against librosa", mfcc_errors)):
        error = np.concatenate(errors)
        rows.append((name, len(errors), error.size, error.max(), np.quantile(error, 0.999), np.median(error)))
    head = ("feature", "utterances", "values", "worst", "99.9th percentile", "median")
    markdown = f"Absolute error, preset {preset}, {skipped} utterances not used.\n\n{report.table(head, rows)}"
    click.echo(markdown)
    data = [dict(zip(head, (float(v) if isinstance(v, np.floating) else v for v in row), strict=True)) for row in rows]
    report.save("parity", markdown, {"preset": preset, "rows": data})


if __name__ == "__main__":
    main()
