"""Which checkpoint each command takes from runs whose best one is not the newest: it says so, and it is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from headrace.cli.train import main
from headrace.train.checkpoints import export, upstream_files
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.checkpoints.initial_weights import NETWORKS
from headrace.train.config import RunConfig
from headrace.train.models import gpt_config, sovits_config
from headrace.train.trainer import loop
from tests.helpers.training_store import FRAMES, Silent, build

BEST, NEWEST, AT = 2, 4, 3
REASONS = {BEST: "the best of 4 validated, loss 0.5", NEWEST: "the newest", AT: "asked for"}
CHOICES = [((), BEST), (("--at", "best"), BEST), (("--at", "newest"), NEWEST), (("--at", str(AT)), AT)]
TINY = ("--preset", "tiny", "--device", "cpu", "--batch-frames", 400, "--max-steps", 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("best") / "store", FRAMES[:12]).path


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs with four checkpoints, of which the second is said to have been validated best."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in ("sovits", "gpt"):
        config = RunConfig.from_options(
            store=store, out=folder / stage, stage=stage, preset="tiny", device="cpu", batch_frames=400,
            max_steps=NEWEST, validate_every=1, save_every="1", keep=NEWEST,
        )  # fmt: skip
        loop.start(config, Silent())
        lines = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if line["split"] == "validation":
                line["loss"] = line["loss_mel"] = 0.5 if line["step"] == BEST else 1.0 + line["step"]
        (folder / stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert Checkpoints(folder / stage / "checkpoints").steps() == [1, 2, 3, 4]
    return {stage: folder / stage for stage in ("sovits", "gpt")}


def call(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result


def told(result: Result, run: Path, step: int, times: int = 1) -> None:
    """Assert that a command says that it took this checkpoint of a run, and no other one."""
    assert result.stderr.count(f"{run}, step {step} ({REASONS[step]})") == times, result.stderr
    assert result.stderr.count(f"{run}, step ") == times, result.stderr


def weights(run: Path, stage: str, step: int) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load(Checkpoints(run / "checkpoints").path(step))["stage"][NETWORKS[stage]]
    return found


@pytest.mark.parametrize(("at", "step"), CHOICES)
@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_export(
    runs: dict[str, Path], stage: str, at: tuple[str, ...], step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.SOVITS_SIZES, "v2", sovits_config.tiny())
    monkeypatch.setitem(export.GPT_SIZES, "v2", gpt_config.tiny())
    told(call("export", runs[stage], "--out", tmp_path / "x.pth", "--mixed-origins", *at), runs[stage], step)
    made, own = upstream_files.read(tmp_path / "x.pth").weights, weights(runs[stage], stage, step)
    assert made and all(torch.equal(value, own[name].half()) for name, value in made.items())
    assert any(not torch.equal(value, weights(runs[stage], stage, 1)[name].half()) for name, value in made.items())


@pytest.mark.parametrize(("at", "step"), CHOICES)
def test_sample(runs: dict[str, Path], store: Path, at: tuple[str, ...], step: int, tmp_path: Path) -> None:
    words = ("--store", store, "--utterance", "utt5", "--text", "Hi.", "--attempts", 1, "--device", "cpu")
    models = ("--sovits", runs["sovits"], "--gpt", runs["gpt"])
    result = call("sample", *models, *words, "--out", tmp_path / "x.wav", *at)
    told(result, runs["sovits"], step)
    told(result, runs["gpt"], step)


@pytest.mark.parametrize(("at", "step"), CHOICES)
@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_init(runs: dict[str, Path], store: Path, stage: str, at: tuple[str, ...], step: int, tmp_path: Path) -> None:
    words = ("--stage", stage, "--out", tmp_path / "run", "--init", runs[stage], "--learning-rate", 1e-12)
    result = call("run", store, *words, *TINY, *at)
    told(result, runs[stage], step, 2)  # of sovits the discriminator comes along; gpt says that its codes are not known
    made, own = weights(tmp_path / "run", stage, 1), weights(runs[stage], stage, step)
    first = "dec.conv_pre.weight" if stage == "sovits" else "ar_predict_layer.weight"
    others = [weights(runs[stage], stage, other)[first] for other in (BEST, NEWEST, AT) if other != step]
    distance = (made[first] - own[first]).abs().max()
    assert all(distance < 0.01 * (made[first] - other).abs().max() for other in others)


@pytest.mark.parametrize(("at", "step"), CHOICES)
def test_voice(runs: dict[str, Path], store: Path, at: tuple[str, ...], step: int, tmp_path: Path) -> None:
    words = ("--stage", "gpt", "--out", tmp_path / "run", "--voice", runs["sovits"], "--samples", 1)
    told(call("run", store, *words, *TINY, *at), runs["sovits"], step)
