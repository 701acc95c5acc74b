"""Balancing groups of utterances by repeating those of small groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.train.data.balance import copies, repetitions


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2000)), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_balancing_leaves_no_utterance_out(corpus, evenness, seed):
    groups, frames = (np.array(column) for column in zip(*corpus, strict=True))
    repeated = repetitions(groups, frames, evenness)
    assert repeated.min() == 1
    times = copies(repeated, np.random.default_rng(seed))
    assert times.min() >= 1
    assert np.abs(times - repeated).max() < 1
    assert abs(times.sum() - repeated.sum()) < 1


def test_balance_strength_goes_from_unchanged_to_equal():
    groups, frames = np.array([*"aaaaaaab"]), np.full(8, 100)
    np.testing.assert_array_equal(repetitions(groups, frames, 0.0), np.ones(8))
    even = repetitions(groups, frames, 1.0)
    assert even[:7].sum() == even[7:].sum() == 7
    assert repetitions(groups, frames, 0.5)[7] == pytest.approx(7**0.5, abs=1e-3)


def test_repetitions_are_right_on_average():
    repeated = np.array([1.0, 1.25, 3.5, 2.0])
    mean = np.mean([copies(repeated, np.random.default_rng(seed)) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(mean, repeated, atol=0.05)
