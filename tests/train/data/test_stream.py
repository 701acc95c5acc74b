"""The stream hands out what the plan says and the store holds, in threads that never outlive it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import store
from headrace.store.errors import DamagedStore, RunError, UsageError
from headrace.store.reader import Spans, Store
from headrace.train.data import fixed_shapes
from headrace.train.data.batch_plan import Position, plan_epoch
from headrace.train.data.batch_reader import read_batch
from headrace.train.data.dataset import BatchDataset
from headrace.train.data.stream import Stream, StreamConfig
from tests.helpers.training_store import FRAMES, build

FEATURES = ("wave", "mfcc", "phones")
CONFIG = StreamConfig(batch_frames=250, seed=3, prefetch=3, threads=2)
EVERYTHING = np.arange(len(FRAMES))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Store:
    return build(tmp_path_factory.mktemp("stream") / "store")


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stream")]


def next_numbers(stream: Stream, count: int) -> list[np.ndarray]:
    return [batch.numbers for batch in itertools.islice(stream, count)]


def test_a_batch_holds_what_the_store_holds(corpus):
    batch = read_batch(corpus, FEATURES, np.array([3, 7, 8]))
    assert batch.frames.tolist() == [33, 45, 50]
    assert [tuple(batch[name].shape) for name in FEATURES] == [(3, 50, 640), (3, 50, 20), (3, 5)]
    assert [batch[name].dtype for name in FEATURES] == [torch.int16, torch.float16, torch.int16]
    for name, (row, number) in itertools.product(FEATURES, enumerate(batch.numbers)):
        stored = corpus.read(name, number)
        np.testing.assert_array_equal(batch[name][row, : len(stored)], stored)
        assert not batch[name][row, len(stored) :].any()


def test_padding_is_the_share_of_frames_that_are_no_data(corpus):
    batch = read_batch(corpus, FEATURES, np.array([0, 19]))
    assert batch.padding == pytest.approx(80 / 200)
    assert len(batch) == 2
    assert "wave (2, 100, 640)" in repr(batch)


def test_batches_come_in_the_order_of_the_plan(corpus):
    numbers = EVERYTHING[2:]
    plans = [
        plan_epoch(corpus.frames[numbers], Position.start(epoch=epoch), batch_frames=250, seed=3) for epoch in (0, 1)
    ]
    expected = [numbers[plan.batch(step, 0)] for plan in plans for step in range(plan.steps)]
    with Stream(corpus, FEATURES, numbers, CONFIG) as stream:
        for batch, wanted in zip(stream, expected, strict=False):
            np.testing.assert_array_equal(batch.numbers, wanted)
            assert len(batch) * batch["wave"].shape[1] <= 250
        assert stream.position.epoch == 2


@pytest.mark.parametrize("done", [0, 1, 5, 13])
def test_a_stream_continues_where_another_stopped(corpus, done):
    with Stream(corpus, FEATURES, EVERYTHING, CONFIG) as stream:
        next_numbers(stream, done)
        position = json.loads(json.dumps(stream.position.to_json()))
        expected = next_numbers(stream, 12)
    with Stream(corpus, FEATURES, EVERYTHING, CONFIG, position=Position.from_json(position)) as stream:
        for seen, wanted in zip(next_numbers(stream, 12), expected, strict=True):
            np.testing.assert_array_equal(seen, wanted)


def test_batches_stay_as_they_are(corpus):
    """Nothing handed out is overwritten by what is read later."""
    with Stream(corpus, FEATURES, EVERYTHING, CONFIG) as stream:
        batches = list(itertools.islice(stream, 12))
    for batch in batches:
        again = read_batch(corpus, FEATURES, batch.numbers)
        assert all(torch.equal(batch[name], again[name]) for name in FEATURES)


class Watched:
    """A store that counts reads, and breaks at one utterance."""

    def __init__(self, corpus: Store, broken: int = -1, delay: float = 0.0) -> None:
        self._corpus, self._broken, self._delay = corpus, broken, delay
        self.reads = 0

    def __getattr__(self, name: str):
        return getattr(self._corpus, name)

    def read_into(self, feature: str, spans: Spans, out: np.ndarray) -> None:
        self.reads += 1
        time.sleep(self._delay)
        if self._broken in spans.numbers:
            raise DamagedStore("part 1 is cut short", "run store verify")
        self._corpus.read_into(feature, spans, out)


def test_an_error_of_a_reading_thread_is_raised(corpus):
    with Stream(corpus, FEATURES, EVERYTHING, CONFIG) as stream:
        order = next_numbers(stream, 11)
    broken_at = 4
    watched = Watched(corpus, broken=int(order[broken_at][0]))
    with Stream(watched, FEATURES, EVERYTHING, CONFIG) as stream:
        for wanted in order[:broken_at]:
            np.testing.assert_array_equal(next(stream).numbers, wanted)
        with pytest.raises(DamagedStore, match="part 1 is cut short") as caught:
            next(stream)
        with pytest.raises(DamagedStore):
            next(stream)
    assert caught.value.details == ("run store verify",)


def test_read_ahead_is_limited_to_prefetch(corpus):
    watched = Watched(corpus)
    with Stream(watched, ("wave",), EVERYTHING, CONFIG) as stream:
        next_numbers(stream, 2)
        time.sleep(0.2)
        assert watched.reads == 2 + CONFIG.prefetch


def test_the_wait_is_measured(corpus):
    slow = Watched(corpus, delay=0.05)
    config = StreamConfig(batch_frames=250, prefetch=1)
    with Stream(slow, ("wave",), EVERYTHING, config) as stream:
        next(stream)
        next(stream)
        assert stream.wait_s > 0.02
        time.sleep(0.3)
        next(stream)
        assert stream.wait_s < 0.02
        assert stream.read_s >= 0.05, "reading takes as long whether anybody waits for it or not"


def test_planning_is_measured_from_one_batch_to_the_next(corpus, monkeypatch):
    plan = Stream.epoch

    def slow(self, position):
        time.sleep(0.05)
        return plan(self, position)

    monkeypatch.setattr(Stream, "epoch", slow)
    with Stream(corpus, ("wave",), EVERYTHING, StreamConfig(batch_frames=250, prefetch=1)) as stream:
        next(stream)
        assert stream.plan_s >= 0.05, "the first epoch is planned before the first batch"
        planned = [stream.plan_s for _ in zip(range(stream.steps), stream, strict=False)]
    assert sum(seconds >= 0.05 for seconds in planned) in (1, 2), "once an epoch, not in each step"


def rank_main(rank: int, world: int, root: str, meeting: str, answer: str) -> None:
    """One rank of an epoch in its own process; rank 0 writes down what all of them saw."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    steps, seen = 0, []
    with Stream(store.open(root), FEATURES, EVERYTHING, CONFIG, rank=rank, world=world) as stream:
        while stream.position.epoch == 0:
            seen += next(stream).numbers.tolist()
            steps += 1
    everyone: list = [None] * world
    dist.all_gather_object(everyone, (steps, seen))
    if rank == 0:
        Path(answer).write_text(json.dumps(everyone))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch(corpus, tmp_path, world):
    """Over real ranks every utterance comes exactly once, and all have as many steps."""
    answer = tmp_path / "answer.json"
    mp.spawn(rank_main, (world, str(corpus.path), str(tmp_path / "meeting"), str(answer)), nprocs=world)
    everyone = json.loads(answer.read_text())
    assert len({steps for steps, _ in everyone}) == 1
    assert all(seen for _, seen in everyone)
    assert sorted(itertools.chain(*(seen for _, seen in everyone))) == EVERYTHING.tolist()


def test_fixed_shapes(corpus):
    """A few lengths along every axis; what comes is otherwise the same."""
    config = dataclasses.replace(CONFIG, batch_frames=300, fixed_shapes=3)
    seen: set[tuple[int, ...]] = set()
    numbers = []
    with Stream(corpus, FEATURES, EVERYTHING, config) as stream:
        while stream.position.epoch < 3:
            batch = next(stream)
            wave, mfcc, phones = (batch[name] for name in FEATURES)
            assert wave.shape[1] == mfcc.shape[1] >= batch.frames.max()
            assert len(batch) * wave.shape[1] <= 300
            assert phones.shape[1] >= batch.phones_n.max()
            exact = read_batch(corpus, FEATURES, batch.numbers)
            assert torch.equal(wave[:, : exact["wave"].shape[1]], exact["wave"])
            assert not wave[:, exact["wave"].shape[1] :].any()
            seen.add((wave.shape[1], phones.shape[1]))
            numbers += batch.numbers.tolist()
    assert len(seen) <= 3
    assert sorted(numbers) == sorted([*EVERYTHING] * 3)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=25), st.integers(1, 5))
def test_fixed_shapes_are_the_cheapest(lengths, count):
    frames = np.array(lengths)
    chosen = fixed_shapes.choose({"frames": frames, "phones": frames // 2}, count)
    different = sorted(set(lengths))
    every = itertools.combinations(different, min(count, len(different)))
    least = min(np.array(some)[np.searchsorted(some, frames)].sum() for some in every if some[-1] == different[-1])
    padded = chosen.round_up(frames)
    assert (padded >= frames).all()
    assert padded.sum() == least
    assert len(chosen.rows["frames"]) <= count
    assert all(chosen.for_batch(n)["phones"] >= n // 2 for n in lengths)


def test_repeated_utterances_come_more_often(corpus):
    """Nothing is left out, and the epoch is as long as its repetitions say."""
    repeated = np.where(EVERYTHING < 5, 2.5, 1.0)
    seen = np.zeros((4, len(EVERYTHING)), int)
    with Stream(corpus, ("phones",), EVERYTHING, CONFIG, repeated=repeated) as stream:
        while (epoch := stream.position.epoch) < 4:
            np.add.at(seen[epoch], next(stream).numbers, 1)
    assert (seen[:, 5:] == 1).all()
    assert set(np.unique(seen[:, :5])) == {2, 3}
    assert set(seen.sum(1)) <= {27, 28}


def dataset(corpus: Store, **changes: Any) -> BatchDataset:
    return BatchDataset(corpus, FEATURES, dataclasses.replace(CONFIG, **changes))


def test_a_dataset_iterates_over_epochs_within_a_data_loader(corpus):
    data = dataset(corpus)
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    epochs = [[batch.numbers.tolist() for batch in loader] for _ in range(2)]
    with Stream(corpus, FEATURES, EVERYTHING, CONFIG) as stream:
        for wanted in itertools.chain(*epochs):
            assert next(stream).numbers.tolist() == wanted
        assert stream.position.epoch == data.epoch == 2
    assert [sorted(itertools.chain(*epoch)) for epoch in epochs] == [EVERYTHING.tolist()] * 2


@settings(deadline=None, max_examples=15)
@given(done=st.integers(0, 20))
def test_a_dataset_resumes_from_its_state(corpus, done):
    """Batch for batch, wherever it stopped: within an epoch, at its end, before its beginning."""

    def endless(data: BatchDataset) -> Iterator[list[int]]:
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        while True:
            yield from (batch.numbers.tolist() for batch in loader)

    data = dataset(corpus)
    running = endless(data)
    list(itertools.islice(running, done))
    state = json.loads(json.dumps(data.state_dict()))
    resumed = dataset(corpus, prefetch=1, threads=1)
    resumed.load_state_dict(state)
    going_on = endless(resumed)
    assert list(itertools.islice(going_on, 9)) == list(itertools.islice(running, 9))
    running.close()
    going_on.close()


def test_a_dataset_resumes_after_a_given_batch(corpus):
    """For loops that take batches before they train on them."""
    data = dataset(corpus)
    for batch, ahead in itertools.pairwise(data):
        resumed = dataset(corpus)
        resumed.load_state_dict(json.loads(json.dumps(data.state_dict(batch.to("cpu")))))
        assert next(iter(resumed)).numbers.tolist() == ahead.numbers.tolist()


def test_a_dataset_refuses_the_state_of_another_one(corpus):
    state = dataset(corpus).state_dict()
    with pytest.raises(RunError, match="another batch_frames and seed") as caught:
        dataset(corpus, seed=4, batch_frames=300).load_state_dict(state)
    assert caught.value.details == ("batch_frames: 250 in the state, 300 here", "seed: 3 in the state, 4 here")
    with pytest.raises(RunError, match="another utterances"):
        BatchDataset(corpus, FEATURES, CONFIG, numbers=EVERYTHING[:9]).load_state_dict(state)


def test_ranks_of_a_dataset_share_what_another_number_of_ranks_left(corpus):
    alone = dataset(corpus)
    seen = [batch.numbers for batch in itertools.islice(alone, 3)]
    for rank in range(2):
        data = BatchDataset(corpus, FEATURES, CONFIG, rank=rank, world=2)
        data.load_state_dict(alone.state_dict())
        seen += [batch.numbers for batch in data]
    assert sorted(np.concatenate(seen)) == EVERYTHING.tolist()


def test_a_dataset_refuses_worker_processes(corpus, monkeypatch):
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker")
    with pytest.raises(UsageError, match="num_workers=0"):
        next(iter(dataset(corpus)))


def test_a_loop_that_is_left_ends_quietly_even_where_something_holds_its_iterator(corpus):
    """What holds it is torn down after the standard library, whose names are None by then."""
    script = f"""
import threading
from headrace import store
from headrace.train.data.dataset import BatchDataset
from headrace.train.data.stream import StreamConfig
dataset = BatchDataset(store.open({str(corpus.path)!r}), ("phones",), StreamConfig(batch_frames=250))
for batch in dataset:
    break
threading.held = iter(dataset)
next(threading.held)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
