"""Two models speak together only if their codes have one origin."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec
from headrace.train.checkpoints.origin import MFCC, UNKNOWN, Origin, check_same_codes

CLUSTERS = Origin(reads="semantic", content=MFCC, codes="k-means 0123456789ab").describe()
QUANTISER = Origin(reads="semantic", content="HuBERT 99", codes="the quantiser of GPT-SoVITS 77").describe()


def decoder(codebook: str, origin: str = "") -> Any:
    return SimpleNamespace(config=SimpleNamespace(codes=40), codebook=codebook, origin=origin)


def generator(*codebooks: str, origin: str = "") -> Any:
    return SimpleNamespace(config=SimpleNamespace(codebook_size=40), codebooks=frozenset(codebooks), origin=origin)


@pytest.mark.parametrize(
    ("codebook", "codebooks", "known"),
    [("aa", {"aa", "bb"}, True), ("", {"aa"}, False), ("aa", set(), False), ("", set(), False)],
)
def test_codes_may_be_the_same_where_one_does_not_say_it(codebook: str, codebooks: set[str], known: bool) -> None:
    reads = generator(*codebooks)
    assert check_same_codes(decoder(codebook), reads) is known
    reads.config.codebook_size = 41
    for mixed_origins in (False, True):
        with pytest.raises(UsageError, match="40 different codes, the SoVITS generator reads 41"):
            check_same_codes(decoder(codebook), reads, mixed_origins=mixed_origins)


@pytest.mark.parametrize(
    ("says", "reads", "named"),
    [
        (decoder("aa"), generator("bb"), ("codebook aa", "codebook bb")),
        (decoder("aa", QUANTISER), generator("bb", "cc", origin=CLUSTERS), (QUANTISER, CLUSTERS, "aa", "bb or cc")),
        (decoder("", ""), generator("bb", origin=CLUSTERS), ("does not record", "as published weights", CLUSTERS)),
    ],
)
def test_others_are_refused_with_both_origins_unless_that_is_allowed(
    says: Any, reads: Any, named: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="or --mixed-origins") as refused:
        check_same_codes(says, reads)
    assert all(name in refused.value.message for name in named)
    assert check_same_codes(says, reads, mixed_origins=True) is False


@pytest.mark.parametrize(
    ("content", "quantiser", "expected"),
    [
        (
            {"network": "hubert", "weights": "0123456789abcdef"},
            "gpt-sovits",
            "codes by the quantiser of GPT-SoVITS, of content by HuBERT 0123456789ab",
        ),
        ({"method": "mfcc-context"}, "k-means", "codes by k-means, of content by MFCC"),
        ({}, "test", "codes by an unknown quantiser, of content by an unknown network"),
    ],
)
def test_a_store_says_where_its_codes_come_from(content: dict[str, str], quantiser: str, expected: str) -> None:
    specs = {
        name: FeatureSpec(name=name, axis="frames", dtype="int16", channels=None, recipe=recipe)
        for name, recipe in (("content", content), ("semantic", {"quantiser": quantiser}))
    }
    store: Any = SimpleNamespace(features=specs)
    assert str(Origin.of_store(store, ("phones", "semantic"))) == expected
    assert Origin.of_store(store, ("wave", "mfcc")) == Origin(reads="mfcc", content=MFCC)


def test_a_decoder_that_says_its_origin_without_a_codebook_may_speak() -> None:
    assert check_same_codes(decoder("", CLUSTERS), generator("bb", origin=CLUSTERS)) is False


def test_what_is_not_known_has_no_words() -> None:
    assert UNKNOWN.describe() == "" and CLUSTERS == "codes by k-means 0123456789ab, of content by MFCC"
