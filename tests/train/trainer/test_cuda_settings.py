"""What a run sets of CUDA, which needs no device to be set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from headrace.featurize.spectral.float32 import tf32_is_allowed
from headrace.train.precision import Precision
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.trainer import cuda_settings
from tests.helpers.sovits_steps import sovits_stage, speech_batch

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in cuda_settings.ALLOCATOR_VARIABLES:
        monkeypatch.setenv(name, "")  # what a test sets goes away with it
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False
    torch.backends.cuda.enable_cudnn_sdp(True)


def precision(name: str) -> Precision:
    return Precision(name, "as asked", torch.device("cpu"))


@pytest.mark.parametrize(("name", "allowed"), [("fp32", False), ("fp16", True), ("bf16", True)])
def test_tf32_is_for_runs_in_half_precision(name: str, allowed: bool) -> None:
    lines = cuda_settings.apply(precision(name), (8, 0), 0)
    assert tf32_is_allowed() == (allowed, allowed)
    assert any(line.startswith("TF32 ") and ("off" in line) != allowed for line in lines)


@pytest.mark.parametrize("shapes", [0, 8])
@pytest.mark.parametrize(("capability", "always"), [((8, 9), True), ((9, 0), False), ((10, 0), False)])
def test_kernels_that_are_chosen_by_shape_are_for_fixed_shapes(shapes: int, capability, always: bool) -> None:
    lines = cuda_settings.apply(precision("bf16"), capability, shapes)
    assert torch.backends.cudnn.benchmark == bool(shapes)
    assert torch.backends.cuda.cudnn_sdp_enabled() == (always or bool(shapes))
    assert any(("--fixed-shapes allows them" in line) != (always or bool(shapes)) for line in lines[2:3])


def test_a_cpu_is_left_as_it_is() -> None:
    assert cuda_settings.apply(precision("bf16"), None, 8) == []
    assert tf32_is_allowed() == (False, True) and not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("shapes", "given", "expected"),
    [(0, "", "expandable_segments:True"), (4, "", ""), (0, "backend:cudaMallocAsync", "backend:cudaMallocAsync")],
)
@pytest.mark.parametrize("name", cuda_settings.ALLOCATOR_VARIABLES)
def test_segments_grow_where_shapes_change(
    monkeypatch: pytest.MonkeyPatch, shapes: int, given: str, expected: str, name: str
) -> None:
    monkeypatch.setenv(name, given)
    cuda_settings.prepare_allocator(shapes)
    assert cuda_settings.apply(precision("bf16"), (8, 0), shapes)[3] == f"allocator {expected or 'as torch sets it'}"


def _allowed_in(stage: SovitsStage) -> dict[str, set[tuple[bool, bool]]]:
    """Return what was allowed where, in the forward passes of an update."""
    seen: dict[str, set[tuple[bool, bool]]] = {}
    generator = stage.generator
    watched = {
        "quantiser": generator.ssl_proj, "text": generator.enc_p.proj, "decoder": generator.dec.conv_pre,
        "last stages": generator.dec.conv_post, "discriminators": stage.discriminator.discriminators[0],
    }  # fmt: skip
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda *_, name=name: seen.setdefault(name, set()).add(tf32_is_allowed()))
    stage.step([speech_batch([30, 22])])
    return seen


def test_tf32_stays_outside_of_what_needs_float32() -> None:
    stage = sovits_stage()
    cuda_settings.apply(precision("bf16"), (9, 0), 0)
    seen = _allowed_in(stage)
    assert seen == {
        name: {(allowed, allowed)}
        for name, allowed in {
            "quantiser": False, "text": True, "decoder": True, "last stages": False, "discriminators": True,
        }.items()
    }  # fmt: skip
    assert tf32_is_allowed() == (True, True)
