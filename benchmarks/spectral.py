"""The spectral stage beside its peers: from float32 samples to log-mel and MFCC, CPU time of one core.

    python -m benchmarks.spectral CORPUS [--minutes M] [--rounds N]

The corpus' speech is decoded and resampled beforehand to each preset's rate. In every round every engine goes over all
of it once; times are medians over the rounds, ratios are medians of those within a round. Engines do what they are made
for: filters and paddings differ, the numbers of frames, bands and coefficients do not. The last row is no engine but
real Fourier transforms alone (float32, torch's) of as many frames, which lie ready in the cache.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks import report
from benchmarks.parity import waves
from headrace.featurize.pipeline.presets import PRESETS
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe

PRESETS_MEASURED = ("gpt-sovits-v2", "hifigan-22k", "whisper-16k")
TITLE = (
    "From float32 samples to log-mel and MFCC on one core, one utterance at a time (DALI: eight). CPU time, medians "
    "over {rounds} rounds that take all engines in turn. The last row: nothing but the transforms, of frames that lie "
    "ready in the cache."
)
Stage = Callable[[list[np.ndarray]], Any]
CACHED = 64
"""Frames of the bare transforms: 1 MB at n_fft 2048 with their spectra; 16 to 128 differ by less than a tenth."""


def each(extract: Callable[[np.ndarray], Any]) -> Stage:
    """One utterance at a time, results kept no longer than any would keep them."""

    def stage(waves: list[np.ndarray]) -> None:
        for wave in waves:
            extract(wave)

    return stage


def headrace(recipe: SpectralRecipe) -> Stage:
    spectral = Spectral(recipe)
    return each(lambda wave: spectral.features(torch.from_numpy(wave)))


def librosa_shared(recipe: SpectralRecipe) -> Stage:
    import librosa

    def extract(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        power = librosa.feature.melspectrogram(
            y=wave, sr=recipe.sample_rate, n_fft=recipe.n_fft, hop_length=recipe.hop, win_length=recipe.win,
            n_mels=recipe.n_mels, fmin=recipe.fmin, fmax=recipe.fmax, pad_mode="reflect",
        )  # fmt: skip
        mel = np.log(np.maximum(power, 1e-5))
        return mel, librosa.feature.mfcc(S=librosa.power_to_db(power), n_mfcc=recipe.n_mfcc)

    return each(extract)


def _mel_arguments(recipe: SpectralRecipe) -> dict[str, Any]:
    return {
        "n_fft": recipe.n_fft, "win_length": recipe.win, "hop_length": recipe.hop, "n_mels": recipe.n_mels,
        "f_min": recipe.fmin, "f_max": recipe.fmax, "norm": "slaney", "mel_scale": "slaney",
    }  # fmt: skip


def torchaudio_shared(recipe: SpectralRecipe) -> Stage:
    from torchaudio.functional import create_dct
    from torchaudio.transforms import AmplitudeToDB, MelSpectrogram

    transform = MelSpectrogram(recipe.sample_rate, **_mel_arguments(recipe))
    decibel, basis = AmplitudeToDB("power", 80), create_dct(recipe.n_mfcc, recipe.n_mels, "ortho")

    @torch.inference_mode()
    def extract(wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        power = transform(torch.from_numpy(wave))
        return torch.log(torch.clamp(power, min=1e-5)), decibel(power).T @ basis

    return each(extract)


def torchaudio_twice(recipe: SpectralRecipe) -> Stage:
    from torchaudio.transforms import MFCC, MelSpectrogram

    mel = MelSpectrogram(recipe.sample_rate, **_mel_arguments(recipe))
    mfcc = MFCC(recipe.sample_rate, recipe.n_mfcc, melkwargs=_mel_arguments(recipe))

    @torch.inference_mode()
    def extract(wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        samples = torch.from_numpy(wave)
        return torch.log(torch.clamp(mel(samples), min=1e-5)), mfcc(samples)

    return each(extract)


def lhotse(recipe: SpectralRecipe) -> Stage:
    from lhotse import Fbank, FbankConfig, Mfcc, MfccConfig

    rate = recipe.sample_rate
    timing = {"sampling_rate": rate, "frame_length": recipe.win / rate, "frame_shift": recipe.hop / rate}
    fbank = Fbank(FbankConfig(num_filters=recipe.n_mels, **timing))
    mfcc = Mfcc(MfccConfig(num_filters=recipe.n_mels, num_ceps=recipe.n_mfcc, **timing))
    return each(lambda wave: (fbank.extract(wave, rate), mfcc.extract(wave, rate)))


def kaldi(recipe: SpectralRecipe) -> Stage:
    import kaldi_native_fbank as knf

    def configured(options: Any) -> Any:
        options.frame_opts.samp_freq = recipe.sample_rate
        options.frame_opts.frame_length_ms = 1000 * recipe.win / recipe.sample_rate
        options.frame_opts.frame_shift_ms = 1000 * recipe.hop / recipe.sample_rate
        options.frame_opts.snip_edges = False
        options.mel_opts.num_bins = recipe.n_mels
        return options

    fbank, mfcc = configured(knf.FbankOptions()), configured(knf.MfccOptions())
    mfcc.num_ceps = recipe.n_mfcc

    def frames(online: Any, wave: np.ndarray) -> np.ndarray:
        online.accept_waveform(recipe.sample_rate, wave)
        online.input_finished()
        return np.stack([online.get_frame(t) for t in range(online.num_frames_ready)])

    return each(lambda wave: (frames(knf.OnlineFbank(fbank), wave), frames(knf.OnlineMfcc(mfcc), wave)))


def dali(layout: str) -> Callable[[SpectralRecipe], Stage]:
    """Operators and arguments of its documentation; batches of eight utterances, one thread."""

    def made(recipe: SpectralRecipe) -> Stage:
        from nvidia.dali import Pipeline, fn

        pipeline = Pipeline(batch_size=8, num_threads=1, device_id=None, prefetch_queue_depth=1)
        with pipeline:
            wave = fn.external_source(name="wave", ndim=1)
            spectrum = fn.spectrogram(
                wave, nfft=recipe.n_fft, window_length=recipe.win, window_step=recipe.hop, power=2, layout=layout
            )
            power = fn.mel_filter_bank(
                spectrum, sample_rate=float(recipe.sample_rate), nfilter=recipe.n_mels,
                freq_low=recipe.fmin, freq_high=recipe.fmax,
            )  # fmt: skip
            mel = fn.to_decibels(power, multiplier=np.log(10), reference=1.0, cutoff_db=-5 * np.log(10))
            decibel = fn.to_decibels(power, multiplier=10.0, cutoff_db=-80.0)
            pipeline.set_outputs(mel, fn.mfcc(decibel, n_mfcc=recipe.n_mfcc, axis=layout.index("f"), normalize=True))
        pipeline.build()

        def stage(waves: list[np.ndarray]) -> None:
            for first in range(0, len(waves), 8):
                pipeline.feed_input("wave", waves[first : first + 8])
                pipeline.run()

        return stage

    return made


def bare(recipe: SpectralRecipe) -> Stage:
    frames = torch.randn(CACHED, recipe.n_fft)
    spectra = torch.empty(CACHED, recipe.n_fft // 2 + 1, dtype=torch.complex64)

    def stage(waves: list[np.ndarray]) -> None:
        for _ in range(round(sum(len(wave) // recipe.hop for wave in waves) / CACHED)):
            torch.fft.rfft(frames, out=spectra)

    return stage


OURS, TRANSFORMS = "Headrace", "real FFTs alone"
ENGINES: dict[str, tuple[str, Callable[[SpectralRecipe], Stage]]] = {
    OURS: ("headrace", headrace),
    "torchaudio, one STFT shared": ("torchaudio", torchaudio_shared),
    "torchaudio, MelSpectrogram and MFCC": ("torchaudio", torchaudio_twice),
    "librosa, mel shared": ("librosa", librosa_shared),
    "lhotse, Fbank and Mfcc": ("lhotse", lhotse),
    "kaldi-native-fbank, fbank and mfcc": ("kaldi-native-fbank", kaldi),
    "DALI CPU, as documented": ("nvidia-dali-cuda130", dali("ft")),
    "DALI CPU, time first": ("nvidia-dali-cuda130", dali("tf")),
    TRANSFORMS: ("torch", bare),
}
"""What has to be installed, and what makes the stage."""
ABSENT = "not installed"
HEAD = ("engine", "version", "CPU-s / hour", "quartiles", "hours / CPU-s", "times Headrace's")


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def measure(stages: dict[str, Stage], speech: list[np.ndarray], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of all threads, by engine and round. A first round, not counted, warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds + 1):
        for name, stage in stages.items():
            start = time.process_time()
            stage(speech)
            seconds[name].append(time.process_time() - start)
    return {name: taken[1:] for name, taken in seconds.items()}


def row(name: str, seconds: dict[str, list[float]], hours: float) -> dict[str, Any]:
    cells = dict.fromkeys(HEAD, "") | {"engine": name, "version": installed(ENGINES[name][0])}
    if name in seconds:
        low, middle, high = statistics.quantiles((taken / hours for taken in seconds[name]), n=4)
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[OURS], strict=True))
        figures = (middle, f"{low:.3g} to {high:.3g}", 1 / middle, ratio)
        cells |= dict(zip(HEAD[2:], figures, strict=True))
    return cells


def first(speech: Iterable[np.ndarray], samples: float) -> list[np.ndarray]:
    """Utterances up to so many samples, which the last one passes."""
    taken: list[np.ndarray] = []
    for wave in speech:
        taken.append(wave)
        samples -= len(wave)
        if samples <= 0:
            break
    return taken


@click.command()
@click.argument("folder", metavar="CORPUS", type=click.Path(exists=True, path_type=Path))
@click.option("--minutes", default=8.0, show_default=True, help="Of speech, from the start of the corpus.")
@click.option("--rounds", default=7, show_default=True)
def main(folder: Path, minutes: float, rounds: int) -> None:
    torch.set_num_threads(1)
    sections, results = [], {}
    for name in PRESETS_MEASURED:
        recipe = PRESETS[name].spectral
        speech = first(waves(folder, PRESETS[name]), minutes * 60 * recipe.sample_rate)
        hours = sum(map(len, speech)) / recipe.sample_rate / 3600
        stages = {key: make(recipe) for key, (package, make) in ENGINES.items() if installed(package) != ABSENT}
        seconds = measure(stages, speech, rounds)
        results[name] = [row(key, seconds, hours) for key in ENGINES]
        table = report.table(HEAD, [tuple(cells.values()) for cells in results[name]])
        sections.append(f"## {name}\n\n{len(speech)} utterances, {60 * hours:.1f} min.\n\n{table}")
        click.echo(sections[-1] + "\n")
    report.save("spectral", "\n\n".join((TITLE.format(rounds=rounds), *sections)), {"rounds": rounds, "rows": results})


if __name__ == "__main__":
    main()
