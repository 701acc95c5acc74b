"""The coverage law, as properties of integers; and how batches are made up."""

import itertools
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.store.errors import UsageError
from headrace.train.data.batch_plan import Plan, Position, Stretch, held_out, padding_of, plan_epoch
from headrace.train.speeds import relative_speeds
from tests.helpers.utterance_lengths import log_normal

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=120).map(np.array)
BUDGET = st.integers(1, 6000)
SEED = st.integers(0, 2**32)


def batches(plan: Plan) -> list[np.ndarray]:
    return [plan.batch(step, rank) for step in range(plan.steps) for rank in range(plan.world)]


def batch_of(plan: Plan) -> np.ndarray:
    """(N,) number of the batch that each utterance is in."""
    label = np.empty(len(plan.order), np.int64)
    label[plan.order] = np.repeat(np.arange(len(plan.bounds) - 1), np.diff(plan.bounds))
    return label


def meeting_again(first: Plan, second: Plan) -> float:
    """The chance that two utterances of one batch are in one batch of the other plan too."""
    one, other = batch_of(first), batch_of(second)
    together = np.unique(one * len(other) + other, return_counts=True)[1]
    pairs = np.bincount(one)
    return (together * (together - 1)).sum() / (pairs * (pairs - 1)).sum()


@settings(deadline=None)
@given(LENGTHS, BUDGET, SEED, st.integers(0, 5), st.booleans(), st.data())
def test_every_utterance_comes_exactly_once(lengths, budget, seed, epoch, neighbours, data):
    world = data.draw(st.sampled_from([1, 2, 3, 8]) | st.integers(1, len(lengths)))
    if world > len(lengths):
        with pytest.raises(UsageError, match=f"{len(lengths)} utterances"):
            plan_epoch(lengths, Position.start(world), batch_frames=budget, seed=seed)
        return
    position = Position.start(world, epoch)
    plan = plan_epoch(lengths, position, batch_frames=budget, seed=seed, adjacent_batches=neighbours)
    seen = batches(plan)
    assert len(seen) == plan.steps * world
    assert min(map(len, seen)) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, BUDGET, st.integers(1, 12), st.none() | st.integers(1, 9))
def test_batches_stay_within_their_limits(lengths, budget, world, most):
    if world > len(lengths):
        return
    plan = plan_epoch(lengths, Position.start(world), batch_frames=budget, seed=0, max_utterances=most)
    alone = plan_epoch(lengths, Position.start(), batch_frames=budget, seed=0, max_utterances=most)
    over = [b for b in batches(plan) if len(b) > 1 and (len(b) * lengths[b].max() > budget or len(b) > (most or 999))]
    room = -(-alone.steps // world) * world <= len(lengths)
    assert not over or not room, "the budget may be exceeded only where a step cannot be filled otherwise"
    assert len(over) < world


@settings(deadline=None)
@given(LENGTHS, BUDGET, SEED)
def test_an_order_is_a_function_of_its_seed_and_epoch(lengths, budget, seed):
    first, again = (plan_epoch(lengths, Position.start(), batch_frames=budget, seed=seed) for _ in range(2))
    np.testing.assert_array_equal(first.order, again.order)
    np.testing.assert_array_equal(first.bounds, again.bounds)


def test_seeds_and_epochs_give_other_orders():
    lengths = log_normal(1000)
    plans = [
        plan_epoch(lengths, Position.start(epoch=epoch), batch_frames=8000, seed=seed).order.tobytes()
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(plans)) == 4


@settings(deadline=None)
@given(
    LENGTHS,
    BUDGET,
    SEED,
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=5),
)
def test_a_resumed_epoch_sees_exactly_what_remained(lengths, budget, seed, neighbours, stops):
    """Run for some steps on some ranks, stop, go on with others, any number of times."""
    position, seen = Position.start(stops[0][0]), []
    for world, steps in [*stops, (1, 10**9)]:
        if len(lengths) - sum(map(len, seen)) < world:
            continue
        position = Position.from_json(position.for_world(world).to_json())
        plan = plan_epoch(lengths, position, batch_frames=budget, seed=seed, adjacent_batches=neighbours)
        for step in range(position.steps, min(position.steps + steps, plan.steps)):
            seen += [plan.batch(step, rank) for rank in range(world)]
            position = position.after_step()
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(lengths)))


def test_resuming_on_as_many_ranks_changes_nothing():
    position = Position.start(3).after_step().after_step()
    assert (
        position.for_world(3)
        == position.for_world(2).for_world(3)
        == position
        == Position(epoch=0, history=(Stretch(3, 2),))
    )
    assert position.for_world(2) == Position(epoch=0, history=(Stretch(3, 2), Stretch(2, 0)))
    assert position.next_epoch() == Position(epoch=1, history=(Stretch(3, 0),))
    assert position.to_json() == {"epoch": 0, "history": [[3, 2]]}, "as before ranks had speeds"


def test_speeds_stay_until_others_are_given_and_come_back_with_their_ranks():
    fast = Position.start(2, speeds=(100, 45)).after_step()
    assert fast.for_world(2) == fast and fast.next_epoch().speeds == (100, 45)
    assert fast.for_world(2, (100, 45)) == fast
    assert fast.for_world(2, ()).history == (Stretch(2, 1, (100, 45)), Stretch(2, 0))
    fewer = fast.for_world(1).after_step()
    assert fewer.speeds == () and fewer.for_world(2).speeds == (100, 45)


SPEEDS = st.lists(st.floats(0.01, 1), min_size=2, max_size=9).map(relative_speeds)


@settings(deadline=None, max_examples=60)
@given(LENGTHS, BUDGET, SEED, st.booleans(), st.none() | st.integers(1, 9), st.lists(SPEEDS, min_size=1, max_size=4))
def test_ranks_of_any_speeds_see_every_utterance_once(lengths, budget, seed, neighbours, most, changes):
    """Speeds are given, and others are measured every three steps."""
    limits = {"batch_frames": budget, "max_utterances": most, "seed": seed, "adjacent_batches": neighbours}
    position, seen = Position.start(len(changes[0]) or 1, speeds=changes[0]), []
    for speeds in [*changes, ()]:
        world = len(speeds) or 1
        if len(lengths) - sum(map(len, seen)) < world:
            continue
        position = Position.from_json(position.for_world(world, speeds).to_json())
        plan = plan_epoch(lengths, position, **limits)
        for step in range(position.steps, plan.steps if speeds == () else min(position.steps + 3, plan.steps)):
            seen += [plan.batch(step, rank) for rank in range(world)]
            assert min(map(len, seen)) >= 1
            position = position.after_step()
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(lengths)))


@settings(deadline=None, max_examples=60)
@given(LENGTHS, BUDGET, SPEEDS, st.none() | st.integers(1, 9))
def test_steps_for_speeds_stay_within_the_limits_of_all_ranks(lengths, budget, speeds, most):
    world = len(speeds)
    if not world or world > len(lengths):
        return
    plan = plan_epoch(lengths, Position.start(world, speeds=speeds), batch_frames=budget, seed=0, max_utterances=most)
    steps = [np.concatenate([plan.batch(step, rank) for rank in range(world)]) for step in range(plan.steps)]
    over = [s for s in steps if len(s) * lengths[s].max() > budget * world or len(s) > (most or 999) * world]
    assert sum(len(s) > world for s in over) <= 1, "only where the shortest are joined, or each rank has one utterance"


@pytest.mark.parametrize("speeds", [(100, 45), (45, 100), (100, 90, 30, 5)])
def test_ranks_of_other_speeds_are_done_at_the_same_time(speeds):
    lengths, world = log_normal(20_000), len(speeds)
    plan = plan_epoch(lengths, Position.start(world, speeds=speeds), batch_frames=9600, max_utterances=75, seed=0)
    work = np.array([len(b) * lengths[b].max() for b in batches(plan)]).reshape(plan.steps, world)
    slowest, ideal = (work / np.array(speeds)).max(1).sum(), work.sum() / sum(speeds)
    assert slowest < 1.05 * ideal
    equal = plan_epoch(lengths, Position.start(world), batch_frames=9600, max_utterances=75, seed=0)
    assert padding_of(lengths, plan) < 0.011
    assert plan.steps == pytest.approx(equal.steps, rel=0.03), "an update is as large as without speeds"


def test_too_few_utterances_for_all_ranks_is_an_error():
    lengths = np.full(8, 100)
    position = Position.start().after_step().for_world(8)
    with pytest.raises(UsageError, match="4 utterances are left of epoch 0 and cannot be dealt to 8 ranks: use 4"):
        plan_epoch(lengths, position, batch_frames=400, seed=0)


@settings(deadline=None)
@given(LENGTHS, SEED, st.integers(1, 9), st.floats(0, 1))
def test_a_fixed_number_of_utterances(lengths, seed, most, share):
    plan = plan_epoch(lengths, Position.start(), batch_frames=None, max_utterances=most, seed=seed, padding=share)
    sizes = sorted(map(len, batches(plan)))
    assert sizes[1:] == [most] * (len(sizes) - 1), "all are full, save one"


def test_a_batch_needs_a_limit():
    with pytest.raises(UsageError, match="give batch_frames, max_utterances or both"):
        plan_epoch(np.ones(3), Position.start(), batch_frames=None, seed=0)


LIMITS = {
    "32 utterances": {"batch_frames": None, "max_utterances": 32},
    "9,600 frames, as train run limits them": {"batch_frames": 9600, "max_utterances": 75},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_little_padding_and_new_neighbours_in_every_epoch(limits):
    lengths = log_normal(20_000)
    plans = [plan_epoch(lengths, Position.start(epoch=epoch), seed=0, **limits) for epoch in range(4)]
    assert max(padding_of(lengths, plan) for plan in plans) < 0.01
    assert max(meeting_again(a, b) for a, b in itertools.pairwise(plans)) < 0.04


@pytest.mark.parametrize(("count", "padded", "again"), [(552, 0.115, 0.4), (6000, 0.011, 0.35), (200_000, 0.004, 0.02)])
def test_small_and_large_corpora(count, padded, again):
    lengths = log_normal(count)
    plans = [plan_epoch(lengths, Position.start(epoch=e), seed=0, batch_frames=9600, max_utterances=75) for e in (0, 1)]
    assert padding_of(lengths, plans[0]) < padded
    assert meeting_again(*plans) < again


def test_padding_of_counts_padded_frames():
    lengths = log_normal(2000)
    plan = plan_epoch(lengths, Position.start(), batch_frames=9600, seed=0)
    padded = sum(len(b) * int(lengths[b].max()) for b in batches(plan))
    assert padding_of(lengths, plan) == pytest.approx(1 - lengths.sum() / padded)


@pytest.mark.parametrize("share", [0.005, 0.01, 0.02])
def test_padding_reaches_the_allowed_share(share):
    lengths = log_normal(20_000)
    plan = plan_epoch(lengths, Position.start(), batch_frames=9600, seed=0, padding=share)
    assert padding_of(lengths, plan) == pytest.approx(share, rel=0.03)


def test_neighbours_are_mostly_of_one_length_and_meet_again_half_of_the_time():
    frames = log_normal(1_000_000)
    plans = [
        plan_epoch(frames, Position.start(epoch=n), batch_frames=None, max_utterances=32, seed=0, adjacent_batches=True)
        for n in (0, 1)
    ]
    ascending = frames[plans[0].order]
    alike = ascending[plans[0].bounds[:-1]] == ascending[plans[0].bounds[1:] - 1]
    assert alike.mean() > 0.97
    assert 0.3 < meeting_again(*plans) < 1


def test_utterances_meet_all_of_similar_length():
    """Over many epochs an utterance of 250 frames has been with most of those that differ by less than 1 %."""
    lengths = log_normal(20_000)
    one = int(np.argmin(np.abs(lengths - 250)))
    alike = set(np.flatnonzero(np.abs(lengths - 250) <= 2).tolist()) - {one}
    met: set[int] = set()
    for epoch in range(25):
        plan = plan_epoch(lengths, Position.start(epoch=epoch), batch_frames=None, max_utterances=32, seed=0)
        met |= set(np.flatnonzero(batch_of(plan) == batch_of(plan)[one]).tolist())
    assert len(alike) > 200
    assert len(met & alike) / len(alike) > 0.6


def test_orders_never_change_between_versions():
    """A run under way is resumed by it: on another machine, with another version of NumPy, in a year."""
    plan = plan_epoch(50 + np.arange(5000) ** 2 % 953, Position.start(3, epoch=2), batch_frames=9600, seed=7)
    order = np.concatenate(batches(plan)).astype("<i8")
    assert zlib.crc32(order.tobytes()) == 0x306A55F4


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_of_a_step_have_nearly_equal_work(world):
    lengths = log_normal(20_000)
    plan = plan_epoch(lengths, Position.start(world), batch_frames=8000, seed=0)
    work = np.array([len(b) * lengths[b].max() for b in batches(plan)]).reshape(plan.steps, world)
    assert (work.max(1) / work.mean(1)).mean() < 1.06
    longest = np.array([lengths[b].max() for b in batches(plan)]).reshape(plan.steps, world)
    assert np.median(longest.max(1) / longest.min(1)) < 1.12


def test_steps_do_not_come_in_order_of_length():
    lengths = log_normal(20_000)
    plan = plan_epoch(lengths, Position.start(), batch_frames=8000, seed=0)
    longest = [lengths[b].max() for b in batches(plan)]
    assert abs(np.corrcoef(np.arange(plan.steps), longest)[0, 1]) < 0.1


BUDGET_OF_TEN_MILLION = """
import resource, time
from tests.helpers.utterance_lengths import log_normal
from headrace.train.data.batch_plan import Position, plan_epoch
lengths = log_normal(10_000_000)
begun = time.process_time()
plan_epoch(lengths, Position.start(8), batch_frames=9600, max_utterances=75, seed=0)
assert time.process_time() - begun < 10
assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1_000_000  # KiB
"""


@pytest.mark.soak
def test_ten_million_utterances_in_ten_seconds_and_a_gigabyte():
    subprocess.run([sys.executable, "-c", BUDGET_OF_TEN_MILLION], check=True)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.text(), min_size=20, max_size=300), st.integers(5, 15))
def test_growing_a_corpus_never_validates_on_what_was_trained_on(ids, cut):
    ids = sorted(ids)
    before = dict(zip(ids[:cut], held_out(ids[:cut], share=0.3, most=8), strict=True))
    after = dict(zip(ids, held_out(ids, share=0.3, most=8), strict=True))
    assert not any(after[name] and not before[name] for name in before)


def test_held_out_share():
    ids = [f"speaker/{n}.wav" for n in range(20_000)]
    chosen = held_out(ids)
    assert 150 < chosen.sum() < 250
    np.testing.assert_array_equal(held_out(ids[::-1])[::-1], chosen)
    assert held_out(ids, share=0.2).sum() == 512
    assert held_out(ids[:7]).sum() == 1
    assert held_out(ids[:1]).sum() == 0
    assert held_out([]).sum() == 0
