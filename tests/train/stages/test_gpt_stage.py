"""Training of the text-to-semantic decoder: the reference's run, and the laws of accumulating, resuming, skipping."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.store.errors import RunError, UsageError
from headrace.train.data.batch import Batch
from headrace.train.models import sovits_config
from headrace.train.models.presets import PRESETS
from headrace.train.stages import gpt_losses
from headrace.train.stages.activations_8bit import quantize_activations
from headrace.train.stages.gpt_inputs import prepare_inputs
from headrace.train.stages.gpt_losses import SequenceCorruption
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from tests.helpers.dispatch_modes import LargestTensor, NoDeviceSync
from tests.helpers.golden_recipe import SMALL_GPT as REFERENCE_GPT
from tests.helpers.golden_recipe import fill, gpt_inputs, safetensors
from tests.helpers.gpt_steps import GPT_OPTIM, SMALL_GPT, gpt_stage, text_batch


@pytest.fixture
def batch() -> Batch:
    return text_batch([12, 30, 17])


def test_a_run_matches_the_reference(golden: Path) -> None:
    """42 batches, an update after the fifth and then after every fourth, without dropout."""
    log = json.loads((golden / "s1_golden.json").read_text())["train_log"]
    made = gpt_stage(REFERENCE_GPT, GptOptimConfig(upstream_mask=True), bert=True)
    fill(made.model)
    made.model.eval()
    predictions = torch.zeros(())
    for number, want in enumerate(log):
        inputs = gpt_inputs(f"s1train.{number}", REFERENCE_GPT, [9 - number % 3, 6], [14, 11 - number % 2])
        sums = made.backward(inputs)
        predictions = predictions + sums["predictions"]
        assert float(sums["predictions"]) == 2 * (inputs.codes.shape[1] + 1)
        assert float(sums["loss"]) == pytest.approx(want["loss"], rel=1e-4), number
        assert float(sums["correct"] / sums["codes"]) == pytest.approx(want["acc"], abs=1e-6), number
        if want["stepped"]:
            assert made.learning_rate == want["lr_used"]
            _assert_keys_are_unmoved(made)
            made.optimizer_step(predictions)
            made.optimizer.zero_grad()
            predictions = torch.zeros(())
    after = safetensors(golden / "s1_small_after_train.safetensors")
    for name, value in made.model.state_dict().items():
        at, want_at = value.numpy(), after[name]
        if name.endswith("in_proj_bias"):
            np.testing.assert_allclose(at[KEYS], want_at[KEYS], rtol=0, atol=1e-3, err_msg=name)
            at, want_at = (np.delete(row, KEYS) for row in (at, want_at))
        np.testing.assert_allclose(at, want_at, rtol=0, atol=1e-5, err_msg=name)


KEYS = np.s_[32:64]
"""Of a projection's bias (96,): the part that is added to keys."""


def _assert_keys_are_unmoved(made: GptStage) -> None:
    """A bias on keys changes no attention: its gradient is 0 but for rounding. Adam makes a whole step of that."""
    for name, parameter in made.model.named_parameters():
        if name.endswith("in_proj_bias"):
            _, keys, values = parameter.grad.abs().chunk(3)
            assert keys.max() <= 8 * torch.finfo(torch.float32).eps * values.max(), name


def spans_of_reference(rows: int, size: int) -> SequenceCorruption:
    """As the reference draws them: kind, then two places within the padded row, row by row."""
    torch.manual_seed(1234)
    drawn = [(torch.randint(0, 2, (1,))[0] == 0, *torch.randint(0, size, (2,)).sort().values) for _ in range(rows)]
    repeat, start, stop = (torch.stack(column) for column in zip(*drawn, strict=True))
    return SequenceCorruption(repeat=repeat, start=start, stop=stop, max_repeat=int(((stop - start) * repeat).max()))


def test_the_preference_loss_matches_the_reference(golden: Path) -> None:
    want, facts = np.load(golden / "s1_golden.npz"), json.loads((golden / "s1_golden.json").read_text())["dpo"]
    made = gpt_stage(REFERENCE_GPT, GptOptimConfig(upstream_mask=True), bert=True)
    fill(made.model)
    made.model.eval()
    inputs = gpt_inputs("s1small", REFERENCE_GPT, [9, 6], [14, 11])
    padded, whole = torch.from_numpy(want["in.y"]), torch.tensor([14, 14])
    codes, codes_n = spans_of_reference(2, 14).apply(padded, whole)
    longest = int(codes_n.max())
    np.testing.assert_array_equal(codes_n, want["dpo.reject_y_lens"])
    for row, count in enumerate(codes_n.tolist()):
        np.testing.assert_array_equal(codes[row, :count], want["dpo.reject_y"][row, :count])
    chosen, _ = made._likelihood(inputs)
    rejected, _ = made._likelihood(replace(inputs, codes=codes[:, :longest], codes_n=codes_n))
    assert chosen.tolist() == pytest.approx(facts["A_logps"], rel=1e-5)
    assert rejected.tolist() == pytest.approx(facts["R_logps"], rel=1e-5)
    preference = gpt_losses.preference_loss(chosen, rejected).item()
    assert preference == pytest.approx(facts["loss_dpo"], rel=1e-5)
    assert preference - chosen.sum().item() == pytest.approx(facts["loss_total"], rel=1e-5)


def test_corruption_repeats_or_deletes_a_span() -> None:
    codes = torch.arange(1, 8).repeat(3, 1)
    corruption = SequenceCorruption(
        repeat=torch.tensor([True, False, True]),
        start=torch.tensor([2, 1, 4]),
        stop=torch.tensor([4, 4, 4]),
        max_repeat=2,
    )
    corrupted, count = corruption.apply(codes, torch.tensor([7, 6, 5]))
    assert count.tolist() == [9, 3, 5]
    assert corrupted[0].tolist() == [1, 2, 3, 4, 3, 4, 5, 6, 7]
    assert corrupted[1, :3].tolist() == [1, 5, 6]
    assert corrupted[2, :5].tolist() == [1, 2, 3, 4, 5]


def test_corrupted_codes_are_codes_of_their_utterance() -> None:
    torch.manual_seed(0)
    codes_n = torch.tensor([30, 12, 1, 25])
    codes = torch.arange(30).repeat(4, 1)
    kinds = set()
    for _ in range(50):
        corruption = SequenceCorruption.sample(codes_n, 30)
        corrupted, count = corruption.apply(codes, codes_n)
        assert corrupted.shape[1] >= int(count.max())
        for row in range(4):
            assert 0 <= corruption.start[row] <= corruption.stop[row] <= codes_n[row]
            valid = corrupted[row, : count[row]].tolist()
            assert valid == sorted(valid) or corruption.repeat[row]
            assert set(valid) <= set(range(int(codes_n[row])))
        kinds |= set(corruption.repeat.tolist())
    assert kinds == {True, False}


def test_training_fits_its_data() -> None:
    made = gpt_stage(
        replace(SMALL_GPT, dropout=0.0),
        replace(GPT_OPTIM, grad_accum=1, peak_rate=0.02, warmup_steps=20, total_steps=150),
    )
    before = made.validate(text_batch([30, 30, 24], seed=1000))
    for seed in range(150):
        made.step([text_batch([30, 30, 24, 27], seed)])
    after = made.validate(text_batch([30, 30, 24], seed=1000))
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.7 > before["accuracy"]


def weights(of: GptStage) -> list[Tensor]:
    return [value.clone() for value in of.model.state_dict().values()]


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adamw"])
def test_accumulated_batches_equal_one_batch(optimizer: str) -> None:
    optim = replace(GPT_OPTIM, optimizer=optimizer, max_grad_norm=1.0)
    whole = gpt_stage(replace(SMALL_GPT, dropout=0.0), replace(optim, grad_accum=1))
    parts = gpt_stage(replace(SMALL_GPT, dropout=0.0), replace(optim, grad_accum=3))
    rows, batches = [12, 30, 17], [text_batch([12]), text_batch([30]), text_batch([17])]
    at_once = text_batch(rows)
    for row, single in enumerate(batches):  # the same phones, so the same codes
        phones = -(-rows[row] // 3)
        single.tensors["phones"][0] = at_once["phones"][row, :phones]
        single.tensors["semantic"][0] = at_once["semantic"][row, : rows[row]]
    first = whole.step([at_once])
    last = parts.step(batches)
    for name in ("loss", "accuracy", "grad_norm"):
        assert float(last[name]) == pytest.approx(float(first[name]), rel=1e-4), name
    for made, want in zip(weights(parts), weights(whole), strict=True):
        torch.testing.assert_close(made, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adamw"])
def test_a_resumed_run_is_bit_identical(batch: Batch, optimizer: str) -> None:
    optim = replace(GPT_OPTIM, optimizer=optimizer, dpo=True)
    straight = gpt_stage(optim=optim)
    for _ in range(3):
        straight.step([batch])
    saved = io.BytesIO()
    torch.save({"stage": straight.state_dict(), "rng": torch.get_rng_state()}, saved)
    on = [straight.step([batch]) for _ in range(5)]

    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    resumed = gpt_stage(optim=optim)
    resumed.load_state_dict(state["stage"])
    torch.set_rng_state(state["rng"])
    for want in on:
        made = resumed.step([batch])
        assert {name: str(value.item()) for name, value in made.items()} == {
            name: str(value.item()) for name, value in want.items()
        }
    assert all(map(torch.equal, weights(resumed), weights(straight)))
    assert (resumed.updates, resumed.learning_rate) == (straight.updates, straight.learning_rate)


def test_weights_of_another_model_are_refused() -> None:
    other = gpt_stage(replace(SMALL_GPT, layers=1, symbols=7))
    with pytest.raises(RunError, match="not of this model: 12 missing, 0 unknown to it, 1 of another") as caught:
        gpt_stage().load_state_dict(other.state_dict())
    assert caught.value.details == (
        "missing in h: h.layers.1.linear1.bias and 11 more",
        "ar_text_embedding.word_embeddings.weight: 7x32 given, 20x32 expected",
    )


@pytest.mark.parametrize("optimizer", ["scaled_adam", "adamw"])
def test_a_gradient_that_is_not_finite_changes_no_weight(batch: Batch, optimizer: str) -> None:
    made = gpt_stage(optim=replace(GPT_OPTIM, grad_accum=1, optimizer=optimizer))
    made.step([batch])
    before = weights(made)
    inputs = prepare_inputs(batch)
    metrics = made.update([replace(inputs, bert=torch.full((*inputs.phones.shape, 1024), math.nan))])
    assert metrics["skipped"] == 1 and all(map(torch.equal, weights(made), before))
    metrics = made.step([batch])
    assert metrics["skipped"] == 0 and not all(map(torch.equal, weights(made), before))


def test_norms_are_of_the_mean_gradient_and_are_clipped(batch: Batch) -> None:
    optim = replace(GPT_OPTIM, grad_accum=1, optimizer="adamw")
    still = replace(SMALL_GPT, dropout=0.0)
    free, clipped = gpt_stage(still, optim), gpt_stage(still, replace(optim, max_grad_norm=1e-3))
    norms = [made.step([batch])["grad_norm"] for made in (free, clipped)]
    assert norms[0] == norms[1] > 1e-3  # what is reported is what there was
    predictions = sum(n + 1 for n in [12, 30, 17])
    moments = [entry["exp_avg"] for entry in clipped.optimizer.state_dict()["state"].values()]
    applied = torch.stack([moment.norm() for moment in moments]).norm() / (1 - optim.betas[0]) / predictions
    assert float(applied) == pytest.approx(1e-3, rel=1e-3)


def test_validation_is_deterministic_and_changes_nothing(batch: Batch) -> None:
    made = gpt_stage()
    made.step([batch])
    before, random = weights(made), torch.get_rng_state()
    first = made.validate(batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert made.model.training and all(map(torch.equal, weights(made), before))
    assert made.validate(batch) == first
    assert set(first) == {"loss", "accuracy"} and all(value.isfinite() for value in first.values())


def test_a_step_does_not_synchronise_with_the_device(batch: Batch) -> None:
    made = gpt_stage(optim=replace(GPT_OPTIM, optimizer="adamw", dpo=True))
    made.step([batch])
    with NoDeviceSync():
        metrics = made.step([batch])
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())
    named = {"loss", "loss_dpo", "accuracy", "grad_norm", "skipped", "exploded"}
    assert set(metrics) == named == set(made.step([batch]))


@pytest.mark.parametrize(
    ("options", "precision", "float8"),
    [({}, "fp32", False), ({"activation_checkpointing": True}, "bf16", False), ({"dpo": True}, "fp32", True)],
)
def test_a_step_allocates_no_attention_scores(options: dict[str, bool], precision: str, float8: bool) -> None:
    """Nor a quarter of it, forward, backward, in the update: of padded rows, with dropout."""
    heads, lengths = 16, [600, 450, 75]
    made = gpt_stage(replace(SMALL_GPT, heads=heads, layers=1), replace(GPT_OPTIM, **options), precision)
    if float8:
        quantize_activations(made)
    with LargestTensor() as largest:
        made.step([text_batch(lengths)])
    L = lengths[0] + lengths[0] // 3
    assert 4 * SMALL_GPT.channels * len(lengths) * L <= largest.numel < len(lengths) * heads * L * L / 4


def test_bert_features_are_read_if_present() -> None:
    assert gpt_stage().features == ("phones", "semantic")
    made, batch = gpt_stage(bert=True), text_batch([12, 30], bert=True)
    assert made.features == ("phones", "semantic", "bert")
    made.step([batch])
    assert made.model.bert_proj.weight.grad.abs().sum() > 0


def test_a_batch_without_token_lengths_is_refused(batch: Batch) -> None:
    with pytest.raises(UsageError, match="token axis"):
        prepare_inputs(replace(batch, tokens_n=None))


def test_bfloat16_follows_float32(batch: Batch) -> None:
    exact, rough = (
        gpt_stage(replace(SMALL_GPT, dropout=0.0), precision=name).step([batch]) for name in ("fp32", "bf16")
    )
    assert float(rough["loss"]) == pytest.approx(float(exact["loss"]), rel=0.02)
    assert float(rough["loss"]) != float(exact["loss"])


def test_the_end_id_follows_the_codebook() -> None:
    ends = {name: preset.gpt.end for name, preset in PRESETS.items()}
    assert ends == {
        "tiny": sovits_config.tiny().codebook_size,
        "v1": 1024,
        "v2": 1024,
        "v2Pro": 1024,
        "v2ProPlus": 1024,
        "small": 1024,
        "large": 1024,
    }
