"""What a run would take: counted as it is, fitted as it was made, and told in a table."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from headrace.cli.train import main
from headrace.train.measure.clusters import CARDS
from headrace.train.measure.forecast import GIB, SPARE, USABLE, MemoryModel, StepMeasurement
from headrace.train.measure.graph_memory import GraphMemory
from headrace.train.measure.memory_tracking import MemoryTracker
from tests.helpers.training_store import FRAMES, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("forecast") / "store").path


def test_memory_is_counted_while_tensors_exist() -> None:
    layer, x = nn.Linear(100, 100, bias=False), torch.ones(10, 100)
    with MemoryTracker() as memory:
        hidden = layer(x).exp()  # what exp was given is gone
        part = hidden[3:].view(-1)
        assert memory.current == 4000
        out = hidden * hidden
        del hidden, part  # the product needs them for its gradient
        assert memory.current == 8000
        out.sum().backward()
        assert memory.current == 4000 + 40_000 == 4 * (out.numel() + layer.weight.grad.numel())
    assert 44_000 < memory.peak <= 44_000 + 2 * 4000 + 100  # gradients of the sum, and of what exp made
    del out
    layer.weight.grad = None
    assert memory.current == 0


def test_the_memory_model_fits_and_finds_the_largest_batch() -> None:
    sizes = [(1600, 12), (1500, 6), (1580, 3), (1200, 1)]
    steps = [
        StepMeasurement(frames=f, utterances=u, peak=10**6 + 3000 * f + 40_000 * u, inputs=70 * f + 9 * u, seconds=1)
        for f, u in sizes
    ]
    memory_model = MemoryModel.fit(steps)
    assert (memory_model.fixed, memory_model.frame, memory_model.utterance) == pytest.approx((1e6, 3000, 40_000))
    budget = memory_model.max_batch_frames(1e9)
    worst = memory_model.fixed + budget * memory_model.frame + budget / 128 * memory_model.utterance
    assert worst * SPARE == pytest.approx(1e9, rel=1e-4)
    assert memory_model.max_batch_frames(1000) == 0
    inputs = MemoryModel.fit(steps, "inputs")
    assert (inputs.frame, inputs.utterance) == pytest.approx((70, 9)) and inputs.fixed < 1e-3
    graphs = GraphMemory(passes=3, pool=5e6, inputs=1e6, gradients=4e5)
    assert graphs.total == 6.4e6
    beside = memory_model.with_graphs(graphs, inputs)
    assert (beside.fixed, beside.frame, beside.utterance) == pytest.approx((2.4e6, 6210, 80_027))


def planned(store: Path, *words: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        main, ["plan", str(store), "--preset", "tiny", "--batch-frames", "300", *words, "--json"]
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_the_command(corpus: Path, stage: str) -> None:
    found = planned(corpus, "--stage", stage)
    assert set(found["parameters"]) == {"sovits": {"generator", "discriminator"}, "gpt": {"model"}}[stage]
    assert all(step["peak"] > 0 and step["frames"] <= 300 for step in found["measured"])
    assert found["step_gib"] > 4 * sum(found["parameters"].values()) / 2**30  # gradients are part of it
    here, *rooms = found["room"].values()
    assert rooms == sorted(rooms) and rooms[0] > 300 and here > 0
    assert found["hours"] == pytest.approx(found["epochs"] * found["steps_per_epoch"] * found["step_s"] / 3600)
    assert not list(Path().glob("RUN"))


def test_the_table(corpus: Path) -> None:
    table = CliRunner().invoke(main, ["plan", str(corpus), "--stage", "gpt", "--preset", "tiny"]).stdout
    assert "room on this device" in table and "room on H200" in table and "M parameters" in table


def test_options_that_change_memory_are_measured(corpus: Path) -> None:
    gpt = "--stage", "gpt", "--batch-frames", "1200", "--max-utterances", "20"
    plain = planned(corpus, *gpt)["step_gib"]
    assert planned(corpus, *gpt, "--activation-checkpointing")["step_gib"] < 0.9 * plain
    assert planned(corpus, *gpt, "--activations-8bit")["step_gib"] < 0.9 * plain
    assert planned(corpus, *gpt, "--dpo")["step_gib"] > 1.3 * plain
    assert planned(corpus, *gpt, "--optimizer", "adamw")["step_gib"] <= plain


def test_batches_are_those_of_a_run(corpus: Path) -> None:
    many = "--stage", "gpt", "--max-utterances", "20"
    plain, padded = planned(corpus, *many), planned(corpus, *many, "--fixed-shapes", "1")
    assert padded["steps_per_epoch"] > plain["steps_per_epoch"]
    assert {step["frames"] / step["utterances"] for step in padded["measured"]} == {max(FRAMES)}
    assert planned(corpus, *many, "--grad-accum", "2")["steps_per_epoch"] == -(-plain["steps_per_epoch"] // 2)


def test_graphs_are_counted_on_cards(corpus: Path) -> None:
    gpt = "--stage", "gpt", "--max-utterances", "20", "--fixed-shapes", "2"
    with_graphs, without = planned(corpus, *gpt), planned(corpus, *gpt, "--no-cuda-graphs")
    graphs = with_graphs["graphs"]
    assert graphs["gib"] * 2**30 == pytest.approx(graphs["pool"] + graphs["inputs"] + graphs["gradients"])
    assert graphs["pool"] >= max(step["peak"] for step in with_graphs["measured"]) * 0.99
    assert 0.5 < graphs["gradients"] / (4 * sum(with_graphs["parameters"].values())) <= 1
    assert graphs["passes"] >= 2 and 0 < graphs["inputs"] < graphs["pool"]
    steps = [StepMeasurement(**step) for step in with_graphs["measured"]]
    plain = MemoryModel.fit(steps)
    memory = GraphMemory(**{field.name: graphs[field.name] for field in fields(GraphMemory)})
    beside = plain.with_graphs(memory, MemoryModel.fit(steps, "inputs"))
    for card, room in with_graphs["room"].items():
        size, model = (CARDS[card].gib * GIB, beside) if card in CARDS else (psutil.virtual_memory().total, plain)
        assert room == model.max_batch_frames(USABLE * size - GIB * with_graphs["state_gib"])
    assert 0.4 < beside.max_batch_frames(1e12) / plain.max_batch_frames(1e12) < 0.5
    assert not without["graphs"] and not planned(corpus, "--stage", "gpt")["graphs"]
    table = CliRunner().invoke(main, ["plan", str(corpus), *gpt, "--preset", "tiny", "--batch-frames", "300"]).stdout
    assert "GiB more on a GPU" in table and "inputs of" in table
    refused = CliRunner().invoke(main, ["plan", str(corpus), *gpt, "--preset", "tiny", "--cuda-graphs", "--dpo"])
    assert refused.exit_code == 2 and "choose one" in refused.stderr


def test_the_shares_of_ranks_with_speeds(corpus: Path) -> None:
    gpt = "--stage", "gpt", "--max-utterances", "20"
    plain, shared = planned(corpus, *gpt), planned(corpus, *gpt, "--speeds", "1,0.5")
    assert shared["shares"] == pytest.approx([2 / 3, 1 / 3]) and shared["speeds"] == [100, 50]
    assert shared["rank_frames"][0] > shared["rank_frames"][1]
    assert shared["steps_per_epoch"] < plain["steps_per_epoch"] and "shares" not in plain
    table = CliRunner().invoke(main, ["plan", str(corpus), *gpt, "--preset", "tiny", "--speeds", "1,1"]).stdout
    assert "rank 1, speed 1.00" in table and "50.0% of the frames" in table
    refused = CliRunner().invoke(main, ["plan", str(corpus), "--preset", "tiny", "--speeds", "auto"])
    assert refused.exit_code == 2 and "to plan one, give their speeds" in refused.stderr
