"""Processes that train together, as a launcher starts them, and what each of them computes.

    python -m tests.train.distributed.ranks OUT STEPS

writes `gradients-RANK.pt`, and with steps, after both stages were trained for as many, `trained-RANK.pt`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.distributed import ReductionOptions, gradient_buckets
from headrace.train.distributed.replicas import checksums, named_tensors
from headrace.train.stages import gpt_losses
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_inputs import RandomInputs, prepare_inputs
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import loop
from headrace.train.trainer.plateau import Plateau
from tests.helpers.gpt_steps import SMALL_GPT, gpt_stage, text_batch
from tests.helpers.sovits_steps import SMALL_SOVITS, sovits_stage, speech_batch
from tests.helpers.training_store import Silent

FRAMES = (21, 30, 17, 40, 25, 33, 28, 36)
SIZES = replace(SMALL_SOVITS, freeze_quantizer=True, p_dropout=0.0)
CUTS = {1: (0, 8), 2: (0, 3, 8), 3: (0, 3, 5, 8), 4: (0, 2, 3, 5, 8)}
"""Bounds of what each rank has of eight utterances. The last has three, so that it can split a batch."""
CASES: dict[str, dict[str, bool]] = {
    "overlapped": {},
    "not overlapped": {"overlap": False},
    "short of memory": {"short_of_memory": True},
}
CLOSE = 1e-6
"""Relative difference that the order of float32 sums over ranks makes."""
CLOSE_IN_PIECES = 5e-6
"""The same where batches were split otherwise, so that each utterance's gradient is rounded otherwise too."""
BUCKET_BYTES = 20_000
"""So small that a small network has several."""


def run_ranks(module: str, world: int, *arguments: object, timeout_s: float = 500) -> None:
    """Run a module in processes with the environment that torchrun gives them, and check that all end well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command, env={**os.environ, **at, "RANK": str(n), "LOCAL_RANK": str(n)}, stderr=subprocess.PIPE, text=True
        )
        for n in range(world)
    ]
    try:
        for process in processes:
            _, stderr = process.communicate(timeout=timeout_s)
            assert process.returncode == 0, stderr
    finally:
        for process in processes:
            process.kill()


@contextmanager
def out_of_memory(parameter: nn.Parameter) -> Iterator[list[int]]:
    """Once, when a backward pass has come to this parameter, there is no room. Counts how often it comes there."""
    came: list[int] = []

    def fail(_: Tensor) -> None:
        came.append(1)
        if len(came) == 1:
            raise torch.OutOfMemoryError("no room")

    handle = parameter.register_post_accumulate_grad_hook(fail)
    try:
        yield came
    finally:
        handle.remove()


def batches(whole: Batch, world: int, rank: int) -> list[Batch]:
    """What a rank has of eight utterances, in two batches where it can."""
    return whole.select(slice(*CUTS[world][rank : rank + 2])).split(2)


def gradients(*, overlap: bool = True, short_of_memory: bool = False, batches_of: int = 0) -> dict[str, Any]:
    """Gradients of all networks from the utterances of all ranks.

    Args:
        short_of_memory: on the last rank, the backward passes of generator and decoder do not fit at first.
        batches_of: number of ranks whose batches one process has, one after the other.
    """
    world, rank = distributed.world_size(), distributed.rank()
    speech, text = (
        [b for r in range(batches_of) for b in batches(whole, batches_of, r)] or batches(whole, world, rank)
        for whole in (speech_batch(FRAMES), text_batch([n // 2 + 3 for n in FRAMES]))
    )
    optim = SovitsOptimConfig(learning_rate=0.0)  # an updated discriminator would amplify the last bits
    sovits = sovits_stage(SIZES, optim, reduction=ReductionOptions(overlap=overlap))
    sovits.generator.eval()
    sovits.generator.quantizer.codebook.embed.copy_(torch.randn(8, 60, generator=seed(0)))
    gpt = gpt_stage(replace(SMALL_GPT, dropout=0.0), reduction=ReductionOptions(overlap=overlap))
    fails = short_of_memory and rank == world - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_buckets, "BUCKET_BYTES", BUCKET_BYTES)
        patch.setattr("headrace.train.stages.sovits_inputs.draw_random_inputs", lambda inputs, _: drawn(inputs))
        patch.setattr("headrace.train.stages.sovits_inputs.prepare_inputs", numbered)
        with out_of_memory(first_used(sovits)) as generator, out_of_memory(first_used(gpt)) as decoder:
            if not fails:
                generator.append(0), decoder.append(0)
            terms = sovits.step(speech) | gpt.step(text)
    if fails:
        assert len(generator) > 2 and sovits.microbatches.splits == gpt.microbatches.splits == 2
    networks = {"generator": sovits.generator, "discriminator": sovits.discriminator, "decoder": gpt.model}
    return {
        "terms": {name: float(value) for name, value in terms.items()},
        "gradients": {
            f"{name}.{path}": parameter.grad
            for name, network in networks.items()
            for path, parameter in network.named_parameters()
            if parameter.grad is not None
        },
        "buckets": [len(made._buckets) for made in (sovits._gradients_g, sovits._gradients_d, gpt._gradients)],
    }


def first_used(stage: SovitsStage | GptStage) -> nn.Parameter:
    """The parameter whose gradient comes last."""
    if isinstance(stage, GptStage):
        return stage.model.ar_text_embedding.word_embeddings.weight
    return next(stage.generator.ref_enc.parameters())


def numbered(batch: Batch, *rest: Any) -> Any:
    """The inputs of a batch, that know whose they are."""
    drawn.numbers = batch.numbers  # type: ignore[attr-defined]
    return prepare_inputs(batch, *rest)


def drawn(inputs: Any) -> RandomInputs:
    """Noise that an utterance has in whatever batch it is."""
    numbers, size = drawn.numbers, inputs.spec.shape[2]  # type: ignore[attr-defined]
    noise = torch.stack([torch.randn(SIZES.inter_channels, 64, generator=seed(n))[:, :size] for n in numbers])
    return RandomInputs(noise=noise, starts=torch.from_numpy(numbers % 5))


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(number))


def train(stage: str, store: Path, out: Path, steps: int) -> dict[str, Any]:
    """Train, while the last rank runs out of memory and gets a loss that is not a number, and batches grow."""
    stages: list[Any] = []
    stage_class: Any = SovitsStage if stage == "sovits" else GptStage
    step = stage_class.step

    def disturbed(self: Any, batches: list[Batch]) -> dict[str, Tensor]:
        stages.append(self)
        last, number = distributed.rank() == distributed.world_size() - 1, self.updates
        poison = last and number % 50 == 20
        if poison and stage == "sovits":
            batches[0].tensors["mfcc"][0] = torch.nan
        with pytest.MonkeyPatch.context() as patch, out_of_memory(first_used(self)) as came:
            if poison and stage == "gpt":
                likelihood = gpt_losses.log_likelihood
                patch.setattr(gpt_losses, "log_likelihood", lambda *given: likelihood(*given) * torch.nan)
            if not (last and number in (5, 60) and len(batches[0]) > self.microbatches.splits):
                came.append(0)
            return step(self, batches)

    config = RunConfig.from_options(
        store=store,
        out=out,
        stage=stage,
        preset="tiny",
        batch_frames=200,
        max_utterances=4,
        grad_accum=2,
        grow_batch=True,
        max_steps=steps,
        checkpoint_every=max(1, steps // 2),
        validate_every=max(1, steps // 8),
        check_weights_every=10,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient_buckets, "BUCKET_BYTES", BUCKET_BYTES)
        patch.setattr(stage_class, "step", disturbed)
        improve = Plateau.update
        patch.setattr(Plateau, "update", lambda self, at, loss: improve(self, at, loss if at < 120 else 1e9))
        observer = Silent()
        loop.start(config, observer)
    made = stages[-1]
    names, tensors = zip(*named_tensors(made.state_dict()), strict=True)
    return {
        "checksums": dict(zip(names, checksums(tensors).tolist(), strict=True)),
        "pieces": made.microbatches.splits,
        "skipped": [r["step"] for r in observer.records if r.get("skipped")],
        "batches": max((r["utterances"] for r in observer.records if r["split"] == "train"), default=0),
        "messages": observer.messages,
    }


def write_gradients(out: Path) -> None:
    """Write the gradients of this rank, overlapped and not, with memory enough and not."""
    made = {name: gradients(**case) for name, case in CASES.items()}
    torch.save(made, out / f"gradients-{distributed.rank()}.pt")


def compare_gradients(out: Path, world: int) -> dict[str, float]:
    """Compare the gradients of all ranks with those of one process that has the same batches.

    Returns:
        The norm of the difference relative to that of the gradient, by case and network.
    """
    want = gradients(batches_of=world)
    of_ranks = [torch.load(out / f"gradients-{rank}.pt", weights_only=True) for rank in range(world)]
    differences = {}
    for case, found in of_ranks[0].items():
        assert world == 1 or min(found["buckets"]) > 2
        assert found["terms"] == pytest.approx(want["terms"], rel=1e-5, abs=1e-6), case
        for network, difference in _differences(found["gradients"], want["gradients"]).items():
            differences[f"{case}, {network}"] = difference
        for other in of_ranks[1:]:
            assert_equal(other[case]["gradients"], found["gradients"])
    assert_equal(of_ranks[0]["overlapped"]["gradients"], of_ranks[0]["not overlapped"]["gradients"])
    return differences


def _differences(found: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == want.keys()
    flat: dict[str, list[list[Tensor]]] = {}
    for name, gradient in want.items():
        both = flat.setdefault(name.partition(".")[0], [[], []])
        both[0].append(found[name].double().flatten())
        both[1].append(gradient.double().flatten())
    pairs = {network: [torch.cat(parts) for parts in both] for network, both in flat.items()}
    return {network: float((one - other).norm() / other.norm()) for network, (one, other) in pairs.items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """To the last bit."""
    assert all(torch.equal(one[name], other[name]) for name in one)


def main(out: Path, steps: int) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    with distributed.process_group():
        write_gradients(out)
        if steps:
            trained = {stage: train(stage, out / "store", out / stage, steps) for stage in ("sovits", "gpt")}
            torch.save(trained, out / f"trained-{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
