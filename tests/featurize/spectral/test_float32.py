"""Float32 without TF32: what of this process is set within and outside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.featurize.spectral.float32 import allow_tf32, exact_float32, tf32_is_allowed, without_tf32


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True  # torch's defaults


@pytest.mark.parametrize("outside", [True, False])
def test_within_nothing_is_tf32_and_outside_all_is_as_before(outside: bool) -> None:
    allow_tf32(outside)
    with pytest.raises(ZeroDivisionError), without_tf32():
        assert tf32_is_allowed() == (False, False)
        raise ZeroDivisionError
    assert tf32_is_allowed() == (outside, outside)


def test_convolutions_alone_stay_as_torch_sets_them() -> None:
    with exact_float32(torch.device("cpu")):
        assert tf32_is_allowed() == (False, False)
    assert tf32_is_allowed() == (False, True)
    assert torch.get_float32_matmul_precision() == "highest" and torch.backends.cudnn.allow_tf32


def test_newer_settings_of_torch_are_no_obstacle() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with without_tf32():
            assert tf32_is_allowed() == (False, False)
        assert tf32_is_allowed() == (True, True)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"


def test_autocast_is_off_within() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with exact_float32(x.device):
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


class _Seen(TorchDispatchMode):
    """Notes what is allowed when a matrix is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "bmm"):
            self.products.append(tf32_is_allowed())
        return func(*args, **(kwargs or {}))


def test_mel_is_computed_without_tf32() -> None:
    spectral = Spectral(SpectralRecipe())
    allow_tf32(True)
    with _Seen() as seen:
        spectral.log_mel(spectral.magnitude(torch.randn(1, 6400)))
    assert seen.products and set(seen.products) == {(False, False)}
    assert tf32_is_allowed() == (True, True)
