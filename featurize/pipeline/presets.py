"""Presets, custom recipes, and the specs of the features that are made from recordings and transcripts.

A custom recipe is a TOML file with the fields of `SpectralRecipe`, and `level`. Missing fields come from the preset
that it extends; without one, all fields are required.

    extends = "gpt-sovits-v2"
    n_mels = 80
    fmax = 8000
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from headrace.featurize.audio.decode import Level
from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES
from headrace.featurize.spectral.dsp import SpectralRecipe, slaney_mel
from headrace.featurize.text.languages.frontend import PHONE_WORD_RECIPE
from headrace.featurize.text.reading_options import DEFAULT, ReadingOptions
from headrace.featurize.text.symbols import DEFAULT_TABLE
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec
from headrace.store.storage.toml_files import read_toml, typed_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """All settings that change the values of the waveform and its spectral features."""

    name: str
    spectral: SpectralRecipe
    level: Level = "none"

    @property
    def wave_recipe(self) -> dict[str, Any]:
        """Return the recipe of `wave`."""
        return {
            "sample_rate": self.spectral.sample_rate,
            "hop": self.spectral.hop,
            "channels": "mean",
            "resampler": "soxr-hq",
            "level": self.level,
        }

    @property
    def recipe(self) -> dict[str, Any]:
        """Return the content of a recipe file without `extends`."""
        return self.spectral.to_json() | {"level": self.level}


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="gpt-sovits-v2", spectral=SpectralRecipe(), level="gpt-sovits"),
        # Upstream's v3 and v4 read this log-mel mapped from [-12, 2] to [-1, 1]. That is the reader's to do: `mel` is
        # the log-mel itself in every store.
        Preset(
            name="gpt-sovits-v3",
            spectral=SpectralRecipe(sample_rate=24_000, n_fft=1024, win=1024, hop=256, n_mels=100, fmax=12_000.0),
            level="gpt-sovits",
        ),
        Preset(
            name="gpt-sovits-v4",
            spectral=SpectralRecipe(n_fft=1280, win=1280, hop=320, n_mels=100),
            level="gpt-sovits",
        ),
        Preset(
            name="hifigan-22k",
            spectral=SpectralRecipe(sample_rate=22_050, n_fft=1024, win=1024, hop=256, n_mels=80, fmax=8000.0),
        ),
        Preset(
            name="whisper-16k",
            spectral=SpectralRecipe(sample_rate=16_000, n_fft=400, win=400, hop=160, n_mels=80, fmax=8000.0),
        ),
    )
}


def get_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        UsageError: there is no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}; choose from {', '.join(PRESETS)}.")
    return PRESETS[name]


def read_recipe(path: Path) -> Preset:
    """Read a recipe from a TOML file. The store records its values, not the file's name.

    Raises:
        UsageError: it is not TOML, a key is unknown or missing, or a value has a wrong type or is impossible.
    """
    given = read_toml(path, "The recipe")
    try:
        return _parse_recipe(given)
    except (ValueError, OverflowError, UsageError) as error:
        raise UsageError(f"The recipe {path}: {error}") from error


def _parse_recipe(given: dict[str, Any]) -> Preset:
    """Return the preset of a parsed recipe file.

    Raises:
        ValueError: a key is unknown or missing, or a value is impossible.
    """
    types = {field.name: str(field.type) for field in fields(SpectralRecipe)} | {"level": "str"}
    unknown = [key for key in given if key not in types and key != "extends"]
    if unknown:
        raise ValueError(f"{unknown[0]} is no key of a recipe; there are extends, {', '.join(types)}")
    base = get_preset(typed_value("extends", given.pop("extends"), "str")).recipe if "extends" in given else {}
    values = base | {key: typed_value(key, value, types[key]) for key, value in given.items()}
    missing = [key for key in types if key not in values]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing: give a value, or extend a preset by extends = NAME")
    level = values.pop("level")
    if level not in get_args(Level):
        raise ValueError(f"level={level!r}: level must be one of {', '.join(get_args(Level))}")
    spectral = SpectralRecipe(**values)
    empty = int((~slaney_mel(spectral).any(0)).sum())
    if empty:
        raise ValueError(
            f"n_mels={spectral.n_mels}, n_fft={spectral.n_fft}: {empty} of the bands would lie between two bins of the "
            "transform and hold nothing; take fewer bands or a larger n_fft"
        )
    return Preset(name="custom", spectral=spectral, level=level)


SEALED_FEATURES = ("wave", "mel", "mfcc", "phones")
"""Features that a part is sealed with."""
PHONE_ARRAYS = ("phones", "phone_end", "phone_frames", "phone_word")
"""Arrays of the feature `phones`: ids, times, and the character of each phone."""


def sealed_features_for(needed: Collection[str]) -> list[str]:
    """Return the features of SEALED_FEATURES that provide the needed arrays."""
    return [
        name
        for name in SEALED_FEATURES
        if name in needed or (name == "phones" and not set(PHONE_ARRAYS).isdisjoint(needed))
    ]


def buildable_features(names: Iterable[str]) -> list[str]:
    """Return what `--features` of a build must have for a store with these arrays: `phones` brings several."""
    wanted = dict.fromkeys("phones" if name in PHONE_ARRAYS else name for name in names)
    return [name for name in wanted if name in SEALED_FEATURES or name in DERIVED_FEATURES]


def feature_specs(
    preset: Preset, features: Sequence[str], symbols: str = DEFAULT_TABLE, reading: ReadingOptions = DEFAULT
) -> tuple[FeatureSpec, ...]:
    """Return the specs of the arrays that parts are sealed with. Derived features are added later.

    Args:
        symbols: symbol table of `phones`, one of `symbols.TABLES`.
        reading: options of reading texts, which the recipe of `phones` keeps.
    Raises:
        UsageError: a feature is unknown, or none is named.
    """
    known = (*SEALED_FEATURES, *DERIVED_FEATURES)
    unknown = [name for name in features if name not in known]
    if unknown or not features:
        raise UsageError(f"--features has {', '.join(unknown) or 'no name'}; choose from {', '.join(known)}.")
    recipe = preset.spectral
    spectral = {**preset.wave_recipe, **recipe.to_json(), "window": "hann-periodic", "padding": "reflect"}
    mel = {key: value for key, value in spectral.items() if key != "n_mfcc"}
    mel |= {"scale": "slaney", "magnitude": "sqrt(power+1e-8)", "log": "ln(max(x,1e-5))"}
    mfcc = spectral | {"scale": "slaney", "decibel_floor": -80, "dct": "II-orthonormal"}
    table = {"symbols": symbols}
    times = table | {"sample_rate": recipe.sample_rate, "hop": recipe.hop}
    specs = {
        "wave": [_spec("wave", "frames", "int16", recipe.hop, preset.wave_recipe)],
        "mel": [_spec("mel", "frames", "float16", recipe.n_mels, mel)],
        "mfcc": [_spec("mfcc", "frames", "float16", recipe.n_mfcc, mfcc)],
        "phones": [
            _spec("phones", "phones", "int16", None, table | reading.recipe),
            _spec("phone_end", "phones", "int32", None, times),
            _spec("phone_frames", "phones", "int32", None, times),
            _spec("phone_word", "phones", "int16", None, PHONE_WORD_RECIPE),
        ],
    }
    return tuple(spec for name in SEALED_FEATURES if name in features for spec in specs[name])


def _spec(name: str, axis: Any, dtype: str, channels: int | None, recipe: Mapping[str, Any]) -> FeatureSpec:
    return FeatureSpec(name=name, axis=axis, dtype=dtype, channels=channels, recipe=recipe)
