"""Pruned runs and students are runs like all others: they train on, resume, speak, and say their sizes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints import export, initial_weights, trained_models
from headrace.train.checkpoints.checkpoint import Checkpoints, load
from headrace.train.config import RunConfig, read_config
from headrace.train.config_sections import ModelConfig
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.presets import PRESETS, Preset
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.stages.teachers import DecoderTeacher, GeneratorTeacher
from headrace.train.trainer import loop
from headrace.train.trainer.pruned_run import layer_changes, narrowed, prune_run
from tests.helpers.runs import untimed_lines
from tests.helpers.training_store import Silent, build

STAGES = ("sovits", "gpt")
STEPS = 2
OPTIONS: dict[str, Any] = {"preset": "tiny", "batch_frames": 400, "device": "cpu", "validate_every": 2}
SOVITS, GPT = sovits_config.tiny(), gpt_config.tiny()
SMALL = Preset(sovits=replace(SOVITS, n_layers=1, upsample_initial_channel=64), gpt=replace(GPT, layers=2))
"""Of tiny what `small` is of v2."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(build(tmp_path_factory.mktemp("smaller") / "store").path))


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for stage in STAGES:
        start(store, folder / stage, stage, max_steps=STEPS)
    return {stage: folder / stage for stage in STAGES}


def start(store: Path, out: Path, stage: str, **options: Any) -> list[dict[str, Any]]:
    """Train, and return all records."""
    observer = Silent()
    loop.start(RunConfig.from_options(store=store, out=out, stage=stage, **OPTIONS | options), observer)
    return observer.records


def resume(out: Path, **options: Any) -> list[dict[str, Any]]:
    observer = Silent()
    loop.resume(out, options, observer)
    return observer.records


def loss(record: dict[str, Any]) -> float:
    return float(record["loss" if "loss" in record else "loss_mel"])


def call(*words: object) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def network(run: Path, stage: str) -> SynthesizerTrn | Text2SemanticDecoder:
    return trained_models.load_sovits(run) if stage == "sovits" else trained_models.load_gpt(run)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_pruned_run_is_resumed_begun_with_and_loaded(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    result = call("prune", runs[stage], "--out", tmp_path / "pruned", "--layers", 0.3, "--json")
    assert result.exit_code == 0, result.output
    (said,) = json.loads(result.stdout)
    expected = narrowed({"sovits": SOVITS, "gpt": GPT}[stage], 0.3, 0.3)
    weights = load(Checkpoints(tmp_path / "pruned" / "checkpoints").path(0))["stage"][initial_weights.NETWORKS[stage]]
    assert said["parameters"] == sum(value.numel() for value in weights.values()) < said["parameters_before"]
    model = network(tmp_path / "pruned", stage)
    named = {"sovits": ("flow_channels", "decoder_channels"), "gpt": ("feed_forward_channels", "layers")}[stage]
    assert all(getattr(model.config, name) == getattr(expected, name) for name in named)

    first, *_, last = resume(tmp_path / "pruned", max_steps=2)
    assert (first["split"], first["step"], last["step"]) == ("validation", 0, 2)
    begun = start(store, tmp_path / "begun", stage, init=tmp_path / "pruned", at="0", max_steps=1)
    assert loss(begun[0]) == loss(first)
    twice = prune_run(tmp_path / "begun", tmp_path / "twice", 0.3)
    assert twice["parameters_before"] == said["parameters"] > twice["parameters"]
    assert network(tmp_path / "twice", stage).config != model.config


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_upstream_cannot_load_pruned_weights_and_gets_none(
    runs: dict[str, Path], tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.SOVITS_SIZES, "v2", SOVITS)
    monkeypatch.setitem(export.GPT_SIZES, "v2", GPT)
    trained_models.export_run(runs[stage], tmp_path / "whole.pth", mixed_origins=True)
    prune_run(runs[stage], tmp_path / "pruned", 0.5)
    with pytest.raises(UsageError, match="has the sizes of this model") as refused:
        trained_models.export_run(tmp_path / "pruned", tmp_path / "x.pth", mixed_origins=True)
    name = {"sovits": "flow_channels: 32 here, 0 in v2", "gpt": "feed_forward_channels: 256 here, 0 in v2"}[stage]
    assert name in refused.value.details and not (tmp_path / "x.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_importance_over_a_store_keeps_more_of_what_the_loss_depends_on(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    losses = []
    for out, given in (("sizes", None), ("losses", store)):
        prune_run(runs[stage], tmp_path / out, 0.9, store=given)
        losses.append(loss(resume(tmp_path / out, max_steps=1)[0]))
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_the_layers_that_change_least_go_and_the_others_stay_as_they_are(
    store: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    chosen = trained_models.choose(runs["gpt"], "gpt")
    weights = dict(chosen.state["stage"]["model"])
    changes = layer_changes(chosen, weights, store)
    assert len(changes) == GPT.layers and all(0 < change < 2 for change in changes)
    idle = weights | {
        f"h.layers.2.{name}": torch.zeros_like(weights[f"h.layers.2.{name}"])
        for name in ("self_attn.out_proj.weight", "self_attn.out_proj.bias", "linear2.weight", "linear2.bias")
    }
    assert min(range(GPT.layers), key=layer_changes(chosen, idle, store).__getitem__) == 2

    prune_run(runs["gpt"], tmp_path / "pruned", 0.3, layers=0.5, store=store)
    pruned = load(Checkpoints(tmp_path / "pruned" / "checkpoints").path(0))["stage"]["model"]
    kept = sorted(sorted(range(GPT.layers), key=changes.__getitem__)[2:])
    for place, layer in enumerate(kept):
        name = "self_attn.in_proj_weight"
        assert torch.equal(pruned[f"h.layers.{place}.{name}"], weights[f"h.layers.{layer}.{name}"])
    assert network(tmp_path / "pruned", "gpt").config.layers == 2
    prune_run(runs["gpt"], tmp_path / "even", 0.3, layers=0.5)
    even = load(Checkpoints(tmp_path / "even" / "checkpoints").path(0))["stage"]["model"]
    assert torch.equal(even["h.layers.1.norm1.weight"], weights["h.layers.3.norm1.weight"])


def test_bad_shares_and_folders_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    for share in ("0", "1", "nan", "-0.1"):
        assert call("prune", runs["gpt"], "--out", tmp_path / "x", "--channels", share).exit_code == 2
    with pytest.raises(UsageError, match=r"channels is 1\.5"):
        prune_run(runs["gpt"], tmp_path / "x", 1.5)
    with pytest.raises(UsageError, match=r"layers is 1\.0"):
        prune_run(runs["gpt"], tmp_path / "x", 0.3, layers=1.0)
    assert not (tmp_path / "x").exists()
    with pytest.raises(RunError, match="holds a run"):
        prune_run(runs["gpt"], runs["gpt"], 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_student_as_large_as_its_teacher_begins_as_the_teacher(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str
) -> None:
    taught = start(store, tmp_path / "student", stage, teacher=runs[stage], max_steps=1)
    begun = start(store, tmp_path / "begun", stage, init=runs[stage], max_steps=1)
    assert loss(taught[0]) == loss(begun[0])
    step = next(record for record in taught if record["split"] == "train")
    other = next(record for record in begun if record["split"] == "train")
    if stage == "gpt":
        assert step["loss_teacher"] == pytest.approx(0, abs=1e-4) and step["loss"] == other["loss"]
    else:  # it says what the teacher says, but for the noise of its posterior
        assert 0 < step["loss_teacher"] < 0.5 * (step["loss_mel"] + step["loss_fm"])
        assert step["loss_gen_all"] > other["loss_gen_all"] and step["loss_mel"] == other["loss_mel"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_small_student_resumes_exactly_and_only_with_its_teacher(
    store: Path, runs: dict[str, Path], tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "small", SMALL)
    options = {"preset": "small", "teacher": runs[stage], "grad_accum": 2}
    start(store, tmp_path / "whole", stage, max_steps=4, **options)
    start(store, tmp_path / "parts", stage, max_steps=2, **options)
    resume(tmp_path / "parts", max_steps=4)
    assert untimed_lines(tmp_path / "parts") == untimed_lines(tmp_path / "whole")
    config = network(tmp_path / "whole", stage).config
    assert config == (replace(SMALL.sovits, freeze_quantizer=True) if stage == "sovits" else SMALL.gpt)
    run = tmp_path / "parts"
    saved = json.loads((run / "config.json").read_text())
    assert saved["model"]["teacher"] == str(runs[stage]) and read_config(run).model.teacher == runs[stage]
    prune_run(run, tmp_path / "pruned", 0.3)
    assert read_config(tmp_path / "pruned").model.teacher is None
    saved["model"]["teacher_digest"] = "0" * 16
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(RunError, match="is not the teacher that this run was begun with"):
        resume(run, max_steps=5)


@pytest.mark.slow
def test_teachers_of_other_inputs_are_refused(
    store: Path, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    reads_more = replace(SOVITS, speaker_channels=8)
    with pytest.raises(UsageError, match=r"reads other inputs than this model \(speaker_channels\)"):
        GeneratorTeacher.load(ModelConfig(teacher=runs["sovits"]), reads_more, cpu)
    for student in (replace(GPT, codes=65), replace(GPT, symbols=733)):
        with pytest.raises(UsageError, match="knows 732 phones and 64 codes, and this model"):
            DecoderTeacher.load(ModelConfig(stage="gpt", teacher=runs["gpt"]), student, cpu)
    monkeypatch.setitem(export.SOVITS_SIZES, "v2", SOVITS)
    monkeypatch.setitem(PRESETS, "v2", PRESETS["tiny"])
    trained_models.export_run(runs["sovits"], tmp_path / "whole.pth", mixed_origins=True)
    with pytest.raises(UsageError, match="has no posterior encoder"):
        start(store, tmp_path / "b", "sovits", teacher=tmp_path / "whole.pth", max_steps=1)
    result = call("run", store, "--out", tmp_path / "c", "--teacher-weight", "0.3")
    assert result.exit_code == 2 and "give one by --teacher" in result.output


@pytest.mark.slow
def test_a_pruned_voice_speaks(store: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    for stage in STAGES:
        shutil.copytree(runs[stage], tmp_path / "voice" / stage)
    (tmp_path / "voice" / "voice.json").write_text(json.dumps({"store": str(store), "utterance": "utt3"}))
    done = call("prune", tmp_path / "voice", "--out", tmp_path / "pruned")
    assert done.exit_code == 0 and "of" in done.stdout, done.output
    said = ["--text", "La.", "--attempts", "1", "--out"]
    for name in ("voice", "pruned"):
        done = call("sample", "--voice", tmp_path / name, *said, tmp_path / f"{name}.wav")
        assert done.exit_code == 0 and "step" in done.output, done.output
    assert (tmp_path / "pruned.wav").read_bytes() != (tmp_path / "voice.wav").read_bytes()
    refused = call("sample", "--voice", runs["gpt"], *said, tmp_path / "x.wav")
    assert refused.exit_code == 1 and "is not a voice" in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_plan_counts_the_teacher(store: Path, runs: dict[str, Path], stage: str) -> None:
    words = ["plan", store, "--stage", stage, "--preset", "tiny", "--batch-frames", "300", "--device", "cpu"]
    alone, taught = (json.loads(call(*words, *more, "--json").stdout) for more in ([], ["--teacher", str(runs[stage])]))
    weights = load(Checkpoints(runs[stage] / "checkpoints").path(STEPS))["stage"][initial_weights.NETWORKS[stage]]
    assert alone["teacher_gib"] == 0
    assert 0.9 < taught["teacher_gib"] * 2**30 / sum(value.nbytes for value in weights.values()) <= 1
    assert taught["parameters"] == alone["parameters"] and taught["step_gib"] > 0
    assert taught["room"]["this device"] < alone["room"]["this device"]


def test_upstream_loads_small_and_so_do_we(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given = SynthesizerTrn(replace(PRESETS["small"].sovits, freeze_quantizer=True))
    file = tmp_path / "small.pth"
    assert export.export_sovits(file, given, name="x", epoch=1, step=2) == "v2"
    assert file.read_bytes()[:2] == b"01"  # upstream takes a small file without it for v1
    loaded = trained_models.load_sovits(file)
    assert loaded.config == PRESETS["small"].sovits
    weight = loaded.dec.conv_post.weight
    assert torch.equal(weight, given.dec.conv_post.weight.half().float())
    decoder = Text2SemanticDecoder(PRESETS["small"].gpt)
    assert export.export_gpt(tmp_path / "small.ckpt", decoder, epoch=1) == "v2"
    assert trained_models.load_gpt(tmp_path / "small.ckpt").config == PRESETS["small"].gpt
