"""What a run would take: counted as it is, fitted as it was made, and told in a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cli.train import main
from tests.training_store import build
from train.forecast import SPARE, Kept, Measured, Need


def test_what_autograd_keeps_is_counted_while_it_is_kept() -> None:
    layer = nn.Linear(100, 100, bias=False)
    kept = Kept(list(layer.parameters()))
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        x = torch.ones(10, 100)
        hidden = layer(x).exp()  # the input of the product, and the result of exp
        assert kept.now == 2 * 4000
        out = hidden * hidden  # twice what is held already
        assert kept.now == 2 * 4000
        out.sum().backward()
    del out, hidden
    assert (kept.now, kept.peak) == (0, 8000)


def test_need_is_found_again_and_room_is_what_fills_a_card() -> None:
    sizes = [(1600, 12), (1500, 6), (1580, 3), (1200, 1)]
    steps = [Measured(frames=f, utterances=u, kept=10**6 + 3000 * f + 40_000 * u, seconds=1) for f, u in sizes]
    need = Need.of(steps)
    assert (need.fixed, need.frame, need.utterance) == pytest.approx((1e6, 3000, 40_000))
    budget = need.room(1e9)
    worst = need.fixed + budget * need.frame + budget / 128 * need.utterance
    assert worst * SPARE == pytest.approx(1e9, rel=1e-4)
    assert need.room(1000) == 0


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_the_command(tmp_path: Path, stage: str) -> None:
    store = build(tmp_path / "store").path
    words = ["plan", str(store), "--stage", stage, "--preset", "tiny", "--batch-frames", "300"]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found["parameters"]) == {"sovits": {"generator", "discriminator"}, "gpt": {"model"}}[stage]
    assert all(step["kept"] > 0 and step["frames"] <= 300 for step in found["measured"])
    rooms = list(found["room"].values())
    assert rooms == sorted(rooms) and rooms[0] > 300
    assert found["hours"] == pytest.approx(found["epochs"] * found["steps_per_epoch"] * found["step_s"] / 3600)
    table = CliRunner().invoke(main, words).stdout
    assert "room on H200" in table and "M parameters" in table
    assert not list(tmp_path.glob("RUN"))
