"""Updates: microbatches, gradient accumulation, warm-up, clipping, codes instead of content; and the handling of
utterances that make gradients infinite or NaN."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.store.errors import RunError
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.config import RunConfig
from headrace.train.data.batch import Batch
from headrace.train.distributed.replicas import named_tensors
from headrace.train.precision import Precision
from headrace.train.stages import gpt_losses
from headrace.train.stages.microbatch import MicrobatchRunner
from headrace.train.stages.sovits_inputs import Microbatch, RandomInputs, draw_random_inputs, prepare_inputs
from headrace.train.stages.sovits_losses import SovitsLosses
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import loop
from headrace.train.trainer.plateau import Plateau
from headrace.train.trainer.quarantine import Quarantine
from tests.helpers.gpt_steps import gpt_stage, text_batch
from tests.helpers.runs import assert_same
from tests.helpers.sovits_steps import CPU, SMALL_SOVITS, copy_state, sovits_stage, speech_batch
from tests.helpers.training_store import Silent, build

FROZEN = replace(SMALL_SOVITS, freeze_quantizer=True, p_dropout=0.0)


def rows(drawn: RandomInputs, start: int, stop: int) -> RandomInputs:
    return RandomInputs(noise=drawn.noise[start:stop], starts=drawn.starts[start:stop])


def codebook_of(content: Tensor, into: SovitsStage) -> None:
    """Set the entries to some of the vectors to be quantised, so that each entry is used."""
    projected = into.generator.ssl_proj(content).mT.flatten(0, 1).detach()
    into.generator.quantizer.codebook.embed.copy_(projected[:: len(projected) // 8][:8])


def test_codes_train_like_the_content_they_quantise() -> None:
    """To the last bit, dropout included; the utterances are of odd and even length."""
    batch = speech_batch([21, 30, 17, 8])
    by_content = sovits_stage(replace(SMALL_SOVITS, freeze_quantizer=True))
    content = prepare_inputs(batch, by_content.spectral, by_content.config).content
    codebook_of(content, by_content)
    mask = (torch.arange(content.shape[2]) < batch.frames[:, None])[:, None]
    _, codes, _ = by_content.generator.quantise(content, mask)
    assert len(codes.unique()) > 3
    tokens_n = (batch.frames + 1) // 2
    kept = codes[:, : int(tokens_n.max())] * (torch.arange(int(tokens_n.max())) < tokens_n[:, None])
    tensors = {name: tensor for name, tensor in batch.tensors.items() if name != "mfcc"}
    coded = replace(batch, tokens_n=tokens_n, tensors=tensors | {"semantic": kept.to(torch.int16)})

    by_codes = SovitsStage(
        by_content.config,
        by_content.spectral,
        precision=Precision.choose("fp32", CPU),
        device=CPU,
        optim=by_content.optim,
        content="semantic",
    )
    assert by_codes.features == ("wave", "semantic", "phones")
    by_codes.load_state_dict(by_content.state_dict())
    terms = []
    for made, of in ((by_content, batch), (by_codes, coded)):
        torch.manual_seed(3)
        terms.append([{name: float(value) for name, value in made.step([of]).items()} for _ in range(3)])
    assert terms[0] == terms[1] and terms[0][0]["loss_commit"] == 0
    for one, other in zip(
        copy_state(by_content.generator).values(), copy_state(by_codes.generator).values(), strict=True
    ):
        assert torch.equal(one, other)


def gradients(of: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in of.parameters() if p.grad is not None])


def assert_like(made: Tensor, want: Tensor) -> None:
    assert float((made - want).norm() / want.norm()) < 1e-4


def test_microbatches_give_the_same_update() -> None:
    batch = speech_batch([21, 30, 17, 8])
    whole, parts = sovits_stage(FROZEN), sovits_stage(FROZEN)
    for made in (whole, parts):
        made.generator.eval()  # no dropout
    inputs = prepare_inputs(batch, whole.spectral, FROZEN)
    codebook_of(inputs.content, whole)
    parts.load_state_dict(whole.state_dict())
    drawn = draw_random_inputs(inputs, FROZEN)
    want = whole.update([Microbatch(inputs=inputs, random=drawn)])
    frames = batch.frames.float()
    cut = [
        Microbatch(
            inputs=type(inputs)(
                **{
                    field.name: None if (value := getattr(inputs, field.name)) is None else value[start:stop]
                    for field in dataclasses.fields(inputs)
                }
            ),
            random=rows(drawn, start, stop),
            utterance_share=(stop - start) / 4,
            frame_share=frames[start:stop].sum() / frames.sum(),
        )
        for start, stop in ((0, 1), (1, 4))
    ]
    made = parts.update(cut)
    for name in want:
        assert float(made[name]) == pytest.approx(float(want[name]), rel=1e-4, abs=1e-6), name
    assert_like(gradients(parts.generator), gradients(whole.generator))
    assert_like(gradients(parts.discriminator), gradients(whole.discriminator))


def test_running_out_of_memory_halves_microbatches_and_completes_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the generator's half of a step: the discriminator is not updated a second time."""
    made, sizes, updates = sovits_stage(FROZEN), [], []
    losses, update = made.losses.generator_losses, made._update_discriminator

    def out_of_memory(discriminator: Any, microbatch: Microbatch, *rest: Any) -> dict[str, Tensor]:
        sizes.append(len(microbatch.inputs.frames))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("no room")
        return losses(discriminator, microbatch, *rest)

    monkeypatch.setattr(made.losses, "generator_losses", out_of_memory)
    monkeypatch.setattr(made, "_update_discriminator", lambda *given: updates.append(1) or update(*given))
    metrics = made.step([speech_batch([21, 30, 17])])
    assert sizes == [3, 1, 2, 1, 1, 1] or sizes == [3, 2, 1, 1, 1]
    assert len(updates) == 1 and made.microbatches.splits == 4
    assert all(np.isfinite(float(value)) for value in metrics.values()) and metrics["skipped"] == 0
    made.step([speech_batch([21, 30])])
    assert sizes[-2:] == [1, 1]


def test_a_single_utterance_that_does_not_fit_is_an_error() -> None:
    def out_of_memory(microbatches: list[Batch]) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(RunError, match="An utterance of 40 frames does not fit"):
        MicrobatchRunner().run([speech_batch([40, 21])], out_of_memory)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_splits_hold_every_utterance_once(count: int) -> None:
    splits = speech_batch([5, 6, 7, 8, 9]).split(count)
    assert len(splits) == min(count, 5)
    assert np.concatenate([split.numbers for split in splits]).tolist() == [0, 1, 2, 3, 4]
    assert max(map(len, splits)) - min(map(len, splits)) <= 1


def test_activation_checkpointing_is_bit_identical_and_saves_less() -> None:
    batch, kept, states = speech_batch([60, 60]), [], []
    for checkpointing in (False, True):
        made = sovits_stage(replace(FROZEN, activation_checkpointing=checkpointing, posterior_layers=8))
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.nbytes
            return tensor

        inputs = prepare_inputs(batch, made.spectral, made.config)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            microbatch = Microbatch(inputs=inputs, random=draw_random_inputs(inputs, made.config))
            made.losses.synthesise(made.generator, microbatch)
        kept.append(size)
        torch.manual_seed(0)
        made.step([batch])
        states.append(copy_state(made.generator))
    assert kept[1] < 0.6 * kept[0]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_learning_rates_warm_up() -> None:
    optim = SovitsOptimConfig(learning_rate=1.0, decay_per_epoch=0.5, warmup_steps=4)
    made, rates = sovits_stage(optim=optim), []
    for _ in range(6):
        rates.append(made.learning_rate)
        made.updates += 1
        made._set_rates()
    assert rates == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_gradients_are_clipped_at_max_grad_norm() -> None:
    made = sovits_stage(FROZEN, SovitsOptimConfig(learning_rate=1e-3, max_grad_norm=0.5))
    norms = made.step([speech_batch([21, 30])])
    for norm, network in (("grad_norm_g", made.generator), ("grad_norm_d", made.discriminator)):
        assert float(norms[norm]) > 0.5  # what is reported is what there was
        assert float(gradients(network).norm()) == pytest.approx(0.5, rel=1e-3)


def test_exploding_gradients_are_scaled_to_the_usual_norm() -> None:
    weight = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    precision = Precision.choose("fp32", CPU)
    found = []
    for size in (float("inf"), 2.0, 2.0, 50.0, 2000.0, 2.0):
        weight.data.zero_()
        weight.grad = torch.tensor([size, 0, 0, 0])
        norm, skipped, exploded = precision.step(optimizer, 0.0)
        assert float(norm) == size
        found.append((bool(skipped), bool(exploded), -float(weight.detach()[0])))
    usual = 2 * 25**0.1  # of logarithms, a tenth each
    assert [row[:2] for row in found[1:]] == [(False, False)] * 3 + [(False, True), (False, False)]
    assert found[0] == (True, False, 0)
    assert [row[2] for row in found[1:]] == pytest.approx([2, 2, 50, usual, 2], rel=1e-4)


def test_half_precision_begins_after_the_first_steps() -> None:
    precision = Precision.choose("bf16", CPU, 3)
    assert [halved(precision, step) for step in range(5)] == [False, False, False, True, True]
    assert Precision("fp16", "", CPU, 500).fp32_steps == 500
    assert Precision.choose("bf16", CPU).fp32_steps == 0
    assert not Precision.choose("fp32", CPU, 3).is_half


def halved(precision: Precision, step: int) -> bool:
    precision.step_number = step
    with precision.autocast():
        dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert (dtype == torch.bfloat16) == precision.is_half
    return precision.is_half


def test_a_plateau_grows_batches_up_to_the_limit() -> None:
    plateau = Plateau()
    for step, loss in enumerate([5.0, 4.0, 4.5, 4.2]):
        plateau.update(step, loss)
    assert (plateau.best, plateau.best_step, plateau.since) == (4.0, 1, 2)
    assert plateau.grow() and (plateau.growth, plateau.since) == (2, 0)
    assert not plateau.grow()
    for step in range(4, 8):
        plateau.update(step, float("nan"))
    assert plateau.grow() and plateau.growth == 4
    plateau.update(8, 3.0)
    assert (plateau.best_step, plateau.since) == (8, 0)
    for step in range(9, 14):
        plateau.update(step, 3.0)
    assert not plateau.grow() and plateau.since == 5
    assert Plateau(**plateau.to_json()) == plateau


class TestOwnGradients:
    """A finite loss may have a gradient that is not."""

    @pytest.mark.parametrize("stage", ["sovits", "gpt"])
    def test_the_search_changes_nothing(self, stage: str) -> None:
        made: Any = sovits_stage() if stage == "sovits" else gpt_stage()
        batch = speech_batch([21, 30]) if stage == "sovits" else text_batch([12, 30])
        made.step([batch])
        before, random = copy.deepcopy(made.state_dict()), torch.get_rng_state()
        networks = [made.generator, made.discriminator] if stage == "sovits" else [made.model]
        kept = [copy.deepcopy([p.grad for p in network.parameters()]) for network in networks]
        norms = made.gradient_norms(batch)
        assert len(norms) == len(networks) and all(float(norm) > 0 for norm in norms)
        assert_same(made.state_dict(), before)
        assert torch.equal(torch.get_rng_state(), random) and all(network.training for network in networks)
        for network, gradients_before in zip(networks, kept, strict=True):
            assert_same([p.grad for p in network.parameters()], gradients_before)

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_the_utterance_is_named_and_left_out(self, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
        """The one of 30 codes. The others are not: not in float16 either, where the loss scale may be why."""
        likelihood = gpt_losses.log_likelihood

        def poisoned(logits: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
            added = torch.zeros(len(logits))
            if (chosen := counted.sum(1) == 31).any():
                added[chosen] = (logits[chosen].float().sum() * 0).sqrt()  # 0, whose derivative is infinite
            return likelihood(logits, targets, counted) + added

        monkeypatch.setattr(gpt_losses, "log_likelihood", poisoned)
        made, quarantine = gpt_stage(), Quarantine(np.array(["a", "b", "c"]))
        if precision == "fp16":
            made.precision = Precision("fp16", "", CPU)
        batch = text_batch([12, 30, 17])
        for failures in (1, 2):
            terms = {name: float(value) for name, value in made.step([batch]).items()}
            assert terms["skipped"] and np.isfinite(terms["loss"])
            lines = quarantine.record_failure(made, [batch], terms, CPU)
            assert lines[0].endswith("because of b") and quarantine.to_json() == {"1": failures}
        assert lines[1] == "quarantined, no longer trained on: b"
        left = quarantine.without_quarantined(batch)
        assert left.numbers.tolist() == [0, 2]
        if precision == "fp32":
            assert not made.step([left])["skipped"]


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_state_that_is_allocated_at_the_start_is_that_of_the_first_step(stage: str) -> None:
    ends, sizes = [], []
    for early in (False, True):
        made: Any = sovits_stage(FROZEN) if stage == "sovits" else gpt_stage()
        if early:
            made.allocate()
            sizes.append(sum(tensor.nbytes for _, tensor in named_tensors(made.state_dict())))
        torch.manual_seed(0)
        for _ in range(2):
            made.step([speech_batch([21, 30]) if stage == "sovits" else text_batch([12, 30])])
        ends.append(made.state_dict())
    assert_same(*ends)
    usual_norms = 8 if stage == "sovits" else 4  # of the optimisers, which the first step measures
    assert sizes[0] == sum(tensor.nbytes for _, tensor in named_tensors(ends[0])) - usual_norms


def test_an_update_that_does_not_fit_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are there, so other ranks may have made it."""
    made, calls = gpt_stage(), []

    def out_of_memory(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(made.optimizer, "step", out_of_memory)
    with pytest.raises(RunError, match="An update of the weights does not fit into the device's memory"):
        made.step([text_batch([12, 30])])
    assert calls == [1] and made.microbatches.splits == 1


class TestQuarantine:
    def test_it_survives_a_checkpoint(self) -> None:
        quarantine = Quarantine(np.array(["a", "b", "c"]), {"1": 2, "2": 1})
        assert quarantine.quarantined == [1]
        assert quarantine.to_json() == {"1": 2, "2": 1}

    def test_updates_that_no_utterance_explains_count_against_none(self) -> None:
        quarantine, made = Quarantine(np.array(["a", "b", "c"])), sovits_stage(FROZEN)
        for _ in range(4):
            (line,) = quarantine.record_failure(made, [speech_batch([20, 21, 22])], {"loss": float("nan")}, CPU)
            assert line.startswith("gradients are not finite") and line.endswith("a, b, c")
        assert quarantine.quarantined == [] and quarantine.to_json() == {}

    def test_the_search_halves_batches_and_leaves_out_what_does_not_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of seven, the third and the last are not finite; three do not fit together, and the sixth not by itself."""
        quarantine, made, sizes = Quarantine(np.array(list("abcdefg"))), sovits_stage(FROZEN), list[int]()

        def validate(batch: Batch) -> dict[str, Tensor]:
            sizes.append(len(batch))
            if len(batch) > 2 or 5 in batch.numbers:
                raise torch.OutOfMemoryError("no room")
            return {"loss": torch.tensor(float("nan") if {2, 6} & set(batch.numbers.tolist()) else 1.0)}

        monkeypatch.setattr(made, "validate", validate)
        batches = [speech_batch([20] * 7), speech_batch([20] * 2)]
        (line,) = quarantine.record_failure(made, batches, {"loss": float("nan")}, CPU)
        assert line.endswith("because of c, g") and quarantine.to_json() == {"2": 1, "6": 1}
        assert sizes == [7, 3, 1, 2, 1, 1, 4, 2, 2, 1, 1, 2]

    def test_quarantined_utterances_leave_their_batches(self) -> None:
        quarantine = Quarantine(np.array(["a", "b", "c"]), {"1": 2})
        batch = speech_batch([5, 6, 7])
        left = quarantine.without_quarantined(batch)
        assert left.numbers.tolist() == [0, 2] and left.frames.tolist() == [5, 7]
        alone = batch.select(slice(1, 2))
        assert quarantine.without_quarantined(alone) is alone


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    store = build(tmp_path_factory.mktemp("updates") / "store").path
    return RunConfig.from_options(
        store=store,
        out=Path("nowhere"),
        preset="tiny",
        batch_frames=300,
        max_utterances=4,
        max_steps=16,
        checkpoint_every=100,
        validate_every=0,
    )


NOISE = 0.1
"""Relative difference of final losses of runs with other seeds: they range from 52 to 57."""


def final_loss(observer: Silent) -> float:
    """Return the mean of the last losses."""
    assert observer.begun is not None
    return float(np.mean([r[observer.begun[2][0]] for r in observer.records][-5:]))


def go(config: RunConfig, out: Path, **changes: Any) -> tuple[dict[str, Any], Silent]:
    observer = Silent()
    summary = loop.start(config.with_options(out=out, **changes), observer)
    assert summary is not None
    return summary, observer


def test_batches_of_an_update_are_counted_together_and_none_is_lost(config: RunConfig, tmp_path: Path) -> None:
    _, one = go(config, tmp_path / "one", max_steps=0, max_epochs=1)
    _, three = go(config, tmp_path / "three", grad_accum=3, max_steps=0, max_epochs=1)
    assert sum(r["utterances"] for r in three.records) == sum(r["utterances"] for r in one.records) == 19
    assert len(three.records) == -(-len(one.records) // 3)
    assert three.records[-1]["utterances"] < three.records[0]["utterances"]


def test_growing_and_stopping_early(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SovitsStage, "validate", lambda self, batch: {"loss_mel": torch.tensor(1.0)})
    summary, observer = go(config, tmp_path / "run", validate_every=1, grow_batch=True, patience=3)
    assert summary["steps"] == 1 + 2 + 2 + 3 < config.schedule.max_steps
    assert "validation no longer improves: updates of 2 times as many batches" in observer.messages
    assert observer.messages[-1] == "stopping: no validation since step 1 was better"
    sizes = [r["utterances"] for r in observer.records if r["split"] == "train"]
    assert max(sizes) > 4 >= max(sizes[:3])


def test_the_best_checkpoint_is_kept(config: RunConfig, tmp_path: Path, monkeypatch: Any) -> None:
    losses = iter([3.0, 1.0, *[2.0] * 9])
    monkeypatch.setattr(SovitsStage, "validate", lambda self, batch: {"loss_mel": torch.tensor(next(losses))})
    go(config, tmp_path / "run", validate_every=1, checkpoint_every=1, max_steps=8)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [2, 6, 7, 8]


@pytest.fixture(scope="module")
def healthy(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("healthy")
    return {stage: final_loss(go(config, out / stage, stage=stage)[1]) for stage in ("sovits", "gpt")}


def test_a_profile_is_written(config: RunConfig, tmp_path: Path) -> None:
    _, observer = go(config, tmp_path / "run", profile=2, max_steps=6, stage="gpt")
    assert "aten::" in (tmp_path / "run" / "profile.txt").read_text()
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())
    assert any(event.get("name", "").startswith("aten::") for event in trace["traceEvents"])
    assert any(line.startswith("profile of 2 steps: ") for line in observer.messages)


class TestBadUpdates:
    """Each bad update is reported, and the final loss is that of a run without it."""

    def test_an_utterance_of_nan_is_quarantined(
        self, config: RunConfig, healthy: dict[str, float], tmp_path: Path
    ) -> None:
        poisoned = build(tmp_path / "store", poisoned=(7,)).path
        summary, observer = go(config, tmp_path / "run", store=poisoned)
        skipped = [r for r in observer.records if r["skipped"]]
        assert len(skipped) == summary["skipped"] == 2
        assert all("utt7" in r["left_out"] and len(r["left_out"]) > 1 for r in skipped)
        first = f"step {skipped[0]['step']}: gradients are not finite, the update is left out: because of utt7"
        assert first in observer.messages
        assert observer.messages[-1] == f"step {skipped[1]['step']}: quarantined, no longer trained on: utt7"
        assert summary["quarantined"] == ["utt7"]
        assert final_loss(observer) == pytest.approx(healthy["sovits"], rel=NOISE)
        again = Silent()
        loop.resume(tmp_path / "run", {"max_steps": 20}, again)
        assert not any(r["skipped"] for r in again.records)

    def test_an_infinite_loss_skips_the_update(
        self, config: RunConfig, healthy: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mel_loss, calls = SovitsLosses.mel_loss, iter(range(10_000))
        monkeypatch.setattr(
            SovitsLosses, "mel_loss", lambda self, *mels: mel_loss(self, *mels) * (1e38 if next(calls) == 4 else 1)
        )
        summary, observer = go(config, tmp_path / "run")
        (skipped,) = [r for r in observer.records if r["skipped"]]
        assert skipped["step"] == 5
        (message,) = [line for line in observer.messages if "gradients are not finite" in line]
        assert message.startswith("step 5: ") and all(name in message for name in skipped["left_out"])
        assert summary["quarantined"] == [] and summary["skipped"] == 1
        assert final_loss(observer) == pytest.approx(healthy["sovits"], rel=NOISE)

    def test_exploding_finite_gradients_are_scaled_down(
        self, config: RunConfig, healthy: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without scaling down, the final loss is 69 instead of 53, and nothing is reported."""
        mel_loss, calls = SovitsLosses.mel_loss, iter(range(10_000))
        monkeypatch.setattr(
            SovitsLosses, "mel_loss", lambda self, *mels: mel_loss(self, *mels) * (1e3 if next(calls) == 4 else 1)
        )
        summary, observer = go(config, tmp_path / "run")
        (large,) = [r for r in observer.records if r["exploded"]]
        assert large["step"] == 5 and large["loss_mel"] > 1e4 and not large["skipped"]
        (message,) = [line for line in observer.messages if "far larger than usual" in line]
        assert message.startswith("step 5: ") and all(name in message for name in large["scaled_down"])
        assert summary["quarantined"] == [] and summary["skipped"] == 0
        assert final_loss(observer) == pytest.approx(healthy["sovits"], rel=NOISE)

    @pytest.mark.parametrize("stage", ["sovits", "gpt"])
    def test_gradients_that_overflow_half_precision_lower_the_loss_scale(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
    ) -> None:
        """Float16 as on a GPU, computed slowly on a CPU, so of one utterance at a time. The first loss scale is too
        large."""
        small = config.with_options(stage=stage, max_utterances=1, max_steps=14)
        _, healthy = go(small, tmp_path / "healthy")
        half = Precision("fp16", "fp16: of this test", CPU, fp32_steps=2)
        monkeypatch.setattr(Precision, "choose", lambda *_: half)
        summary, observer = go(small, tmp_path / "run")
        assert [r["precision"] for r in observer.records[:3]] == ["fp32", "fp32", "fp16"]
        skipped = [r for r in observer.records if r["skipped"]]
        assert 1 <= len(skipped) < 12 and all(r["left_out"] for r in skipped)
        scales = [r["loss_scale"] for r in observer.records]
        assert scales[0] == 2.0**16 and scales[-1] == 2.0 ** (16 - len(skipped))
        assert summary["skipped"] == len(skipped)
        assert summary["quarantined"] == [] and not any("not finite" in line for line in observer.messages)
        assert final_loss(observer) == pytest.approx(final_loss(healthy), rel=NOISE)
