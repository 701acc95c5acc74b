"""Decoders on processes that share them, with what a run may add to the loss, to the inputs and to the precision.

    python -m tests.train.distributed.divided_decoders OUT

writes `RANK.pt`: of each case and form the gradients and metrics of an update. Then it trains `OUT/tp-run` and
`OUT/pp-run`, which begin with the weights of `OUT/first` and speak by `OUT/voice`, and `OUT/turned`, which is begun
with whole models and continued with divided layers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from headrace.store.errors import RunError
from headrace.train import distributed
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.precision import Precision
from headrace.train.stages import pipeline
from headrace.train.stages.gpt_inputs import prepare_inputs
from headrace.train.stages.gpt_losses import SequenceCorruption
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.teachers import DecoderTeacher
from headrace.train.trainer import loop
from tests.helpers.gpt_steps import CPU, GPT_OPTIM, gpt_stage, text_batch
from tests.helpers.training_store import Silent
from tests.train.distributed.shared_models import DECODER, divides_layers, gradients_of, options_of

LAYERS = ("tp:2", "pp:2x3")
WHOLE_LOSS = ("tp:2", "fsdp")
"""Forms in which a process has the predictions of all layers."""
FP16_SCALE = 128.0
"""Of the loss: so small that no gradient overflows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a decoder is trained with."""

    forms: tuple[str, ...]
    precision: str = "fp32"
    bert: bool = False
    teacher: bool = False
    optim: tuple[str, ...] = ()
    """Options of updates that are on."""


CASES = {
    "plain": Case(forms=()),  # what rounding is measured against
    "preference and teacher": Case(forms=WHOLE_LOSS, teacher=True, optim=("dpo",)),
    "upstream's mask": Case(forms=WHOLE_LOSS, optim=("upstream_mask",)),
    "bert and activation checkpointing": Case(forms=LAYERS, bert=True, optim=("activation_checkpointing",)),
    "bf16": Case(forms=LAYERS, precision="bf16"),
    "bf16 and activation checkpointing": Case(forms=LAYERS, precision="bf16", optim=("activation_checkpointing",)),
    "fp16": Case(forms=LAYERS, precision="fp16"),
}


def update(name: str, form: str) -> dict[str, Any]:
    """Gradients and metrics of an update, and how often it passes through layers."""
    gpt = _stage(CASES[name], form)
    passed: list[object] = []
    for layer in gpt.model.h.layers:
        layer.register_forward_pre_hook(lambda *_: passed.append(None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequenceCorruption, "sample", _corrupted)
        terms = gpt.step(_own_batches(form, bert=CASES[name].bert))
    gradients = gradients_of(gpt.model, gpt._gradients)
    return {
        "terms": {name: float(value) for name, value in terms.items()},
        "gradients": {f"decoder.{name}": gradient.clone() for name, gradient in gradients.items()},
        "passed": len(passed),
    }


def stages_by_other_costs() -> list[int]:
    """Layers of the first stage, where each process has measured other costs."""
    costs = [5.0, 1.0, 1.0, 1.0] if distributed.rank() == 0 else [1.0, 1.0, 1.0, 5.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "layer_costs", lambda _: costs)
        gradients = _stage(CASES["plain"], "pp:2x3")._gradients
    assert isinstance(gradients, pipeline.PipelinedDecoder)
    return list(gradients.layers[0])


def rounded_on_the_way() -> dict[str, Tensor]:
    """Gradients of an update that processes which share a model send in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SequenceCorruption, "sample", _corrupted)
        gpt = _stage(CASES["plain"], "fsdp", torch.bfloat16)
        gpt.step(_own_batches("fsdp"))
    return {f"decoder.{name}": value.clone() for name, value in gradients_of(gpt.model, gpt._gradients).items()}


def kept_in_parts() -> bool:
    """Whether layers that were gathered for a pass are given up after it."""
    gpt = _stage(CASES["plain"], "fsdp")
    likelihood, _ = gpt._likelihood(prepare_inputs(_own_batches("fsdp")[0]))
    likelihood.sum().backward()
    likelihood, _ = gpt._likelihood(prepare_inputs(_own_batches("fsdp")[0]))
    return all(isinstance(parameter, DTensor) for parameter in gpt.model.h.layers.parameters())


def _stage(case: Case, form: str, dtype: torch.dtype = torch.float32) -> GptStage:
    torch.manual_seed(5)
    network = Text2SemanticDecoder(replace(DECODER, layers=3)).eval().requires_grad_(False)
    teacher = DecoderTeacher(network) if case.teacher else None
    optim = replace(GPT_OPTIM, **dict.fromkeys(case.optim, True))
    gpt = gpt_stage(DECODER, optim, bert=case.bert, reduction=replace(options_of(form), dtype=dtype), teacher=teacher)
    gpt.precision = Precision(case.precision, "simulated", CPU)
    gpt.precision.scaler = torch.amp.GradScaler("cpu", FP16_SCALE, enabled=case.precision == "fp16")
    gpt.allocate()
    return gpt


def _own_batches(form: str, *, bert: bool = False) -> list[Batch]:
    """Two batches, or the one of them that this rank reads."""
    torch.manual_seed(3)
    both = [text_batch(lengths, seed, bert) for seed, lengths in enumerate(([6, 9, 11, 8], [14, 20, 17, 9, 12]))]
    alone = distributed.world_size() == 1 or divides_layers(form)
    return both if alone else [both[distributed.rank()]]


def _corrupted(codes_n_B: Tensor, size: int, sample: Any = SequenceCorruption.sample) -> SequenceCorruption:
    """A corruption that follows from the batch, whoever reads it."""
    with torch.random.fork_rng([]):
        torch.manual_seed(int(codes_n_B.sum()))
        return sample(codes_n_B, size)


def out_of_memory(form: str) -> str:
    """What is said when the prediction does not fit, which the last process computes; on others nothing."""
    gpt = _stage(CASES["plain"], form)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text2SemanticDecoder, "predict", fail)
        try:
            gpt.step(_own_batches(form))
        except RunError as error:
            return error.message
        except RuntimeError:  # the other process has gone
            return ""
    raise AssertionError("it fits")


def config(out: Path, name: str, **options: Any) -> RunConfig:
    """A run that begins with given weights, and speaks at its validations."""
    given: dict[str, Any] = {"init": out / "first", "voice": out / "voice", "samples": 1, "validate_every": 2}
    return RunConfig.from_options(
        store=out / "store",
        out=out / name,
        stage="gpt",
        preset="tiny",
        batch_frames=200,
        max_utterances=4,
        grad_accum=2,
        max_steps=2,
        checkpoint_every=100,
        device="cpu",
        **given | options,
    )


OF_TP: dict[str, Any] = {"dpo": True, "activation_checkpointing": True}
"""Options of the run whose layers are cut, beside a teacher."""


def turned(out: Path) -> Tensor:
    """Begin a run with dropout in whole models, and continue it in divided ones. Returns the random state of this rank
    at its end."""
    plain = {"init": None, "voice": None, "samples": None, "validate_every": 0, "dropout": 0.2, "dpo": True}
    loop.start(config(out, "turned", **plain).with_options(max_steps=1), Silent())
    loop.resume(out / "turned", {"parallel": "tp:2", "max_steps": 3}, Silent())
    return torch.get_rng_state()


def main(out: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    with distributed.process_group():
        found: dict[str, Any] = {f"{name}, {form}": update(name, form) for name in CASES for form in CASES[name].forms}
        loop.start(config(out, "tp-run", parallel="tp:2", teacher=out / "first", **OF_TP), Silent())
        loop.start(config(out, "pp-run", parallel="pp:2x3"), Silent())
        found["random"] = turned(out)
        found |= {"stage": stages_by_other_costs(), "rounded": rounded_on_the_way(), "in parts": kept_in_parts()}
        found["message"] = out_of_memory("pp:2x3")
        torch.save(found, out / f"{distributed.rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
