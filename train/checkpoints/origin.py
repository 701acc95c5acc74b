"""Where the numbers come from that a model was trained on: what its content and its semantic tokens were made by.

Runs, checkpoints and exported files carry it. Models whose numbers have different origins do not understand each other,
although their shapes agree.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.featurize.features.codebooks import codebook_of
from headrace.store.errors import UsageError
from headrace.store.reader import Store

if TYPE_CHECKING:
    from headrace.train.models.gpt import Text2SemanticDecoder
    from headrace.train.models.sovits import SynthesizerTrn

READ = ("semantic", "content", "mfcc")
"""Features from which a generator reads what is spoken."""
MFCC, K_MEANS = "MFCC", "k-means"
_DIGITS = 12
_LONGEST = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What content and semantic tokens were made by, in words with digests. Empty where that is not known."""

    reads: str = ""
    """The feature from which a generator read what is spoken, one of `READ`."""
    content: str = ""
    """`HuBERT` with the digest of its weights, or `MFCC`."""
    codes: str = ""
    """`k-means` or `the quantiser of GPT-SoVITS`, with the digest of the codebook."""

    @classmethod
    def of_store(cls, store: Store, reads: Collection[str]) -> Origin:
        """Return the origin of what a model reads from a store.

        Args:
            reads: the features that it reads.
        """
        feature = next((name for name in READ if name in reads), "")
        content = MFCC if feature == "mfcc" else _content(store)
        return cls(reads=feature, content=content, codes=_codes(store) if feature == "semantic" else "")

    @classmethod
    def from_json(cls, data: Any) -> Origin:
        """Return what a file says of its origin; what it does not say, or says otherwise than in words, is empty."""
        data = data if isinstance(data, Mapping) else {}
        said = {name: data.get(name, "") for name in ("reads", "content", "codes")}
        return cls(**{name: _printable(value) for name, value in said.items()})

    def to_json(self) -> dict[str, str]:
        """Return what is known of it as a JSON object."""
        return {name: value for name, value in asdict(self).items() if value}

    def describe(self) -> str:
        """Return it in words; empty where nothing is known."""
        return str(self) if self.to_json() else ""

    def __str__(self) -> str:
        codes = f"codes by {self.codes or 'an unknown quantiser'}, of " if self.reads == "semantic" else ""
        return f"{codes}content by {self.content or 'an unknown network'}"


UNKNOWN = Origin()
"""That of weights which do not record it."""


def check_same_codes(decoder: Text2SemanticDecoder, generator: SynthesizerTrn, *, mixed_origins: bool = False) -> bool:
    """Check that the codes of one network mean the same to the other.

    Args:
        mixed_origins: let both speak together although their codes have different origins.
    Returns:
        Whether it is known that they do; weights of GPT-SoVITS do not say it.
    Raises:
        UsageError: their codes have different origins, or different numbers of values.
    """
    codes, size = decoder.config.codes, generator.config.codebook_size
    if codes != size:
        raise UsageError(
            f"The decoder generates {codes} different codes, the SoVITS generator reads {size}: give two that were "
            "trained for each other."
        )
    known = bool(decoder.codebook and generator.codebooks)
    clusters = not decoder.codebook and not decoder.origin and f"codes by {K_MEANS}" in generator.origin
    differ = clusters or (known and decoder.codebook not in generator.codebooks)
    if differ and not mixed_origins:
        digests = " or ".join(sorted(generator.codebooks))
        raise UsageError(
            f"The decoder was trained on {decoder.origin or 'codes that it does not record'} "
            f"({f'codebook {decoder.codebook}' if decoder.codebook else 'as published weights'}), the SoVITS generator "
            f"on {generator.origin or 'codes that it does not record'} (codebook {digests}), and they would speak "
            "nonsense: give two that were trained on the same codes, as train voice does, or --mixed-origins."
        )
    return known and not differ


def _content(store: Store) -> str:
    recipe = store.features["content"].recipe if "content" in store.features else {}
    if recipe.get("network") == "hubert":
        return f"HuBERT {str(recipe.get('weights', ''))[:_DIGITS]}".strip()
    return MFCC if str(recipe.get("method", "")).startswith("mfcc") else ""


def _codes(store: Store) -> str:
    quantiser = store.features["semantic"].recipe.get("quantiser")
    name = {"k-means": K_MEANS, "gpt-sovits": "the quantiser of GPT-SoVITS"}.get(str(quantiser), "")
    return f"{name} {codebook_of(store.features)[:_DIGITS]}".strip() if name else ""


def _printable(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) and value.isprintable() else ""
