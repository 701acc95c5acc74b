"""Several processes make the update that one makes of all their utterances, and a run goes on with fewer of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headrace.store.errors import RunError, UsageError
from headrace.train import distributed
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig
from headrace.train.data.batch import Batch
from headrace.train.monitoring import metrics
from headrace.train.precision import DTYPES
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import loop, rank_speeds
from headrace.train.trainer.plateau import Plateau
from headrace.train.trainer.rank_speeds import RankSpeeds
from headrace.train.trainer.validation import Validator
from tests.helpers.training_store import Silent, build
from tests.train.distributed.ranks import CLOSE, CLOSE_IN_PIECES, compare_gradients, run_ranks, write_gradients


def config(store: Path, out: Path) -> RunConfig:
    return RunConfig.from_options(
        store=store,
        out=out,
        preset="tiny",
        batch_frames=300,
        max_utterances=4,
        max_steps=5,
        speeds="auto",
        checkpoint_every=100,
        validate_every=4,
    )


def rounded_sums() -> dict[str, float]:
    """The sum over ranks of 1 + 2**-12, by the format that it is sent in. bf16 keeps 8 bits of it, fp16 11."""
    sums = {}
    for name, dtype in DTYPES.items():
        parameter = nn.Parameter(torch.ones(()))
        gradients = distributed.GradientBuckets([parameter], distributed.ReductionOptions(dtype=dtype))
        gradients.begin()
        (parameter * (1 + 2**-12)).backward()
        gradients.finish()
        assert parameter.grad is not None
        sums[name] = float(parameter.grad)
    return sums


def worker(store: Path, out: Path) -> None:
    """What each process does."""
    stages: list[SovitsStage] = []
    step, losses = SovitsStage.step, list[float]()
    with distributed.process_group():
        (out / f"sums-{distributed.rank()}.json").write_text(json.dumps(rounded_sums()))
        write_gradients(out)
        SovitsStage.step = lambda self, batches: stages.append(self) or step(self, batches)  # type: ignore
        with monkeypatched_ranks(losses):
            summary = loop.start(config(store, out / "run"), Silent())
        state = stages[0].state_dict()
        weights = {name: tensor.clone() for name, tensor in state["generator"].items()}
        distributed.check_state(state, 5)
        fault = flip(stages, out / "run")
        unreachable = copy_to_a_file(store, out)
    torch.save(
        {
            "weights": weights,
            "summary": json.dumps(summary),
            "losses": losses,
            "fault": fault,
            "unreachable": unreachable,
        },
        out / f"run-{os.environ['RANK']}.pt",
    )


@contextmanager
def monkeypatched_ranks(losses: list[float]) -> Iterator[None]:
    """The second rank begins with other weights, computes other losses in validation, and comes to other means. It
    takes twice the time for a frame, which is seen after two steps.
    """
    with pytest.MonkeyPatch.context() as patch:
        validate, update, load = SovitsStage.validate, Plateau.update, SovitsStage.load_pretrained

        def changed(self: SovitsStage, model: ModelConfig) -> list[str]:
            self.generator.dec.conv_post.weight.data += 1.0
            return load(self, model)

        def other(self: SovitsStage, batch: Batch) -> dict[str, Tensor]:
            return {name: value * 2 for name, value in validate(self, batch).items()}

        patch.setattr(Plateau, "update", lambda self, step, loss: losses.append(loss) or update(self, step, loss))
        patch.setattr(rank_speeds, "FIRST_STEPS", 2)
        seconds = (0.01, 0.02)[distributed.rank()]
        patch.setattr(RankSpeeds, "_seconds_per_frame", lambda self: seconds)
        if distributed.rank() == 1:
            patch.setattr(SovitsStage, "load_pretrained", changed)
            patch.setattr(SovitsStage, "validate", other)
            mean = Validator.validate
            doubled = lambda self, step: {name: value * 2 for name, value in mean(self, step).items()}  # noqa: E731
            patch.setattr(Validator, "validate", doubled)
        yield


def flip(stages: list[SovitsStage], run: Path) -> str:
    """What the run says that goes on when, after two more steps, one bit differs on the second rank."""
    count, step = len(stages), SovitsStage.step

    def flipped(self: SovitsStage, batches: list[Batch]) -> dict[str, Tensor]:
        terms = step(self, batches)
        if distributed.rank() == 1 and len(stages) == count + 2:
            self.generator.dec.conv_post.weight.data.view(torch.int32).flatten()[3] ^= 1
        return terms

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SovitsStage, "step", flipped)
        with pytest.raises(RunError) as error:
            loop.resume(run, {"max_steps": 0, "max_epochs": 9, "check_weights_every": 3}, Silent())
    return error.value.message


def copy_to_a_file(store: Path, out: Path) -> str:
    """What both ranks say where checkpoints cannot be copied."""
    copied = config(store, out / "copied").with_options(checkpoint_to=str(out / "sums-0.json"))
    with pytest.raises(UsageError) as error:
        loop.start_or_resume(copied, {}, Silent())
    return error.value.message


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, as torchrun would start them."""
    out = tmp_path_factory.mktemp("ranks")
    store = build(out / "store").path
    run_ranks("tests.train.trainer.test_distributed", 2, store, out)
    return out


def test_two_ranks_sum_gradients_as_one_process_does_and_overlapping_changes_no_bit(both: Path) -> None:
    """Though one has three utterances and the other five of other lengths, and may run out of memory."""
    differences = compare_gradients(both, 2)
    assert max(value for case, value in differences.items() if "memory" not in case) < CLOSE
    assert max(differences.values()) < CLOSE_IN_PIECES


def test_gradients_are_summed_in_the_format_that_was_chosen(both: Path) -> None:
    for rank in range(2):
        sums = json.loads((both / f"sums-{rank}.json").read_text())
        assert sums == {"fp32": 2 + 2**-11, "fp16": 2.0, "bf16": 2.0}


def test_a_place_for_copies_that_cannot_be_used_is_told_by_all_ranks(both: Path) -> None:
    for rank in range(2):
        told = torch.load(both / f"run-{rank}.pt", weights_only=True)["unreachable"]
        assert told == f"--checkpoint-to {both / 'sums-0.json'} is a file: name a folder."
    assert not (both / "copied").exists()


def test_two_ranks_train_one_model_and_write_one_run(both: Path) -> None:
    first, second = (torch.load(both / f"run-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    assert json.loads(second["summary"]) is None and json.loads(first["summary"])["ranks"] == 2
    records = [r for r in metrics.read(both / "run" / "metrics.jsonl") if r["split"] == "train"]
    assert [r["step"] for r in records[:5]] == [1, 2, 3, 4, 5]
    epochs = [sum(r["utterances"] for r in records[:5] if r["epoch"] == epoch) for epoch in (1, 2)]
    assert epochs[0] == 19 and epochs[1] > 0
    state = load(Checkpoints(both / "run" / "checkpoints").path(5))
    assert not torch.equal(state["random"][0]["cpu"], state["random"][1]["cpu"])


def test_measured_speeds_are_part_of_the_plan_and_of_its_checkpoint(both: Path) -> None:
    state = load(Checkpoints(both / "run" / "checkpoints").path(5))
    assert state["stream"]["history"][0][::2] == [2, [100, 50]] and state["stream"]["epoch"] == 1
    first = [r for r in metrics.read(both / "run" / "metrics.jsonl") if r["split"] == "train" and r["epoch"] == 1]
    assert len(first) > 2 and sum(record["utterances"] for record in first) == 19


def test_decisions_follow_one_validation_though_ranks_compute_others(both: Path) -> None:
    first, second = (torch.load(both / f"run-{rank}.pt", weights_only=True)["losses"] for rank in range(2))
    assert len(first) == 2 and first == second


def test_weights_that_differ_on_one_rank_end_the_run_before_the_next_checkpoint(both: Path) -> None:
    for rank in range(2):
        fault = torch.load(both / f"run-{rank}.pt", weights_only=True)["fault"]
        assert fault.startswith(
            "After step 9 the processes no longer train one model: rank 1 of 2 has other values in "
        )
        assert "generator.dec.conv_post.weight" in fault
    assert Checkpoints(both / "run" / "checkpoints").steps() == [5]


def test_a_run_of_two_ranks_resumes_on_one(both: Path) -> None:
    observer = Silent()
    summary = loop.resume(both / "run", {"max_steps": 0, "max_epochs": 2}, observer)
    assert summary is not None and summary["ranks"] == 1
    records = [r for r in metrics.read(both / "run" / "metrics.jsonl") if r["split"] == "train"]
    assert sum(r["utterances"] for r in records if r["epoch"] == 2) == 19


if __name__ == "__main__":
    worker(Path(sys.argv[1]), Path(sys.argv[2]))
