"""The feature `mos`: the overall rating by listeners, predicted by DNSMOS P.835."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.featurize.features import weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.quality import dnsmos
from headrace.store.schema import FeatureSpec


@dataclass(frozen=True, kw_only=True)
class Mos(Derived):
    """Rating of the first nine seconds, from 1 (bad) to 5 (excellent); a shorter recording is repeated."""

    name, needs, axis, dtype = "mos", ("wave",), "utterance", "float32"

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        weights = weight_files.digest([dnsmos.model_file()])
        return {"network": "dnsmos-p835", "weights": weights, "resampler": "soxr-hq"}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        weight_files.check_digest([dnsmos.model_file()], part.specs[self.name].recipe["weights"])
        rate = part.specs["wave"].recipe["sample_rate"]
        for wave in part.utterances("wave"):
            yield np.array([dnsmos.first_window_mos(wave, rate)], np.float32)
