"""What a tuning searches: options of a run, with their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from headrace.store.errors import UsageError
from headrace.train.config import RunConfig
from headrace.train.models.presets import PRESETS
from headrace.train.stages.gpt_optimizer import PUBLISHED_RATE, GptOptimConfig
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig

NAMES = {
    "sovits": (
        *("learning_rate", "text_rate_factor", "warmup_steps", "batch_frames", "mel_weight", "kl_weight"),
        "dropout",
    ),
    "gpt": ("learning_rate", "warmup_steps", "batch_frames", "dropout"),
}
"""Options that are searched by default, by stage."""
FIXED_WITHIN_A_RUN = ("warmup_steps", "batch_frames")
"""Options that cannot change while a run lasts: one says what happens at its beginning, one what its epoch consists
of."""
FACTORS = (0.8, 1.2)
"""Factors by which a population changes an option (Jaderberg et al. 2017)."""
LINEAR_CHANGE = 0.1
"""Share of the range by which it changes an option that may be 0, and that no factor would lead away from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """An option that is searched, and its range."""

    name: str
    low: float
    high: float
    default: float
    """What a run has without a search, within the range."""
    log: bool = True
    """Whether equal factors are equally likely, and not equal differences."""
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or self.low < 0 or (self.log and not self.low):
            least = "more than 0" if self.log else "at least 0"
            raise UsageError(
                f"{self.name}={self.low:g}:{self.high:g} is no range to search: give the lower end first, {least}."
            )

    def at(self, share: float) -> float:
        """Return the value at a share, from 0 to 1, of the range."""
        if self.log:
            return self.rounded(float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low)))))
        return self.rounded(self.low + share * (self.high - self.low))

    def share_of(self, value: float) -> float:
        """Return where in the range a value lies, from 0 to 1."""
        low, high, value = (np.log((self.low, self.high, value))) if self.log else (self.low, self.high, value)
        return float((value - low) / (high - low))

    def changed(self, value: float, up: bool) -> float:
        """Return a value that is a little larger or smaller, within the range."""
        if self.log:
            return self.rounded(value * FACTORS[up])
        return self.rounded(value + (LINEAR_CHANGE if up else -LINEAR_CHANGE) * (self.high - self.low))

    def rounded(self, value: float) -> float:
        """Return the nearest value in the range that the option can have."""
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def search_space(config: RunConfig, batch_frames: int, chosen: str = "") -> tuple[Parameter, ...]:
    """Return the options to search, with ranges about what runs have by default.

    Args:
        config: of a run with default options, and `max_steps`.
        batch_frames: that it has.
        chosen: the options, between commas, each as NAME or NAME=LOW:HIGH. Empty for all of the stage.
    Raises:
        UsageError: there is no such option to search, or it has no such range.
    """
    known = _parameters(config, batch_frames)
    found: dict[str, Parameter] = {}
    for word in filter(None, (word.strip() for word in chosen.split(","))):
        name, _, limits = word.partition("=")
        if name not in known:
            raise UsageError(
                f"{name!r} cannot be searched for the stage {config.model.stage}; choose from {', '.join(known)}."
            )
        found[name] = _within(known[name], limits) if limits else known[name]
    space = tuple((found or known).values())
    for parameter in space:  # what an option may be is known to its config
        config.with_options(**{parameter.name: parameter.high})
    return space


def without_fixed(space: tuple[Parameter, ...], chosen: str) -> tuple[Parameter, ...]:
    """Return the options that may change while a run lasts.

    Args:
        chosen: as for `search_space`: an option that was asked for is not left out silently.
    Raises:
        UsageError: one was asked for that may not change.
    """
    fixed = [parameter.name for parameter in space if parameter.name in FIXED_WITHIN_A_RUN]
    if chosen and fixed:
        raise UsageError(f"{fixed[0]} cannot change while a run lasts: leave it out of --search with --population.")
    return tuple(parameter for parameter in space if parameter.name not in fixed)


def _within(parameter: Parameter, limits: str) -> Parameter:
    """Return a parameter with another range, given as LOW:HIGH."""
    low, _, high = limits.partition(":")
    try:
        ends = float(low), float(high)
        if not all(np.isfinite(ends)) or (parameter.whole and any(end % 1 for end in ends)):
            raise ValueError
    except ValueError:
        kind = "whole numbers" if parameter.whole else "numbers"
        raise UsageError(f"{parameter.name}={limits} is no range: give two {kind} as LOW:HIGH.") from None
    default = min(max(parameter.default, ends[0]), ends[1])
    return replace(parameter, low=ends[0], high=ends[1], default=default)


def _parameters(config: RunConfig, batch_frames: int) -> dict[str, Parameter]:
    """Return all options of a stage that can be searched, by name."""
    found = {name: _parameter(name, value, config) for name, value in _defaults(config, batch_frames).items()}
    return {name: found[name] for name in NAMES[config.model.stage]}


def _parameter(name: str, default: float, config: RunConfig) -> Parameter:
    """Return an option with its usual range."""
    if name == "warmup_steps":
        most = max(config.schedule.max_steps // 2, int(default), 1)
        return Parameter(name=name, low=0, high=most, default=default, log=False, whole=True)
    if name == "dropout":
        return Parameter(name=name, low=0.0, high=max(0.3, default), default=default, log=False)
    reach = {"learning_rate": 10.0, "text_rate_factor": 4.0, "batch_frames": 2.0, "mel_weight": 4.0, "kl_weight": 10.0}
    whole = name == "batch_frames"
    low, high = default / reach[name], default * reach[name]
    if whole:
        low, high = float(max(1, round(low))), float(round(high))
    return Parameter(name=name, low=low, high=high, default=default, whole=whole)


def _defaults(config: RunConfig, batch_frames: int) -> Mapping[str, float]:
    """Return what a run has where nothing is searched."""
    sizes, dropout = PRESETS[config.model.preset], config.model.dropout
    common = {"batch_frames": batch_frames, "warmup_steps": config.optim.warmup_steps}
    if config.model.stage == "sovits":
        optim = SovitsOptimConfig.from_config(config)
        names = ("learning_rate", "text_rate_factor", "mel_weight", "kl_weight")
        own = {name: getattr(optim, name) for name in names}
        return {**common, **own, "dropout": sizes.sovits.p_dropout if dropout is None else dropout}
    gpt = GptOptimConfig.from_config(config)
    usual = PUBLISHED_RATE if gpt.schedule == "published" else gpt.peak_rate
    rates = {"learning_rate": gpt.learning_rate or usual}
    return {**common, **rates, "dropout": sizes.gpt.dropout if dropout is None else dropout}
