"""The random state of a run on GPUs that are not there: each process reads and sets that of its own device alone."""

from __future__ import annotations

import pytest
import torch

from headrace.train.checkpoints.checkpoint import random_state, set_random_state

STATES = [torch.full((16,), number, dtype=torch.uint8) for number in range(4)]


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.device, int]]:
    """Four devices, and what is set on them. To ask for the state of a device opens a context there, of some 500 MB."""
    calls: list[tuple[torch.device, int]] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.get_rng_state_all", lambda: pytest.fail("a context on every device"))
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: STATES[device.index])
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: calls.append((device, int(state[0]))))
    return calls


@pytest.mark.parametrize("number", range(4))
def test_a_rank_saves_the_state_of_its_device_and_restores_it_on_any(
    restored: list[tuple[torch.device, int]], number: int
) -> None:
    state = random_state(torch.device("cuda", number))
    assert torch.equal(state["cpu"], torch.get_rng_state())
    assert [int(cuda[0]) for cuda in state["cuda"]] == [number]
    set_random_state(state, torch.device("cuda", 2))
    assert restored == [(torch.device("cuda", 2), number)]


@pytest.mark.parametrize("number", range(4))
def test_checkpoints_with_the_states_of_all_devices_give_that_of_the_own_one(
    restored: list[tuple[torch.device, int]], number: int
) -> None:
    set_random_state({"cpu": torch.get_rng_state(), "cuda": STATES}, torch.device("cuda", number))
    assert restored == [(torch.device("cuda", number), number)]


def test_on_a_cpu_no_device_is_asked(restored: list[tuple[torch.device, int]]) -> None:
    state = random_state(torch.device("cpu"))
    assert state["cuda"] == []
    set_random_state(state, torch.device("cuda", 1))
    set_random_state({"cpu": torch.get_rng_state(), "cuda": STATES}, torch.device("cpu"))
    assert restored == []
