"""Named recipes, and the features that `featurize build` can make from recordings and transcripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featurize.dsp import SpectralRecipe
from store.errors import UsageError
from store.schema import FeatureSpec

Level = Literal["none", "gpt-sovits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Everything that changes the numbers of the features of the signal."""

    name: str
    spectral: SpectralRecipe
    level: Level = "none"
    """`gpt-sovits`: half of the waveform as it is plus half of it brought to a peak of 0.95, as that model's
    recordings are prepared. `none`: as it is."""

    @property
    def wave_recipe(self) -> dict[str, Any]:
        return {
            "sample_rate": self.spectral.sample_rate,
            "hop": self.spectral.hop,
            "channels": "mean",
            "resampler": "soxr-hq",
            "level": self.level,
        }


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="gpt-sovits-v2", spectral=SpectralRecipe(), level="gpt-sovits"),
        Preset(
            name="hifigan-22k",
            spectral=SpectralRecipe(sample_rate=22_050, n_fft=1024, hop=256, n_mels=80, fmax=8000.0),
        ),
        Preset(
            name="whisper-16k",
            spectral=SpectralRecipe(sample_rate=16_000, n_fft=400, hop=160, n_mels=80, fmax=8000.0),
        ),
    )
}

FEATURES = ("wave", "mel", "mfcc", "phones")
"""What `--features` takes. `phones` brings its times, `phone_end` and `phone_frames`, along."""


def feature_specs(preset: Preset, features: Sequence[str]) -> tuple[FeatureSpec, ...]:
    """The arrays that a store of these features has.

    Raises:
        UsageError: a name that is no feature.
    """
    unknown = [name for name in features if name not in FEATURES]
    if unknown or not features:
        raise UsageError(f"--features has {', '.join(unknown) or 'no name'}; choose from {', '.join(FEATURES)}.")
    recipe = preset.spectral
    spectral = {**preset.wave_recipe, **recipe.to_json(), "window": "hann-periodic", "padding": "reflect"}
    mel = {key: value for key, value in spectral.items() if key != "n_mfcc"}
    mel |= {"scale": "slaney", "magnitude": "sqrt(power+1e-8)", "log": "ln(max(x,1e-5))"}
    mfcc = spectral | {"scale": "slaney", "decibel_floor": -80, "dct": "II-orthonormal"}
    phones = {"symbols": "gpt-sovits-v2"}
    times = phones | {"sample_rate": recipe.sample_rate, "hop": recipe.hop}
    specs = {
        "wave": [_spec("wave", "frames", "int16", recipe.hop, preset.wave_recipe)],
        "mel": [_spec("mel", "frames", "float16", recipe.n_mels, mel)],
        "mfcc": [_spec("mfcc", "frames", "float16", recipe.n_mfcc, mfcc)],
        "phones": [
            _spec("phones", "phones", "int16", None, phones),
            _spec("phone_end", "phones", "int32", None, times),
            _spec("phone_frames", "phones", "int32", None, times),
        ],
    }
    return tuple(spec for name in FEATURES if name in features for spec in specs[name])


def _spec(name: str, axis: Any, dtype: str, channels: int | None, recipe: dict[str, Any]) -> FeatureSpec:
    return FeatureSpec(name=name, axis=axis, dtype=dtype, channels=channels, recipe=recipe)
