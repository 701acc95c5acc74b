"""Both models as commands: what they read, what they begin with, what is written, and one line for each bad input."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from headrace.cli.train import main
from headrace.store.errors import RecipeMismatch, RunError, StoreError, UsageError
from headrace.store.integrity import checksummed_metadata
from headrace.train.checkpoints import export, trained_models, upstream_files
from headrace.train.config import RunConfig, resumed
from headrace.train.models import sovits_config
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import tiny
from headrace.train.models.presets import PRESETS
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.monitoring import metrics
from headrace.train.trainer import loop
from tests.helpers.numbered_weights import number_weights
from tests.helpers.training_store import Silent, build


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("stages") / "store").path


@pytest.fixture(scope="module")
def config(store: Path) -> RunConfig:
    return RunConfig.from_options(
        store=store, out=Path("nowhere"), preset="tiny", batch_frames=400, max_steps=3, validate_every=3
    )


def go(config: RunConfig, out: Path, **changes: Any) -> tuple[dict[str, Any], Silent]:
    observer = Silent()
    summary = loop.start(config.with_options(out=out, **changes), observer)
    assert summary is not None
    return summary, observer


def saved(path: Path, module: torch.nn.Module) -> Path:
    """As upstream publishes weights."""
    torch.save({"weight": module.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with weights of the tiny networks."""
    folder, size = tmp_path_factory.mktemp("pretrained"), sovits_config.tiny()
    torch.manual_seed(7)
    generator = SynthesizerTrn(size)
    generator.quantizer.codebook.embed.normal_()
    generator.quantizer.codebook.inited.fill_(1)
    judges = MultiPeriodDiscriminator(size.periods, size.discriminator_width)
    return {
        "s2G": saved(folder / "s2G.pth", generator),
        "s2D": saved(folder / "s2D.pth", judges),
        "s1": saved(folder / "s1.ckpt", Text2SemanticDecoder(tiny())),
    }


@pytest.fixture(scope="module")
def decoder_run(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Silent]:
    out = tmp_path_factory.mktemp("gpt") / "run"
    return out, *go(config, out, stage="gpt", max_steps=30, warmup_steps=10)


class TestDecoder:
    def test_loss_falls_and_accuracy_is_reported(self, decoder_run: Any) -> None:
        out, summary, observer = decoder_run
        assert observer.begun == (0, 30, ("loss", "accuracy"))
        records = metrics.read(out / "metrics.jsonl")
        assert {"loss", "accuracy", "grad_norm", "skipped", "lr", "frames"} <= records[0].keys()
        steps = [r for r in records if r["split"] == "train"]
        assert np.mean([r["loss"] for r in steps[-3:]]) < 0.8 * steps[0]["loss"]
        assert steps[-1]["accuracy"] > steps[0]["accuracy"]
        assert 0 < summary["accuracy_validation"] <= 1 and summary["loss_validation"] > 0
        assert summary["tracked_metrics"] == ["loss", "accuracy"]
        assert (out / "curves.png").exists()

    def test_the_rate_rises_and_falls_until_the_last_step(self, decoder_run: Any) -> None:
        rates = [r["lr"] for r in decoder_run[2].records if r["split"] == "train"]
        assert int(np.argmax(rates)) == 10 and rates[0] == 1e-5 and rates[-1] < 0.1 * max(rates)

    def test_a_code_that_the_model_does_not_know_is_named(self, config: RunConfig, tmp_path: Path) -> None:
        wild = build(tmp_path / "store", codes=99)
        with pytest.raises(RunError, match=r"utt\d+ in .* has the semantic id \d+, and this model knows 0 to 63"):
            go(config, tmp_path / "run", store=wild.path, stage="gpt")

    def test_a_codebook_of_another_size(self, config: RunConfig, tmp_path: Path) -> None:
        with pytest.raises(RecipeMismatch, match=r"semantic made with codebook=64, but .* codebook=1024"):
            go(config, tmp_path / "run", stage="gpt", preset="v2")


class TestInit:
    def test_pretrained_weights_are_loaded_and_their_quantiser_is_frozen(
        self, config: RunConfig, pretrained: Any, tmp_path: Path
    ) -> None:
        files = {"init": pretrained["s2G"], "init_discriminator": pretrained["s2D"]}
        summary, observer = go(config, tmp_path / "run", **files)
        count = len(SynthesizerTrn(sovits_config.tiny()).state_dict())
        assert f"init: {count} tensors of {pretrained['s2G']}" in observer.messages
        assert "quantiser frozen: content is semantic" in observer.messages
        assert all(r["loss_commit"] == 0 for r in observer.records if r["split"] == "train")
        begun = torch.load(pretrained["s2G"], weights_only=True)["weight"]
        made = torch.load(summary["checkpoint"], weights_only=True)["stage"]["generator"]
        kept = [name for name in begun if name.startswith(("ssl_proj.", "quantizer."))]
        assert len(kept) == 6 and all(torch.equal(made[name], begun[name]) for name in kept)
        distance = (made["dec.conv_pre.weight"] - begun["dec.conv_pre.weight"]).abs().max()
        assert 0 < distance < 3 * 1e-3 * 1.1

    def test_a_run_from_pretrained_weights_resumes(self, config: RunConfig, pretrained: Any, tmp_path: Path) -> None:
        once, twice = tmp_path / "once", tmp_path / "twice"
        go(config, once, init=pretrained["s2G"], max_steps=4)
        go(config, twice, init=pretrained["s2G"], max_steps=2)
        loop.resume(twice, {"max_steps": 4}, Silent())
        ends = [
            torch.load(out / "checkpoints" / "step-00000004.pt", weights_only=True)["stage"]["generator"]
            for out in (once, twice)
        ]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        with pytest.raises(RunError, match="started with another --init"):
            resumed(twice, {"init": pretrained["s1"]})

    def test_the_decoder_too(self, config: RunConfig, pretrained: Any, tmp_path: Path) -> None:
        _, observer = go(config, tmp_path / "run", stage="gpt", init=pretrained["s1"], max_steps=1)
        assert any(line.startswith("init: ") and line.endswith("s1.ckpt") for line in observer.messages)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (
                "another network",
                "holds a text-to-semantic decoder of v2, and .* is a SoVITS generator",
            ),
            ("cut short", "is damaged, or not a checkpoint"),
            ("malicious", r"is refused: loading it would run posix\.mkdir"),
            ("another preset", "are not of this model: 0 missing, 0 unknown to it, [0-9]+ of another shape"),
            ("absent", "Cannot read .*: No such file"),
        ],
    )
    def test_unsuitable_files_are_refused(
        self, config: RunConfig, pretrained: Any, tmp_path: Path, fault: str, message: str
    ) -> None:
        path = tmp_path / "x.pth"
        if fault == "another network":
            path = pretrained["s1"]
        elif fault == "cut short":
            path.write_bytes(pretrained["s2G"].read_bytes()[:-1000])
        elif fault == "malicious":
            torch.save({"weight": Payload()}, path)
        elif fault == "another preset":
            saved(path, SynthesizerTrn(replace(sovits_config.tiny(), hidden_channels=32)))
        with pytest.raises(RunError, match=message):
            go(config, tmp_path / "run", init=path)
        assert not (tmp_path / "run").exists() and not (tmp_path / "executed").exists()

    def test_init_discriminator_is_refused_for_gpt(self, config: RunConfig) -> None:
        with pytest.raises(UsageError, match="init_discriminator is for the stage sovits"):
            config.with_options(stage="gpt", init_discriminator=Path("s2D.pth"))


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


class TestMissing:
    """What is not there is named, with the command that makes it."""

    def without(self, root: Path, *names: str) -> Path:
        build(root, frames=range(30, 40))
        described = json.loads((root / "zarr.json").read_text())
        there = described["attributes"]["features"]
        described["attributes"]["features"] = [spec for spec in there if spec["name"] not in names]
        (root / "zarr.json").write_bytes(checksummed_metadata.with_checksum(described))
        return root

    @pytest.mark.parametrize(
        ("lacking", "changes", "message"),
        [
            ("semantic", {"stage": "gpt"}, "reads semantic too: run featurize add .*store semantic"),
            ("phones", {"stage": "gpt"}, "reads phones too: build a store with .* --features phones"),
            ("mfcc", {}, "reads mfcc too: build a store with .* --features wave,mfcc,phones"),
            ("semantic", {"init": Path("s2G.pth")}, "reads semantic too: run featurize add .*store semantic"),
            ("", {"preset": "v2Pro"}, "reads speaker_vector too: run featurize add .*store speaker_vector"),
        ],
    )
    def test_a_feature(
        self, config: RunConfig, tmp_path: Path, lacking: str, changes: dict[str, Any], message: str
    ) -> None:
        path = self.without(tmp_path / "store", lacking)
        with pytest.raises(StoreError, match=message):
            go(config, tmp_path / "run", store=path, **changes)

    def test_codes_that_leave_out_the_last_frame(self, config: RunConfig, pretrained: Any, tmp_path: Path) -> None:
        """As upstream's own files of codes do: good for the decoder of text, not in place of content."""
        short = build(tmp_path / "store", short=True).path
        with pytest.raises(StoreError, match="the first is utt3 with 16 codes for 33 frames: run featurize add"):
            go(config, tmp_path / "run", store=short, init=pretrained["s2G"])
        go(config, tmp_path / "gpt", store=short, stage="gpt", max_steps=1)


def call(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


class TestExport:
    def test_an_exported_run_has_upstream_s_format(self, store: Path, tmp_path: Path, monkeypatch: Any) -> None:
        """Of the tiny sizes, as if they had been published."""
        monkeypatch.setitem(export.SOVITS_SIZES, "v2", sovits_config.tiny())
        monkeypatch.setitem(export.GPT_SIZES, "v2", tiny())
        for stage, file in (("sovits", "anna_e0_s1.pth"), ("gpt", "anna-e0.ckpt")):
            out, folder = tmp_path / stage / "anna", tmp_path / stage
            options = ("--stage", stage, "--preset", "tiny", "--max-steps", 1, "--batch-frames", 400)
            assert call("run", store, "--out", out, *options).exit_code == 0
            assert call("export", out, "--out", folder, "--mixed-origins").stdout == f"{folder / file}: v2\n"
            made = upstream_files.read(folder / file)
            newest = torch.load(out / "checkpoints" / "step-00000001.pt", weights_only=True)["stage"]
            weights = newest["generator" if stage == "sovits" else "model"]
            assert made.weights.keys() == {name for name in weights if not name.startswith("enc_q.")}
            assert all(torch.equal(tensor, weights[name].half()) for name, tensor in made.weights.items())

    def test_export_errors(self, decoder_run: Any, tmp_path: Path) -> None:
        tiny_run = call("export", decoder_run[0], "--out", tmp_path / "x.ckpt")
        assert tiny_run.exit_code == 2 and "No published version has the sizes of this model" in tiny_run.stderr
        assert "is not the folder of a run" in call("export", tmp_path, "--out", tmp_path / "x").stderr


@pytest.fixture(scope="module")
def speaker(config: RunConfig, pretrained: Any, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Words that every sample begins with."""
    folder = tmp_path_factory.mktemp("speaker")
    go(config, folder / "run", init=pretrained["s2G"], max_steps=1)
    words = ["--sovits", folder / "run", "--reference", voice(folder / "voice.wav")]
    return ["sample", *words, "--text", "Hello world.", "--device", "cpu"]


@pytest.fixture
def arguments(speaker: list[object], tmp_path: Path) -> list[object]:
    return [*speaker, "--out", tmp_path / "speech.wav"]


class TestSample:
    def test_text_becomes_speech(self, arguments: list[object], decoder_run: Any, tmp_path: Path) -> None:
        result = call(*arguments, "--gpt", decoder_run[0])
        assert result.exit_code == 0, result.stderr
        wave, rate = soundfile.read(tmp_path / "speech.wav")
        assert rate == 32_000 and len(wave) % 1280 == 0 and len(wave) >= 11 * 1280
        again = call(*arguments, "--gpt", decoder_run[0], "--seed", 0)
        assert again.exit_code == 0
        np.testing.assert_array_equal(soundfile.read(tmp_path / "speech.wav")[0], wave)

    def test_codes_become_speech(
        self, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.train.inference.synthesis.scorer", lambda: None)
        result = call(*arguments, "--semantic", "1 2 3 63 5")
        chosen, said = result.stderr.splitlines()
        assert chosen.startswith("weights of ") and "step 1 (the best of 1 validated, loss " in chosen
        assert said == f"{tmp_path / 'speech.wav'}: 0.20 s, 5 codes"
        assert len(soundfile.read(tmp_path / "speech.wav")[0]) == 5 * 1280

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ([], "Give either --gpt, which turns the text into codes, or those codes by --semantic"),
            (["--semantic", "1 x"], "give whole numbers between spaces"),
            (["--semantic", "64"], "codes of this model are from 0 to 63"),
            (["--semantic", "1", "--text", "..."], "The text cannot be spoken: nothing to speak"),
            (["--semantic", "1", "--text", "Hi", "--language", "xx"], "nothing here reads language 'xx'"),
            (["--semantic", "1", "--reference", "/nowhere.wav"], "Cannot read /nowhere.wav"),
            (["--semantic", "1", "--reference", __file__], "cannot be the reference"),
            (["--semantic", "1", "--sovits", "/nowhere.pth"], "Cannot read /nowhere.pth"),
        ],
    )
    def test_bad_input(self, arguments: list[object], changes: list[str], message: str, tmp_path: Path) -> None:
        result = call(*arguments, *changes)
        assert result.exit_code in (1, 2) and message in result.stderr
        lines = [line for line in result.stderr.splitlines() if not line.startswith("weights of ")]
        assert len(lines) == 1 and not (tmp_path / "speech.wav").exists()

    def test_runs_of_the_other_stage_are_told_apart(self, arguments: list[object], decoder_run: Any) -> None:
        result = call(*arguments, "--semantic", "1", "--sovits", decoder_run[0])
        assert "is a run of stage gpt, and what is needed here is one of stage sovits" in result.stderr
        with pytest.raises(RunError, match="holds 6 discriminators"):
            size = PRESETS["tiny"].sovits
            judges = MultiPeriodDiscriminator(size.periods, size.discriminator_width)
            trained_models.load_sovits(saved(Path(str(decoder_run[0])) / "D.pth", judges))


def voice(path: Path) -> Path:
    time = np.arange(48_000) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 150 * time) * (np.sin(5 * time) > -0.3), 16_000)
    return path


def test_a_voice_with_a_speaker_vector_needs_one(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = SynthesizerTrn(sovits_config.v2Pro())
    path = tmp_path / "voice.pth"
    export.export_sovits(path, number_weights(model), name="voice", epoch=1, step=1)
    words = ("--text", "Hello world.", "--semantic", "1 2", "--out", tmp_path / "x.wav", "--device", "cpu")
    result = call("sample", "--sovits", path, "--reference", voice(tmp_path / "v.wav"), *words)
    assert "This model reads a speaker vector beside the spectrogram" in result.stderr and result.exit_code == 2


def test_a_checkpoint_that_would_run_code_is_refused(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, max_steps=1)
    path = out / "checkpoints" / "step-00000001.pt"
    torch.save({"format": 2, "step": 1, "payload": Payload()}, path)
    with pytest.raises(RunError, match=r"No checkpoint in .* can be used") as caught:
        loop.resume(out, {}, Silent())
    assert "it holds other things than tensors and numbers: posix.mkdir" in caught.value.details[0]
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(RunError, match="No checkpoint"):
        loop.resume(out, {}, Silent())
    assert not Path("executed").exists()
