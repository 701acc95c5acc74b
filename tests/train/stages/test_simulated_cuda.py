"""Training steps on a CUDA device that is not there: tensors without values, of which device, shape and dtype are
followed (torch's FakeTensor). A tensor on the wrong device, an operator that is given two dtypes under autocast, and
a value that the host waits for all fail here. Backward passes are left out: torch runs them on real devices alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.data.batch import Batch
from headrace.train.distributed import GradientBuckets
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.text_to_speech import decode_semantic
from headrace.train.precision import Precision
from headrace.train.stages.gpt_losses import SequenceCorruption
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage

CUDA = torch.device("cuda", 0)
FRAMES, PHONES = (200, 150, 61), (30, 20, 10)


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within a test torch takes the device for one that is there, and gradients for what a backward pass left."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    monkeypatch.setattr(nn.Module, "to", _moved)
    monkeypatch.setattr(Tensor, "backward", lambda _: None)
    monkeypatch.setattr(GradientBuckets, "begin", _zero_gradients)
    monkeypatch.setattr(SequenceCorruption, "sample", lambda codes_n_B, size: _corruption(codes_n_B))
    with FakeTensorMode():
        yield


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """In place of `Module.to`, which cannot swap parameters that have no values."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = parameter if parameter is None else nn.Parameter(parameter.detach().to(device))
        for name, buffer in part._buffers.items():
            part._buffers[name] = buffer if buffer is None else buffer.to(device)
    return module


def _zero_gradients(gradients: GradientBuckets) -> None:
    for parameter in gradients._parameters:
        parameter.grad = torch.zeros_like(parameter)


def _corruption(codes_n_B: Tensor) -> SequenceCorruption:
    """Return a fixed corruption, since numpy sees no values on this device."""
    return SequenceCorruption(repeat=codes_n_B > 50, start=codes_n_B // 4, stop=codes_n_B // 2, max_repeat=25)


def batch() -> Batch:
    """On the host, in the dtypes of a store."""
    count, frames, phones = len(FRAMES), max(FRAMES), max(PHONES)
    tensors = {
        "wave": torch.zeros(count, frames, 640, dtype=torch.int16),
        "content": torch.zeros(count, frames, 768, dtype=torch.float16),
        "mfcc": torch.zeros(count, frames, 20),
        "semantic": torch.zeros(count, frames // 2, dtype=torch.int16),
        "phones": torch.zeros(count, phones, dtype=torch.int16),
        "bert": torch.zeros(count, phones, 1024, dtype=torch.float16),
        "speaker_vector": torch.zeros(count, 20480, dtype=torch.float16),
    }
    lengths = torch.tensor(FRAMES)
    return Batch(
        numbers=np.arange(count), frames=lengths, phones_n=torch.tensor(PHONES), tokens_n=lengths // 2, tensors=tensors
    )


def assert_steps_stay_on_the_device(stage: Stage) -> None:
    for splits in (1, 2):
        stage.microbatches.splits = splits
        terms = stage.step([batch()])
        assert {term.device for term in terms.values()} == {CUDA}
        assert {(term.dtype, term.dim()) for term in terms.values()} == {(torch.float32, 0)}


@pytest.mark.parametrize(
    ("content", "precision"),
    [("semantic", "fp32"), ("semantic", "fp16"), ("semantic", "bf16"), ("content", "fp16"), ("mfcc", "fp16")],
)
def test_sovits(content: Any, precision: str) -> None:
    config = PRESETS["tiny"].sovits
    config = replace(
        config, freeze_quantizer=content != "mfcc", ssl_channels=768 if content == "content" else config.ssl_channels
    )
    settled = Precision.choose(precision, CUDA, 0)
    stage = SovitsStage(
        config, Spectral(SpectralRecipe()), precision=settled, device=CUDA, optim=SovitsOptimConfig(), content=content
    )
    assert settled.scaler.is_enabled() == (precision == "fp16")
    assert_steps_stay_on_the_device(stage)


@pytest.mark.parametrize(
    ("precision", "more"),
    [
        ("fp32", {}),
        ("fp16", {}),
        ("bf16", {}),
        ("fp16", {"optimizer": "adamw"}),
        ("fp16", {"dpo": True, "max_grad_norm": 1.0}),
        ("fp16", {"upstream_mask": True, "activation_checkpointing": True}),
    ],
)
def test_gpt(more: dict[str, Any], precision: str) -> None:
    stage = gpt(precision, **{"optimizer": "scaled_adam"} | more)
    assert_steps_stay_on_the_device(stage)
    assert {term.device for term in stage.validate(batch().to(CUDA)).values()} == {CUDA}


def gpt(precision: str, **optim: Any) -> GptStage:
    config, policy = PRESETS["tiny"].gpt, GptOptimConfig.for_preset("tiny")
    return GptStage(
        replace(config, dropout=0.1, codes=1024),
        precision=Precision.choose(precision, CUDA, 0),
        device=CUDA,
        optim=replace(policy, **optim),
        bert=True,
    )


def test_tensors_on_the_wrong_device_are_found() -> None:
    stage = gpt("fp32", optimizer="adamw")
    stage.model.ar_text_position.alpha = nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="two different devices"):
        stage.step([batch()])


@pytest.mark.parametrize("speed", [1.0, 1.3])
def test_speech(speed: float) -> None:
    generator = SynthesizerTrn(PRESETS["tiny"].sovits).to(CUDA).eval()
    codes, phones = (torch.zeros(size, dtype=torch.int64, device=CUDA) for size in (40, 20))
    wave_S = decode_semantic(generator, codes, phones, torch.zeros(1025, 90, device=CUDA), speed=speed)
    assert wave_S.device == CUDA and len(wave_S) == round(80 / speed) * 640
