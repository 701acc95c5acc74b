"""Any number of processes make the update that one makes, and train one model: a long run.

The short form, with two processes, is in `tests/train/trainer/test_distributed.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training_store import build
from tests.train.distributed.ranks import CLOSE, CLOSE_IN_PIECES, CUTS, compare_gradients, run_ranks


@pytest.mark.soak
@pytest.mark.parametrize("world", CUTS)
def test_any_number_of_ranks_trains_one_model(tmp_path: Path, world: int) -> None:
    """With accumulation, pieces on one rank, a loss that is not a number on one rank, and batches that grow."""
    build(tmp_path / "store")
    run_ranks("tests.train.distributed.ranks", world, tmp_path, 200, timeout_s=3000)
    differences = compare_gradients(tmp_path, world)
    print(f"{world} processes: {differences}")
    of_ranks: list[dict[str, Any]] = [
        torch.load(tmp_path / f"trained-{rank}.pt", weights_only=True) for rank in range(world)
    ]
    for stage in ("sovits", "gpt"):
        first = of_ranks[0][stage]
        print(stage, {name: first[name] for name in ("pieces", "skipped", "batches")})
        for trained in of_ranks[1:]:
            assert trained[stage]["checksums"] == first["checksums"]
            assert trained[stage]["pieces"] == first["pieces"]
        assert first["pieces"] > 1 and any("2 times as many" in line for line in first["messages"])
        assert first["skipped"]
    assert max(value for case, value in differences.items() if "memory" not in case) < CLOSE
    assert max(differences.values()) < CLOSE_IN_PIECES
