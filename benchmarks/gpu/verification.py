"""What must hold on a device: tests that need CUDA, and losses like the CPU's."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import Bench, Table
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.train.data.batch import Batch
from headrace.train.models.presets import PRESETS
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage

STEPS = 3


def cuda_tests(bench: Bench) -> list[Table]:
    """Run every test that is marked `cuda`."""
    results = bench.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-m", "cuda", f"--junit-xml={results}", "tests/featurize/spectral"]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None, f"pytest ended with {code} and told no results"
    counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        case.attrib["name"] for case in suite if case.find("failure") is not None or case.find("error") is not None
    ]
    head = ("tests", "failed", "skipped", "which failed")
    row = (counts["tests"], counts["failures"] + counts["errors"], counts["skipped"], ", ".join(failed) or "none")
    return [Table(title="`pytest -m cuda`", head=head, rows=[row])]


def losses_agree(bench: Bench) -> list[Table]:
    """Train small networks without dropout on both, and compare losses: random numbers of devices differ."""
    rows = []
    for stage in ("sovits", "gpt"):
        for precision in ("fp32", "bf16"):
            expected, found = (_losses(stage, "fp32", "cpu"), _losses(stage, precision, bench.device))
            worst = max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))
            rows.append((stage, precision, expected[-1], found[-1], worst))
    head = ("stage", "precision on the device", f"loss {STEPS}, CPU in fp32", "device", "largest relative difference")
    title = "Preset tiny without dropout; noise and segments of sovits' validation loss are drawn on each device"
    return [Table(title=title, head=head, rows=rows)]


def _losses(kind: str, precision: str, device: str) -> list[float]:
    """Return the first losses: of gpt in training, of sovits of mel in evaluation after each step."""
    torch.manual_seed(0)
    chosen = Precision.choose(precision, torch.device(device), fp32_steps=0)
    common: dict[str, Any] = {"precision": chosen, "device": torch.device(device)}
    batch, stage = _batch(), None
    if kind == "gpt":
        stage = GptStage(replace(PRESETS["tiny"].gpt, dropout=0.0), optim=GptOptimConfig(grad_accum=1), **common)
        return [float(stage.step([batch])["loss"]) for _ in range(STEPS)]
    sizes = replace(PRESETS["tiny"].sovits, p_dropout=0.0, freeze_quantizer=True)
    stage = SovitsStage(sizes, Spectral(SpectralRecipe()), optim=SovitsOptimConfig(), content="content", **common)
    stage.generator.quantizer.codebook.inited.fill_(1)
    return [_step_and_validate(stage, batch, device) for _ in range(STEPS)]


def _step_and_validate(stage: Stage, batch: Batch, device: str) -> float:
    stage.step([batch])
    return float(stage.validate(batch.to(device))["loss_mel"])


def _batch() -> Batch:
    """Noise of the shapes of two utterances."""
    random, frames, phones = torch.Generator().manual_seed(0), 40, 12
    tensors = {
        "phones": torch.randint(300, (2, phones), generator=random),
        "semantic": torch.randint(64, (2, frames // 2), generator=random),
        "wave": (torch.randn(2, frames, 640, generator=random) * 3000).to(torch.int16),
        "content": torch.randn(2, frames, PRESETS["tiny"].sovits.ssl_channels, generator=random),
    }
    lengths = [torch.full((2,), count) for count in (frames, phones, frames // 2)]
    return Batch(numbers=np.arange(2), frames=lengths[0], phones_n=lengths[1], tokens_n=lengths[2], tensors=tensors)
