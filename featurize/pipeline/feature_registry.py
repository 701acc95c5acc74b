"""The features that `featurize add` can make, by name. Your own feature is one more line in DERIVED_FEATURES."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.featurize.features.bert import Bert
from headrace.featurize.features.content import HubertContent, MfccContent
from headrace.featurize.features.derived import F0, Derived, Energy
from headrace.featurize.features.semantic_tokens import KmeansTokens, SovitsTokens, TokenCount
from headrace.featurize.features.speaker_vector import ERes2NetV2, Resemblyzer
from headrace.featurize.forced_alignment.ctc_aligner import CtcAlign, CtcConfidence
from headrace.featurize.forced_alignment.hmm_aligner import HmmAlign, HmmConfidence
from headrace.featurize.quality.mos import Mos
from headrace.featurize.quality.repeated_texts import RepeatedText
from headrace.featurize.quality.signal_quality import KINDS as SIGNAL_FEATURES
from headrace.store.errors import UsageError


def _align(*, ctc: Path | None = None, hours: float | None = None, **network: Any) -> Derived:
    if ctc is None:
        return HmmAlign() if hours is None else HmmAlign(hours=hours)
    if hours is not None:
        raise UsageError(f"--align-hours {hours:g} is of align as it is learned, and --ctc was given.")
    return CtcAlign(ctc=ctc, **network)


def _confidence(*, ctc: Path | None = None, **network: Any) -> Derived:
    return CtcConfidence(ctc=ctc, **network) if ctc else HmmConfidence()


def _content(*, hubert: Path | None = None, width: int | None = None, **network: Any) -> Derived:
    if hubert is None:
        return MfccContent(width=width)
    if width:
        raise UsageError(f"--content-channels {width} is of content by MFCC, and --hubert was given.")
    return HubertContent(hubert=hubert, **network)


def _semantic(*, sovits: Path | None = None, **clusters: Any) -> Derived:
    if sovits and clusters:
        raise UsageError("--codes is of clusters that are learned, and --sovits was given, which has its own.")
    return SovitsTokens(sovits=sovits) if sovits else KmeansTokens(**clusters)


def _bert(*, bert: Path | None = None, **network: Any) -> Derived:
    if bert is None:
        raise UsageError("bert is made by a network: name the folder of a Chinese BERT by --bert.")
    return Bert(bert=bert, **network)


def _speaker_vector(*, speaker: Path | None = None) -> Derived:
    return ERes2NetV2(speaker=speaker) if speaker else Resemblyzer()


DERIVED_FEATURES: dict[str, Callable[..., Derived]] = {
    "f0": F0,
    "energy": Energy,
    "align": _align,
    "confidence": _confidence,
    **{kind.name: kind for kind in SIGNAL_FEATURES},
    "mos": Mos,
    "repeated": RepeatedText,
    "content": _content,
    "tokens_n": TokenCount,
    "semantic": _semantic,
    "bert": _bert,
    "speaker_vector": _speaker_vector,
}
"""Factory of each feature. Its keyword arguments are the user's options, all optional."""
_SHARED_OPTIONS = {"confidence": ("align", ("ctc", "precision"))}
"""Features that use the network of another feature, and the options that they share with it."""


def create_features(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> tuple[Derived, ...]:
    """Create the named features, and those that they need for which options were given.

    Args:
        options: the user's options by feature; None stands for the default.
    Raises:
        UsageError: a name is unknown, or an option belongs to a feature that was not requested.
    """
    if unknown := [name for name in names if name not in DERIVED_FEATURES]:
        raise UsageError(f"{', '.join(unknown)} cannot be added; choose from {', '.join(DERIVED_FEATURES)}.")
    given = {name: {key: v for key, v in some.items() if v is not None} for name, some in options.items()}
    for name, (other, keys) in _SHARED_OPTIONS.items():
        if name in names:
            given[name] = {key: value for key, value in given.get(other, {}).items() if key in keys}
    made = {name: DERIVED_FEATURES[name](**given.get(name, {})) for name in names}
    for name, some in given.items():
        if some and name not in made:
            if not any(name in feature.needs for feature in made.values()):
                raise UsageError(f"The {', '.join(some)} of {name} was given, but {name} was not asked for.")
            made[name] = DERIVED_FEATURES[name](**some)
    return tuple(made.values())


def dependencies(features: Iterable[Derived]) -> set[str]:
    """Return the names of all features that these are made from, directly or indirectly."""
    asked = {feature.name: feature for feature in features}
    found, left = set[str](), list(asked.values())
    while left:
        new = set(left.pop().needs) - found
        found |= new
        left += [asked.get(name) or DERIVED_FEATURES[name]() for name in new & DERIVED_FEATURES.keys()]
    return found
