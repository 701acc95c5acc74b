"""Draw codes from the predictions of the text-to-semantic decoder, as `headrace.train.models.sampling` does by torch.

Shapes: V vocabulary.
"""

from __future__ import annotations

import numpy as np

from headrace.train.models.sampling_config import SamplingConfig


def apply_repetition_penalty(logits_V: np.ndarray, previous_codes: np.ndarray, penalty: float) -> np.ndarray:
    """Return the logits with those of previous codes lowered (CTRL, Keskar et al. 2019, section 4.1)."""
    logits = logits_V.copy()
    repeated = logits[previous_codes]
    logits[previous_codes] = np.where(repeated < 0, repeated * penalty, repeated / penalty)
    return logits


def sample_token(logits_V: np.ndarray, config: SamplingConfig, random: np.random.Generator) -> int:
    """Sample one id by top-p, temperature and top-k.

    Args:
        logits_V: after the repetition penalty.
    """
    logits = logits_V
    if config.top_p < 1:
        order = np.argsort(-logits, kind="stable")
        excluded = _softmax(logits[order]).cumsum() > config.top_p
        excluded[0] = False
        logits = logits.copy()
        logits[order[excluded]] = -np.inf
    logits = logits / np.float32(max(config.temperature, 1e-5))
    threshold = np.partition(logits, -min(config.top_k, len(logits)))[-min(config.top_k, len(logits))]
    cumulated = _softmax(np.where(logits < threshold, -np.inf, logits)).cumsum(dtype=np.float64)
    return int(np.searchsorted(cumulated, random.random() * cumulated[-1], side="right"))


def _softmax(logits_V: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits_V - logits_V.max())
    return exponentials / exponentials.sum()
