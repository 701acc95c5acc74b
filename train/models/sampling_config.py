"""Settings of sampling from the text-to-semantic decoder. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Settings of sampling. Defaults are those of GPT-SoVITS."""

    top_k: int = 15
    """Sample among this many most probable codes; 1 is greedy decoding."""
    top_p: float = 1.0
    """Sample among the most probable codes whose probabilities sum to at most this (nucleus sampling); the most
    probable one is always among them."""
    temperature: float = 1.0
    """Divides the logits: below 1 the distribution is sharper."""
    repetition_penalty: float = 1.35
    """Logits of codes that occurred before, in the prompt too, are divided by this, or multiplied where negative."""
    min_codes: int = 11
    """The end is not sampled before this many codes; 11 are 0.44 s."""
    max_codes: int = 1500
    """Generation stops after this many codes; 1500 are a minute."""

    @property
    def draws(self) -> bool:
        """Whether codes depend on random numbers, and are not always the most probable ones."""
        return self.top_k > 1 and self.temperature > 0 and self.top_p > 0
