"""Processes that share a model, and what each of them computes.

    python -m tests.train.distributed.shared_models OUT STEPS FORM...

writes `FORM-RANK.pt` for each form: gradients of an update as a whole network has them, what an update with an
infinite gradient changes, and the state after STEPS more updates. Where OUT has a store, it then trains
`OUT/STAGE-whole` as data parallel, and `OUT/STAGE-across` by one form after the other, each of which the next resumes.

FORM is of `--parallel`, or one with a schedule: `pp:2x4-gpipe`. Forms of layers are for gpt alone, and runs are not
trained whole beside them: one process would read what their ranks read together.
"""

from __future__ import annotations

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
from headrace.train.distributed import NetworkInParts, ReductionOptions, replicas
from headrace.train.parallel_form import parse_form
from headrace.train.precision import Precision
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import loop
from tests.helpers.gpt_steps import CPU, SMALL_GPT, gpt_stage, text_batch
from tests.helpers.sovits_steps import sovits_stage, speech_batch
from tests.helpers.training_store import Silent
from tests.train.distributed.ranks import FRAMES, SIZES, batches, drawn, numbered, seed

STEPS_RATE = 1e-4
"""Learning rate of sovits in a run of some steps: discriminators amplify the last bits of larger ones."""
PIECES = 2
"""Pieces of each batch: of the first rank's, which are smaller, fewer come than of the others'."""


DECODER = replace(SMALL_GPT, dropout=0.0, layers=4)
"""Of so many layers that two processes can have two groups of them each."""


def options_of(form: str) -> ReductionOptions:
    """The options of a form, which may have a schedule."""
    parallel, _, schedule = form.partition("-")
    return ReductionOptions(form=replace(parse_form(parallel), schedule=schedule or "1f1b"))


def divides_layers(form: str) -> bool:
    """Whether ranks compute parts of the same utterances."""
    return options_of(form).form.readers_share > 1


def decoder(form: str) -> GptStage:
    """A decoder in training whose weights are always the same, allocated."""
    gpt = gpt_stage(DECODER, reduction=options_of(form))
    gpt.allocate()
    gpt.microbatches.splits = PIECES if distributed.world_size() > 1 else 1
    return gpt


def speaker(form: str, rate: float) -> SovitsStage:
    """SoVITS in training whose weights are always the same, allocated."""
    sovits = sovits_stage(SIZES, SovitsOptimConfig(learning_rate=rate), reduction=options_of(form))
    sovits.generator.eval()
    sovits.generator.quantizer.codebook.embed.copy_(torch.randn(8, 60, generator=seed(0)))
    sovits.allocate()
    sovits.microbatches.splits = PIECES if distributed.world_size() > 1 else 1
    return sovits


def own_batches(whole: Batch, form: str, processes: int) -> list[Batch]:
    """The batches of this rank; of all of them in one process."""
    world, together = distributed.world_size(), options_of(form).form.readers_share
    if world == 1:
        return [batch for rank in range(processes) for batch in batches(whole, processes, rank)]
    return batches(whole, world // together, distributed.rank() // together)


def speech(form: str, processes: int) -> list[Batch]:
    """Batches for sovits."""
    return own_batches(speech_batch(FRAMES), form, processes)


def text(form: str, processes: int) -> list[Batch]:
    """Batches for gpt."""
    return own_batches(text_batch([n // 2 + 3 for n in FRAMES]), form, processes)


@contextmanager
def known_noise() -> Iterator[None]:
    """An utterance has the same noise in whatever batch it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.train.stages.sovits_inputs.draw_random_inputs", lambda inputs, _: drawn(inputs))
        patch.setattr("headrace.train.stages.sovits_inputs.prepare_inputs", numbered)
        yield


def gradients_of(network: Any, gradients: Any) -> dict[str, Tensor]:
    """The gradients of a network, each as a whole."""
    if isinstance(gradients, NetworkInParts):
        return gradients.gradients()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def gradients(form: str, processes: int) -> dict[str, Any]:
    """Gradients and metrics of an update of each stage. Rates are 0, so that discriminators stay as they are."""
    gpt = decoder(form)
    terms = gpt.step(text(form, processes))
    networks = {"decoder": gradients_of(gpt.model, gpt._gradients)}
    if not divides_layers(form):
        sovits = speaker(form, 0.0)
        with known_noise():
            terms |= sovits.step(speech(form, processes))
        networks |= {
            "generator": gradients_of(sovits.generator, sovits._gradients_g),
            "discriminator": gradients_of(sovits.discriminator, sovits._gradients_d),
        }
    return {
        "terms": {name: float(value) for name, value in terms.items()},
        "gradients": {f"{name}.{path}": of[path] for name, of in networks.items() for path in of},
    }


def infinite(form: str, processes: int) -> dict[str, Any]:
    """An update in float16's way, in which one element of a gradient is infinite: in the last part of each copy.

    Returns:
        Whether weights stayed as they were, and the loss scale after it.
    """
    gpt = gpt_stage(DECODER, reduction=options_of(form))
    gpt.precision = Precision("fp16", "simulated", CPU, fp32_steps=1000)
    gpt.allocate()
    before = gpt.held_state()[1]
    before = {name: value.clone() for name, value in named(before)}
    finish, parts = gpt._gradients.finish, options_of(form).form.sizes(distributed.world_size())[1]

    def spoil() -> None:
        finish()
        if not isinstance(gpt._gradients, NetworkInParts) or gpt._gradients.part == parts - 1:
            parameters = [p for group in gpt.optimizer.param_groups for p in group["params"]]
            next(p for p in parameters if p.grad is not None and p.numel()).grad.view(-1)[0] = torch.inf

    gpt._gradients.finish = spoil  # type: ignore[method-assign]
    result = gpt.step(text(form, processes))
    after = dict(named(gpt.held_state()[1]))
    unchanged = all(torch.equal(before[name], after[name]) for name in before if "parts" in name or "model" in name)
    return {"unchanged": unchanged, "skipped": float(result["skipped"]), "scale": gpt.precision.scaler.get_scale()}


def named(state: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state by name."""
    return replicas.named_tensors(state)


def after_steps(form: str, processes: int, steps: int, seed: int | None = None) -> dict[str, Any]:
    """The states of both stages after some updates, as a checkpoint has them.

    Args:
        seed: of changes of the first weights in their last bit, for a single process.
    """
    of_gpt = decoder_after_steps(processes, steps, form, seed)
    if divides_layers(form):
        return of_gpt
    sovits = speaker(form, STEPS_RATE)
    shake(sovits.generator, seed)
    shake(sovits.discriminator, seed)
    with known_noise():
        for _ in range(steps):
            sovits.step(speech(form, processes))
    return {"sovits": sovits.state_dict(), **of_gpt}


def decoder_after_steps(processes: int, steps: int, form: str = "dp", seed: int | None = None) -> dict[str, Any]:
    """The state of gpt after some updates."""
    gpt = decoder(form)
    shake(gpt.model, seed)
    for _ in range(steps):
        gpt.step(text(form, processes))
    return {"gpt": gpt.state_dict()}


@torch.no_grad()
def shake(network: nn.Module, seed: int | None) -> None:
    """Add or subtract what is one bit of a weight at most; nothing without a seed."""
    if seed is not None:
        random = torch.Generator().manual_seed(seed)
        for parameter in network.parameters():
            parameter.mul_(1 + 2.0**-23 * torch.randint(-1, 2, parameter.shape, generator=random))


def config(stage: str, store: Path, out: Path) -> RunConfig:
    """A run that uses all that goes on beside steps."""
    return RunConfig.from_options(
        store=store,
        out=out,
        stage=stage,
        preset="tiny",
        batch_frames=200,
        max_utterances=4,
        grad_accum=2,
        max_grad_norm=5.0,
        microbatches=PIECES,
        checkpoint_every=100,
        validate_every=2,
        activation_checkpointing=True,
        device="cpu",
        check_weights_every=2,
        samples=1 if stage == "sovits" else None,
    )


def train_across(stage: str, out: Path, forms: list[str]) -> dict[str, Any]:
    """Train a run whole, and another one by one form after the other, two steps each. Returns records of the latter."""
    whole, across = (config(stage, out / "store", out / f"{stage}-{name}") for name in ("whole", "across"))
    layers = divides_layers(forms[0])
    turns = [*forms, *([] if layers else ["dp"]), forms[0]]
    if not layers:
        loop.start(whole.with_options(max_steps=2 * len(turns)), Silent())
    observer = Silent()
    for number, form in enumerate(turns, 1):
        parallel, _, schedule = form.partition("-")
        options = {"parallel": parallel, "pipeline_schedule": schedule or "1f1b", "max_steps": 2 * number}
        if number == 1:
            loop.start(across.with_options(**options), observer)
        else:
            loop.resume(across.out, options, observer)
    return {"records": observer.records, "messages": observer.messages}


def compute(form: str, processes: int, steps: int) -> dict[str, Any]:
    """All that is compared."""
    found = {"update": gradients(form, processes), "infinite": infinite(form, processes)}
    return found | ({"after": after_steps(form, processes, steps)} if steps else {})


def main(out: Path, steps: int, forms: list[str]) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    with distributed.process_group():
        for form in forms:
            torch.save(compute(form, distributed.world_size(), steps), out / f"{form}-{distributed.rank()}.pt")
        if (out / "store").exists():
            both = steps and not divides_layers(forms[0])
            trained = {stage: train_across(stage, out, forms) for stage in (("sovits", "gpt") if both else ("gpt",))}
            torch.save(trained, out / f"trained-{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
