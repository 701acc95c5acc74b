"""`mos`: what people would think of a recording, guessed: DNSMOS P.835 (Reddy, Gopal and Cutler 2022), overall.

The network is the one that speechmos carries; its code is not run, which would look at windows that overlap by eight
ninths. S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from headrace.featurize.features import weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec

RATE, WINDOW = 16_000, 144_160
"""Hz, and samples that the network sees: 9.01 s, at about 0.4 s of a CPU."""
TO_OPINION = (-0.06766283, 1.11546468, 0.04602535)
"""From the network's answer to P.835's scale: a polynomial, the highest power first."""


@dataclass(frozen=True, kw_only=True)
class Mos(Derived):
    """Opinion on the first nine seconds, from 1, bad, to 5, excellent; what is shorter is heard again and again."""

    name, needs, axis, dtype = "mos", ("wave",), "utterance", "float32"

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        return {"network": "dnsmos-p835", "weights": weight_files.digest([_file()]), "resampler": "soxr-hq"}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        guess = _network(part.specs[self.name].recipe["weights"])
        for wave in part.utterances("wave"):
            yield np.array([guess(wave, part.specs["wave"].recipe["sample_rate"])], np.float32)


Judge = Callable[[np.ndarray, int], float]
"""A waveform, (T, hop) int16, and its rate to an opinion."""


def judge() -> Judge | None:
    """None where the network is not installed."""
    try:
        return _network(weight_files.digest([_file()]))
    except UsageError:
        return None


@cache
def _network(digest: str) -> Judge:
    """One thread: workers are many."""
    from onnxruntime import InferenceSession, SessionOptions

    file, options = _file(), SessionOptions()
    weight_files.check([file], digest)
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def guess(wave: np.ndarray, rate: int) -> float:
        heard = wave.reshape(-1)[: WINDOW * rate // RATE + rate] / np.float32(32768)
        samples_S = np.resize(soxr.resample(heard, rate, RATE).clip(-1, 1), WINDOW)
        (answers,) = session.run(None, {"input_1": samples_S[None]})
        return float(np.polyval(TO_OPINION, answers[0, 2]))

    return guess


def _file() -> Path:
    """Of the network, in the package, whose modules are not imported: they need more than it does."""
    found, runtime = find_spec("speechmos"), find_spec("onnxruntime")
    for folder in (found.submodule_search_locations or ()) if found and runtime else ():
        if (file := Path(folder) / "dnsmos_models" / "sig_bak_ovr.onnx").is_file():
            return file
    raise UsageError("mos is guessed by a network that is not installed: pip install 'headrace[mos]'.")
