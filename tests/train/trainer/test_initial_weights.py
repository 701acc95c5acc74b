"""What leaves a run enters another one: a run, a checkpoint and an export are weights to begin with."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.store.errors import HeadraceError, RunError, UsageError
from headrace.train.checkpoints import export, initial_weights, trained_models, upstream_files
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.checkpoints.origin import Origin
from headrace.train.config import RunConfig
from headrace.train.config_sections import ModelConfig
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.wave_output import raw_audio, write_wave
from headrace.train.precision import Precision
from headrace.train.stages.gpt_optimizer import GptOptimConfig
from headrace.train.stages.gpt_stage import GptStage
from headrace.train.trainer import loop
from headrace.train.trainer.setup import TrainingSetup, set_up
from headrace.train.trainer.validation import Validator
from tests.helpers.training_store import FRAMES, Silent, build

STAGES = ("sovits", "gpt")
STEPS = 2
CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"preset": "tiny", "batch_frames": 400, "device": "cpu", "validate_every": 1}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store, and the same one grown."""
    folder = tmp_path_factory.mktemp("initial")
    return build(folder / "store").path, build(folder / "grown", (*FRAMES, 110, 47, 88, 35)).path


@pytest.fixture(scope="module")
def runs(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        config = RunConfig.from_options(store=stores[0], out=folder / stage, stage=stage, max_steps=STEPS, **OPTIONS)
        loop.start(config, Silent())
    return {stage: folder / stage for stage in STAGES}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny sizes are some that upstream knows."""
    monkeypatch.setitem(export.SOVITS_SIZES, "v2", sovits_config.tiny())
    monkeypatch.setitem(export.GPT_SIZES, "v2", gpt_config.tiny())


def begin(store: Path, out: Path, stage: str, init: Path, **options: Any) -> Silent:
    observer = Silent()
    config = RunConfig.from_options(store=store, out=out, stage=stage, init=init, max_steps=1, **OPTIONS, **options)
    loop.start(config, observer)
    return observer


def first(observer: Silent) -> dict[str, float]:
    """The losses of the validation before the first step."""
    record = observer.records[0]
    assert (record["split"], record["step"]) == ("validation", 0)
    return {name: value for name, value in record.items() if name in ("loss", "loss_mel", "loss_kl")}


def network(setup: TrainingSetup) -> torch.nn.Module:
    return setup.stage.generator if hasattr(setup.stage, "generator") else setup.stage.model  # type: ignore[attr-defined]


def validated(store: Path, stage: str, weights: dict[str, torch.Tensor]) -> dict[str, float]:
    """The losses of these weights over the held-out utterances of a store, by a stage that begins with none."""
    config = RunConfig.from_options(store=store, out=Path("nowhere"), stage=stage, **OPTIONS)
    setup = set_up(config, Silent())
    network(setup).load_state_dict(weights, strict=False)
    values = Validator(setup, None, Silent()).validate(0)
    return {name: value for name, value in values.items() if name in ("loss", "loss_mel", "loss_kl")}


def trained(run: Path, stage: str) -> dict[str, torch.Tensor]:
    state = load(Checkpoints(run / "checkpoints").path(STEPS))["stage"]
    weights: dict[str, torch.Tensor] = state[initial_weights.NETWORKS[stage]]
    return weights


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_exactly_where_its_run_or_its_checkpoint_stood(
    stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    expected = validated(stores[1], stage, trained(runs[stage], stage))
    file = shutil.copy(Checkpoints(runs[stage] / "checkpoints").path(STEPS), tmp_path / "mine.pt")
    assert len(expected) == {"sovits": 2, "gpt": 1}[stage]
    for init, out in ((runs[stage], "a"), (Path(file), "b")):
        observer = begin(stores[1], tmp_path / out, stage, init)
        assert first(observer) == expected
        assert any(line.startswith("init: ") and f"step {STEPS}" in line for line in observer.messages)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("stage", STAGES)
def test_an_export_is_begun_with_within_rounding(
    stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    """What it lacks is the posterior encoder: that one begins as every run from nothing does."""
    file, _ = trained_models.export_run(runs[stage], tmp_path / "x.pth", mixed_origins=True)
    weights = {name: value for name, value in trained(runs[stage], stage).items() if not name.startswith("enc_q.")}
    expected = validated(stores[1], stage, weights)
    observer = begin(stores[1], tmp_path / "run", stage, file)
    assert first(observer) == pytest.approx(expected, rel=2e-3) and first(observer) != expected
    told = [line for line in observer.messages if "no posterior encoder (enc_q.*" in line]
    assert len(told) == (stage == "sovits")


@pytest.mark.soak
@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("stage", STAGES)
def test_a_voice_of_two_hundred_steps_goes_on_where_it_stood(
    stores: tuple[Path, Path], tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, options = 200, OPTIONS | {"validate_every": 100}
    config = RunConfig.from_options(store=stores[0], out=tmp_path / "run", stage=stage, max_steps=steps, **options)
    loop.start(config, Silent())
    state = load(Checkpoints(tmp_path / "run" / "checkpoints").path(steps))["stage"]
    weights = state[initial_weights.NETWORKS[stage]]
    expected = validated(stores[1], stage, weights)
    going_on = first(begin(stores[1], tmp_path / "on", stage, tmp_path / "run", at="newest"))
    assert going_on == expected
    file, _ = trained_models.export_run(tmp_path / "run", tmp_path / "x.pth", at="newest", mixed_origins=True)
    without = {name: value for name, value in weights.items() if not name.startswith("enc_q.")}
    of_export = validated(stores[1], stage, upstream_files.read(file).weights)
    exported = first(begin(stores[1], tmp_path / "exported", stage, file))
    assert exported == of_export
    assert exported == pytest.approx(validated(stores[1], stage, without), rel=2e-3)
    with capsys.disabled():
        print(
            f"\n{stage}: the run {expected}, begun with it {going_on}; its export {of_export}, begun with it {exported}"
        )


def test_a_run_brings_its_discriminators_along(
    stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    judges = load(Checkpoints(runs["sovits"] / "checkpoints").path(STEPS))["stage"]["discriminator"]
    config = RunConfig.from_options(store=stores[1], out=tmp_path, init=runs["sovits"], **OPTIONS)
    setup = set_up(config, Silent())
    told = setup.stage.load_pretrained(setup.config.model)
    assert any(line.startswith("init_discriminator: ") and str(runs["sovits"]) in line for line in told)
    made = setup.stage.discriminator.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(made[name], judges[name]) for name in judges)
    alone = set_up(config.with_options(init=None, init_discriminator=runs["sovits"]), Silent())
    alone.stage.load_pretrained(alone.config.model)
    made = alone.stage.discriminator.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(made[name], judges[name]) for name in judges)


def test_what_a_run_reads_is_printed_and_kept(stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path) -> None:
    for stage, origin in (
        ("sovits", Origin(reads="mfcc", content="MFCC")),
        ("gpt", Origin(reads="semantic")),
    ):
        told = begin(stores[0], tmp_path / stage, stage, runs[stage]).messages
        (line,) = (line for line in told if line.startswith("reads "))
        assert line.endswith(f": {origin}")
        state = load(Checkpoints(tmp_path / stage / "checkpoints").path(1))
        assert Origin.from_json(state["origin"]) == origin


def test_a_run_that_began_with_a_run_resumes_without_it(
    stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    source = shutil.copytree(runs["gpt"], tmp_path / "source")
    begin(stores[1], tmp_path / "run", "gpt", source)
    shutil.rmtree(source)
    assert loop.resume(tmp_path / "run", {"max_steps": 2}, Silent()) is not None


def test_what_is_no_such_weights_is_refused(stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = Checkpoints(runs["gpt"] / "checkpoints").path(STEPS)
    (tmp_path / "empty").mkdir()
    cut, old, link = tmp_path / "cut.pt", tmp_path / "old.pt", tmp_path / "link"
    cut.write_bytes(checkpoint.read_bytes()[:-500])
    torch.save(torch.load(checkpoint, weights_only=True) | {"format": 99}, old)
    link.symlink_to(link)
    bare = shutil.copytree(runs["gpt"], tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    for init, at, message in (
        (runs["sovits"], "", "is a run of stage sovits, and what is needed here is one of stage gpt"),
        (Checkpoints(runs["sovits"] / "checkpoints").path(STEPS), "", "holds generator and discriminator"),
        (tmp_path / "empty", "", "is not the folder of a run"),
        (bare, "", "has no checkpoint yet"),
        (cut, "", "is damaged, or not a checkpoint"),
        (old, "", "has format 99, this version reads 2"),
        (link, "", "Cannot read"),
        (runs["gpt"], "7", "has no checkpoint of step 7: it has those of 2"),
    ):
        with pytest.raises(RunError, match=message):
            begin(stores[1], tmp_path / "run", "gpt", init, at=at)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="--at is 'last'; give best, newest, or the step"):
        begin(stores[1], tmp_path / "run", "gpt", runs["gpt"], at="last")


def test_a_run_that_goes_on_may_delete_what_was_chosen(runs: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    run = shutil.copytree(runs["gpt"], tmp_path / "run")
    checkpoints = Checkpoints(run / "checkpoints")
    read = trained_models.load

    def delete_first(path: Path) -> Any:
        if path == checkpoints.path(STEPS):
            path.rename(checkpoints.path(STEPS + 1))
        return read(path)

    monkeypatch.setattr(trained_models, "load", delete_first)
    assert trained_models.choose(run, "gpt").state["step"] == STEPS


def test_the_command_takes_a_run(stores: tuple[Path, Path], runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["run", stores[1], "--stage", "gpt", "--out", tmp_path / "run", "--init", runs["gpt"], "--at", "newest"]
    words += ["--preset", "tiny", "--max-steps", "1", "--batch-frames", "400"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    assert f"tensors of {runs['gpt']}, step 2 (the newest)" in result.stderr
    assert not isinstance(result.exception, HeadraceError)


@pytest.mark.usefixtures("published")
def test_a_model_of_mfcc_is_not_exported_as_if_it_read_hubert(runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["export", str(runs["sovits"]), "--out", str(tmp_path / "x.pth")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and not (tmp_path / "x.pth").exists()
    assert "was trained on content by MFCC, and GPT-SoVITS makes content by HuBERT" in refused.stderr
    exported = CliRunner().invoke(main, [*words, "--mixed-origins"])
    assert exported.exit_code == 0 and "step 2 (the best of 1 validated" in exported.stderr
    assert initial_weights.read(tmp_path / "x.pth", "generator").origin == Origin(reads="mfcc", content="MFCC")


def test_epochs_that_are_done_are_counted(runs: dict[str, Path], tmp_path: Path, monkeypatch: Any) -> None:
    """As upstream does it: weights after one epoch are those of e1."""
    monkeypatch.setitem(export.GPT_SIZES, "v2", gpt_config.tiny())
    run = shutil.copytree(runs["gpt"], tmp_path / "run")
    state = load(Checkpoints(run / "checkpoints").path(STEPS))
    state["stage"]["epoch"] = 2
    Checkpoints(run / "checkpoints").save(STEPS, state)
    file, _ = trained_models.export_run(run, tmp_path)
    assert file.name == "run-e1.ckpt" and upstream_files.read(file).info == "GPT-e1"


def test_published_weights_are_not_trained_on_clusters(tmp_path: Path) -> None:
    decoder = Text2SemanticDecoder(gpt_config.tiny())
    torch.save({"weight": decoder.state_dict()}, tmp_path / "s1.ckpt")
    model = ModelConfig(stage="gpt", preset="tiny", init=tmp_path / "s1.ckpt")
    origin = Origin(reads="semantic", content="MFCC", codes="k-means 0123456789ab")
    stage = GptStage(
        gpt_config.tiny(), precision=Precision.choose("fp32", CPU), device=CPU, optim=GptOptimConfig(), origin=origin
    )
    with pytest.raises(
        UsageError, match=r"does not say which .* are codes by k-means 0123456789ab, of content by MFCC"
    ):
        stage.load_pretrained(model)
    assert stage.load_pretrained(replace(model, mixed_origins=True))


def test_speech_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    wave = np.zeros(32_000, np.float32)
    wave[16_000:] = np.nan
    for write in (lambda: write_wave(tmp_path / "x.wav", wave, 32_000), lambda: raw_audio(wave, 32_000)):
        with pytest.raises(RunError, match=r"not finite from 0\.50 s on, at 16,000 of 32,000 samples"):
            write()
    assert not list(tmp_path.iterdir())
