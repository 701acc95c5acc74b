"""One training step of SoVITS: the reference's numbers, and the laws of resuming, padding, skipping and validating."""

from __future__ import annotations

import io
import itertools
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.errors import RecipeMismatch, RunError, UsageError
from headrace.train.data.batch import Batch
from headrace.train.models.attention import MultiHeadAttention
from headrace.train.models.layers import length_mask
from headrace.train.models.presets import PRESETS
from headrace.train.models.vocoder import FLOAT32_STAGES
from headrace.train.precision import Precision
from headrace.train.stages.pretrained import StoreCodes, compare_codebooks
from headrace.train.stages.sovits_inputs import (
    Microbatch,
    draw_microbatch,
    draw_random_inputs,
    fixed_microbatch,
    prepare_inputs,
)
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from tests.helpers.dispatch_modes import NoDeviceSync
from tests.helpers.golden_recipe import fill, fingerprint, sovits_case
from tests.helpers.sovits_steps import CPU, SMALL_SOVITS, copy_state, sovits_stage, speech_batch


@pytest.fixture(scope="module")
def batch() -> Batch:
    return speech_batch([21, 30, 17])


@pytest.mark.parametrize(
    ("name", "rounding"), [("small_v2", 0), ("small_v2Pro", 0), ("full_v2", 16), ("full_v2Pro", 16)]
)
def test_a_step_matches_the_reference(golden: Path, name: str, rounding: int) -> None:
    """`rounding`: of the numbers that are compared, those that nobody can give again, not even on other threads."""
    case = sovits_case(golden, name)
    want = case.facts["train_step"]
    made = sovits_stage(case.config, SovitsOptimConfig())
    fill(made.generator)
    fill(made.discriminator, "D:")
    made.generator.eval()  # no dropout
    assert case.drawn.starts.tolist() == want["ids_slice"]
    summed = _sums_of_key_biases(made.generator)
    metrics = {
        name: float(value) for name, value in made.update([Microbatch(inputs=case.inputs, random=case.drawn)]).items()
    }
    assert metrics["skipped"] == metrics["loss_commit"] == 0
    for name in ("loss_disc", "loss_gen", "loss_fm", "loss_mel", "loss_kl", "loss_gen_all"):
        assert metrics[name] == pytest.approx(want[name], rel=1e-4), name
    for name in ("grad_norm_d", "grad_norm_g"):
        assert metrics[name] == pytest.approx(want[name], rel=1e-3), name
    _assert_gradients(made.discriminator, want["grad_norms_d"])
    _assert_gradients(made.generator, want["grad_norms_g"])
    assert _assert_parameters(made.discriminator, want["params_after_d"], {}) == 0
    assert _assert_parameters(made.generator, want["params_after_g"], summed) == rounding
    idle = [name for name, parameter in made.generator.named_parameters() if parameter.grad is None]
    assert idle == want["no_grad_params"]


def _assert_gradients(model: nn.Module, norms: dict[str, float | None]) -> None:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert {name for name, gradient in gradients.items() if gradient is None} == {
        name for name, norm in norms.items() if norm is None
    }
    for name, gradient in gradients.items():
        if gradient is not None:
            assert float(gradient.norm()) == pytest.approx(norms[name], rel=1e-3, abs=1e-6), name


def _sums_of_key_biases(model: nn.Module) -> dict[str, Tensor]:
    """For each bias on keys (C,), the absolute values of the terms whose sum is its gradient: there after an update."""
    summed: dict[str, Tensor] = {}

    def watch(name: str, conv: nn.Module) -> None:
        conv.register_full_backward_hook(lambda _, __, out_BCT: summed.update({name: out_BCT[0].abs().sum((0, 2))}))

    for name, module in model.named_modules():
        if name.endswith(".conv_k"):
            watch(f"{name}.bias", module)
    return summed


def _assert_parameters(model: nn.Module, after: dict[str, dict[str, Any]], summed: dict[str, Tensor]) -> int:
    """To 1e-5, but for biases on keys: their gradient is what rounding leaves of a sum that is 0, and Adam's first step
    takes its sign alone, 1e-4 to either side. Returns how many numbers those are."""
    state, gradients = model.state_dict(), {name: parameter.grad for name, parameter in model.named_parameters()}
    assert len(after) > 5
    noise = 0
    for name, fact in after.items():
        made, exact = fingerprint(state[name].numpy()), name not in summed
        if not exact:
            assert (gradients[name].abs() <= 8 * torch.finfo(torch.float32).eps * summed[name]).all(), name
            noise += len(made["first"] + made["last"])
        near = 1e-5 if exact else 2e-4
        assert made["shape"] == fact["shape"]
        assert made["first"] + made["last"] == pytest.approx(fact["first"] + fact["last"], rel=0, abs=near), name
        assert abs(made["sum"] - fact["sum"]) <= near * state[name].numel(), name
    return noise


def test_a_bias_on_keys_has_no_gradient() -> None:
    """It raises all scores of a query alike, which softmax does not see: in float64 nothing but rounding is left."""
    torch.manual_seed(0)
    for window in (0, 4):
        attention = MultiHeadAttention(16, 2, window=window).double()
        x, mask = torch.randn(2, 16, 9, dtype=torch.float64), length_mask(torch.tensor([9, 5]), 9)
        (attention(x, x, mask) * torch.randn(2, 16, 9)).sum().backward()
        largest = {conv: getattr(attention, conv).bias.grad.abs().max() for conv in ("conv_q", "conv_k")}
        assert largest["conv_k"] < 1e-13 < 1e-4 < largest["conv_q"]


def test_learning_rates_match_the_reference(golden: Path) -> None:
    rates = json.loads((golden / "samplers_lr.json").read_text())["lr_s2"]["epoch_lr"]
    made = sovits_stage(optim=SovitsOptimConfig())
    for epoch in range(1, len(rates) + 1):
        base, *slowed = (group["lr"] for group in made.optim_g.param_groups)
        assert [base, *set(slowed)] == pytest.approx(rates[str(epoch)], rel=1e-12)
        assert made.optim_d.param_groups[0]["lr"] == base == made.learning_rate
        made.end_epoch()


def test_parameter_groups_are_complete_and_text_parts_are_slower() -> None:
    made = sovits_stage(optim=SovitsOptimConfig(learning_rate=1.0, text_rate_factor=0.5, decay_per_epoch=0.9))
    names = {parameter: name for name, parameter in made.generator.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in made.optim_g.param_groups]
    assert sorted(itertools.chain(*groups)) == sorted(names.values())
    assert groups[1] == ["enc_p.text_embedding.weight"]
    assert all(name.startswith("enc_p.encoder_text.") for name in groups[2])
    assert all(name.startswith("enc_p.mrte.") for name in groups[3])
    made.end_epoch()
    assert made.learning_rate == pytest.approx(0.81)
    assert [group["lr"] for group in made.optim_g.param_groups] == pytest.approx([0.81, 0.405, 0.405, 0.405])


def test_the_mel_loss_falls() -> None:
    config, optim = PRESETS["tiny"].sovits, SovitsOptimConfig.for_preset("tiny")
    made, batches = sovits_stage(config, optim), [speech_batch([40, 45, 38, 50], seed) for seed in range(4)]
    losses = [float(made.step([batches[step % 4]])["loss_mel"]) for step in range(40)]
    assert np.mean(losses[-10:]) < 2 / 3 * np.mean(losses[:10])


def test_a_resumed_run_is_bit_identical(batch: Batch) -> None:
    straight = sovits_stage()
    for _ in range(3):
        straight.step([batch])
    straight.end_epoch()
    saved = io.BytesIO()
    torch.save({"stage": straight.state_dict(), "rng": torch.get_rng_state()}, saved)
    on = [straight.step([batch]) for _ in range(3)]

    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    resumed = sovits_stage()
    resumed.load_state_dict(state["stage"])
    torch.set_rng_state(state["rng"])
    for want in on:
        assert {name: value.item() for name, value in resumed.step([batch]).items()} == {
            name: value.item() for name, value in want.items()
        }
    assert resumed.learning_rate == straight.learning_rate
    for made, want in zip(
        resumed.generator.state_dict().values(), straight.generator.state_dict().values(), strict=True
    ):
        assert torch.equal(made, want)


def test_weights_of_another_model_are_refused() -> None:
    other = sovits_stage(replace(SMALL_SOVITS, hidden_channels=32))
    with pytest.raises(RunError, match="not of this model") as caught:
        sovits_stage().load_state_dict(other.state_dict())
    assert caught.value.details


def test_spectra_of_another_recipe_are_refused() -> None:
    spectral = Spectral(SpectralRecipe(n_fft=1024, win=1024, hop=640))
    with pytest.raises(RecipeMismatch, match="513 bins"):
        SovitsStage(
            SMALL_SOVITS, spectral, precision=Precision.choose("fp32", CPU), device=CPU, optim=SovitsOptimConfig()
        )


def test_spectra_do_not_depend_on_the_batch() -> None:
    frames = [3, 30, 29, 2]
    mixed, spectral = speech_batch(frames), Spectral(SpectralRecipe())
    inputs = prepare_inputs(mixed, spectral, SMALL_SOVITS)
    assert inputs.spec.shape == (4, 1025, 32)
    for row, count in enumerate(frames):
        alone = spectral.magnitude(mixed["wave"][row, :count].flatten() / 32768)
        torch.testing.assert_close(inputs.spec[row, :, :count].mT, alone, rtol=1e-4, atol=1e-5)
        for tensor in (inputs.spec, inputs.content, inputs.wave):
            assert not tensor[row, :, count:].any()


@pytest.mark.parametrize(("frames", "size"), [([2], 8), ([7], 8), ([8], 10), ([9], 10), ([30, 31], 32)])
def test_inputs_are_padded_to_an_even_length_that_holds_a_segment(frames: list[int], size: int) -> None:
    inputs = prepare_inputs(speech_batch(frames), Spectral(SpectralRecipe()), SMALL_SOVITS)
    assert {tensor.shape[2] for tensor in (inputs.content, inputs.spec, inputs.wave)} == {size}
    for _ in range(20):
        drawn = draw_random_inputs(inputs, SMALL_SOVITS)
        latest = [max(count - SMALL_SOVITS.segment_frames, 0) for count in frames]
        assert all(0 <= start <= last for start, last in zip(drawn.starts.tolist(), latest, strict=True))


def test_utterances_shorter_than_a_segment_train() -> None:
    made = sovits_stage()
    for frames in ([2, 3], [2, 40]):
        assert all(math.isfinite(value) for value in made.step([speech_batch(frames)]).values())


def test_a_gradient_that_is_not_finite_changes_no_weight(batch: Batch) -> None:
    made = sovits_stage()
    made.step([batch])
    before = [copy_state(made.generator), copy_state(made.discriminator)]
    inputs = prepare_inputs(batch, made.spectral, SMALL_SOVITS)
    drawn = draw_random_inputs(inputs, SMALL_SOVITS)
    metrics = made.update([Microbatch(inputs=replace(inputs, spec=inputs.spec * math.nan), random=drawn)])
    assert metrics["skipped"] == 1
    for model, old in zip((made.generator, made.discriminator), before, strict=True):
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, old[name]), name
    metrics = made.update([Microbatch(inputs=inputs, random=drawn)])
    assert metrics["skipped"] == 0
    assert not torch.equal(made.generator.dec.conv_post.weight, before[0]["dec.conv_post.weight"])


def test_the_loss_scale_falls_until_gradients_fit(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision's scaling, in float32 so that it runs anywhere: from a scale at which gradients overflow."""
    made = sovits_stage(precision=Precision("fp16", "", CPU))
    made.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**124)
    monkeypatch.setattr(made.precision, "autocast", nullcontext)
    before = made.generator.dec.conv_post.weight.clone()
    norms = []
    while not norms or not math.isfinite(norms[-1]):
        assert len(norms) < 20
        assert torch.equal(made.generator.dec.conv_post.weight, before)
        norms.append(float(made.step([batch])["grad_norm_g"]))
    assert made.precision.scaler.get_scale() < 2.0**124
    assert len(norms) > 1 and 0 < norms[-1] < 1e4
    assert not torch.equal(made.generator.dec.conv_post.weight, before)


def test_the_generator_s_losses_do_not_update_the_discriminator(batch: Batch) -> None:
    made = sovits_stage()
    norm = made.step([batch])["grad_norm_d"]
    left = nn.utils.get_total_norm([parameter.grad for parameter in made.discriminator.parameters()])
    assert left == norm
    assert all(parameter.requires_grad for parameter in made.discriminator.parameters())


def test_weights_of_losses_weigh_in_training_and_not_in_validation(batch: Batch) -> None:
    """Runs with other weights can so be compared."""
    usual = sovits_stage()
    other = sovits_stage(optim=replace(usual.optim, mel_weight=90.0, kl_weight=0.25))
    validated, as_well = usual.validate(batch), other.validate(batch)
    assert validated == as_well and validated["loss_mel"] > 0 and validated["loss_kl"] > 0
    microbatch = fixed_microbatch(batch, usual.spectral, usual.config)
    found = []
    for made in (usual, other):
        torch.manual_seed(0)  # for dropout
        with torch.no_grad():
            output = made.losses.synthesise(made.generator, microbatch)
            found.append(made.losses.generator_losses(made.discriminator, microbatch, output))
    losses, weighted = found
    assert float(weighted["loss_mel"] / losses["loss_mel"]) == pytest.approx(2, rel=1e-5)
    assert float(weighted["loss_kl"] / losses["loss_kl"]) == pytest.approx(0.25, rel=1e-5)


def test_validation_is_deterministic_and_changes_nothing(batch: Batch) -> None:
    made = sovits_stage()
    made.step([batch])
    before, random = copy_state(made.generator), torch.get_rng_state()
    first = made.validate(batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert made.generator.training and made.generator.quantizer.training
    for name, value in made.generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.rand(3)
    assert made.validate(batch) == first
    assert set(first) == {"loss_mel", "loss_kl"} and all(value.isfinite() for value in first.values())


def test_a_step_does_not_synchronise_with_the_device(batch: Batch) -> None:
    made = sovits_stage()
    made.step([batch])  # the first batch starts the codebook, which may wait
    with NoDeviceSync():
        metrics = made.step([batch])
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoDeviceSync():
        metrics["loss_mel"].item()


def test_bfloat16_follows_float32(batch: Batch) -> None:
    exact, rough = (sovits_stage(precision=name).step([batch]) for name in ("fp32", "bf16"))
    for name in ("loss_disc", "loss_mel", "loss_kl", "loss_fm"):
        assert float(rough[name]) == pytest.approx(float(exact[name]), rel=0.05), name
    assert float(rough["loss_mel"]) != float(exact["loss_mel"])


def test_the_last_decoder_stages_are_float32(batch: Batch) -> None:
    """In half precision rounding would cover the quiet bands of the waveform."""
    made, seen = sovits_stage(precision="bf16"), []
    for up in made.generator.dec.ups:
        up.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    microbatch = draw_microbatch(batch, made.spectral, made.config, torch.tensor([3.0, 68.0]))
    out = made.losses.synthesise(made.generator, microbatch).synthesis
    assert seen == [torch.bfloat16] * 3 + [torch.float32] * FLOAT32_STAGES
    assert out.wave.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_precision_is_chosen_with_a_reason() -> None:
    assert Precision.choose("auto", CPU).name == "fp32"
    assert Precision.choose("auto", torch.device("cuda")).name == "fp16"
    assert Precision.choose("auto", CPU).reason
    with pytest.raises(UsageError, match="needs a CUDA device"):
        Precision.choose("fp16", CPU)
    with pytest.raises(UsageError, match="fp8"):
        Precision.choose("fp8", CPU)


@pytest.mark.parametrize(
    ("of_store", "reads_codes", "said"),
    [
        ("recorded", True, ""),
        ("digest", False, ""),
        ("", False, ""),
        ("", True, "it is not known whether"),
        ("other", False, "a gpt that is trained on them cannot speak with this model"),
        ("other", True, None),
    ],
)
def test_codes_of_a_store_are_compared_with_those_of_weights(
    monkeypatch: pytest.MonkeyPatch, of_store: str, reads_codes: bool, said: str | None
) -> None:
    """Codes that are read must be those of the weights. Those of gpt alone may be others, and that is told."""
    own, codes = frozenset({"recorded", "digest"}), StoreCodes(store="S", codebook=of_store)
    if said is None:
        with pytest.raises(UsageError, match=r"another codebook \(other\) than s2G.pth: run featurize drop S semantic"):
            compare_codebooks(Path("s2G.pth"), own, codes, are_read=reads_codes)
        return
    told = compare_codebooks(Path("s2G.pth"), own, codes, are_read=reads_codes)
    assert len(told) == bool(said) and all(said in line and "featurize drop S semantic" in line for line in told)
