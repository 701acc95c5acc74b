"""What a person sees and hears of a run: the terminal, TensorBoard, samples and opinions on them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from rich.console import Console

from headrace.cli import output
from headrace.cli.run_progress import TrainProgress
from headrace.cli.train import main
from headrace.store.errors import StoreError, UsageError
from headrace.store.integrity import checksummed_metadata
from headrace.train.config import RunConfig
from headrace.train.models.attention import MultiHeadAttention
from headrace.train.monitoring import evaluation_samples
from headrace.train.monitoring.tensorboard import TensorBoard
from headrace.train.trainer import loop
from tests.helpers.full_disk import full_disk
from tests.helpers.runs import untimed
from tests.helpers.training_store import Silent, build

board = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Three of the utterances are held out."""
    store = build(tmp_path_factory.mktemp("watch") / "store", frames=range(30, 60))
    return RunConfig.from_options(
        store=store.path, out=Path("nowhere"), preset="tiny", batch_frames=200, max_steps=4, validate_every=2
    )


@pytest.fixture(autouse=True)
def opinions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loudness, and quickly: the networks take a second for each sample."""
    monkeypatch.setattr(evaluation_samples, "scorer", lambda: lambda wave, rate: {"mos": float(abs(wave).max())})


def go(config: RunConfig, out: Path, **changes: Any) -> tuple[Silent, dict[str, Any]]:
    observer = Silent()
    summary = loop.start(config.with_options(out=out, **changes), observer)
    assert summary is not None
    return observer, summary


@pytest.fixture(scope="module")
def watched(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Silent]:
    out = tmp_path_factory.mktemp("watched") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_samples, "scorer", lambda: lambda wave, rate: {"mos": float(abs(wave).max())})
        return out, go(config, out, tensorboard=True)[0]


class TestSamples:
    def test_validations_synthesise_held_out_utterances(self, watched: tuple[Path, Silent]) -> None:
        out, observer = watched
        assert list(observer.spoken) == [2, 4]
        one = observer.spoken[4][0]
        wave, rate = soundfile.read(out / "samples" / "step-00000004" / f"{one.name}.wav", dtype="float32")
        assert rate == 32_000
        np.testing.assert_allclose(wave, one.generated, atol=1e-4)
        assert len(one.generated) == len(one.recorded) == 640 * len(one.mel_generated)
        recorded, _ = soundfile.read(out / "samples" / "recorded" / f"{one.name}.wav", dtype="float32")
        np.testing.assert_allclose(recorded, one.recorded, atol=1e-4)
        assert (out / "samples" / "step-00000002" / f"{one.name}.png").read_bytes().startswith(b"\x89PNG")

    def test_scores_are_in_the_record_of_the_validation(self, watched: tuple[Path, Silent]) -> None:
        held = [record for record in watched[1].records if record["split"] == "validation"]
        for record, heard in zip(held, watched[1].spoken.values(), strict=True):
            assert record["mos"] == pytest.approx(np.mean([abs(one.generated).max() for one in heard]))

    def test_writing_samples_does_not_change_training(self, config: RunConfig, watched: Any, tmp_path: Path) -> None:
        unheard, _ = go(config, tmp_path / "run")
        assert not unheard.spoken
        assert untimed(unheard.records) == untimed(watched[1].records)

    def test_attention_sums_to_one_and_alignments_end_with_the_frames(self, watched: Any) -> None:
        for one in watched[1].spoken[4]:
            np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-5)
            assert one.attention.shape == (len(one.mel_recorded), len(one.phone_ends))
            assert one.phone_ends[-1] == len(one.mel_recorded)

    def test_drawn_attention_is_that_of_the_model(self) -> None:
        """Its weights, times what is looked at, are its answer."""
        torch.manual_seed(0)
        attention = MultiHeadAttention(8, 1).eval()
        x, memory, mask = torch.randn(1, 8, 6), torch.randn(1, 8, 4), torch.tensor([[[True, True, True, False]]])
        with torch.no_grad(), evaluation_samples._attention_weights(attention) as seen:
            answer = attention(x, memory, mask)
            values = attention.conv_v(memory).mT
            torch.testing.assert_close(attention.conv_o((seen[0] @ values).mT), answer)
        assert (seen[0][..., 3] == 0).all()

    def test_gpt_samples_are_decoded_by_a_generator(self, config: RunConfig, watched: Any, tmp_path: Path) -> None:
        observer, _ = go(config, tmp_path / "run", stage="gpt", voice=watched[0], samples=3, max_steps=2)
        assert len(observer.spoken[2]) == min(3, observer.records[-1]["utterances"])
        assert all(one.attention is None and len(one.generated) % 1280 == 0 for one in observer.spoken[2])

    def test_a_full_disk_loses_samples_but_training_continues(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(evaluation_samples, "write_wave", full)
        observer, summary = go(config, tmp_path / "run", samples=1)
        assert summary["steps"] == 4
        assert "step 2: samples are not written, training continues: No space left on device" in observer.messages

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"stage": "gpt", "samples": 1}, "samples of the stage gpt are spoken by a sovits model"),
            ({"samples": 1, "validate_every": 0}, "validate_every cannot be 0"),
            ({"voice": Path("x"), "dpo": True}, "dpo and voice: only for the stage gpt"),
            ({"activations_8bit": True, "activation_checkpointing": True}, "choose one of them"),
            ({"stage": "gpt", "optimizer": "sgd"}, "choose from scaled_adam, adamw"),
        ],
    )
    def test_contradicting_options_are_refused(self, config: RunConfig, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            config.with_options(**changes)

    def test_a_voice_needs_recordings(self, config: RunConfig, watched: Any, tmp_path: Path) -> None:
        store = build(tmp_path / "store", frames=range(30, 60))
        root = json.loads((store.path / "zarr.json").read_text())
        root["attributes"]["features"] = [f for f in root["attributes"]["features"] if f["name"] != "wave"]
        (store.path / "zarr.json").write_bytes(checksummed_metadata.with_checksum(root))
        with pytest.raises(StoreError, match="but this stage reads wave too"):
            go(config, tmp_path / "run", store=store.path, stage="gpt", voice=watched[0], samples=1)


class TestTensorBoard:
    def events(self, folder: Path) -> Any:
        found = board.EventAccumulator(str(folder), size_guidance={"audio": 0, "images": 0, "scalars": 0})
        found.Reload()
        return found

    def test_curves_are_the_lines_of_the_run(self, watched: tuple[Path, Silent]) -> None:
        events = self.events(watched[0] / "tensorboard")
        steps = untimed(watched[1].records)
        for name in ("loss_mel", "loss_kl", "lr", "grad_norm_g", "grad_norm_d", "frames"):
            drawn = [(scalar.step, scalar.value) for scalar in events.Scalars(f"train/{name}")]
            assert drawn == [(record["step"], pytest.approx(record[name])) for record in steps], name
        assert len(events.Scalars("train/wait_share")) == 4
        assert [scalar.step for scalar in events.Scalars("validation/loss_mel")] == [2, 4]

    def test_audio_and_plots_are_those_of_the_samples(self, watched: tuple[Path, Silent]) -> None:
        events, spoken = self.events(watched[0] / "tensorboard"), watched[1].spoken[4]
        for one in spoken:
            assert [audio.step for audio in events.Audio(f"{one.name}/made")] == [2, 4]
            assert events.Audio(f"{one.name}/recorded")[0].sample_rate == 32_000
            assert [image.step for image in events.Images(f"{one.name}/picture")] == [2, 4]

    def test_a_resumed_run_draws_no_step_twice(self, config: RunConfig, tmp_path: Path) -> None:
        out = tmp_path / "run"
        go(config, out, tensorboard=True, samples=0, max_steps=3, checkpoint_every=2)
        (out / "checkpoints" / "step-00000003.pt").unlink()
        loop.resume(out, {"max_steps": 4}, Silent())
        events = self.events(out / "tensorboard")
        assert [scalar.step for scalar in events.Scalars("train/loss_mel")] == [1, 2, 3, 4]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_full_disk_ends_the_events_and_not_the_run(self, tmp_path: Path) -> None:
        said: list[str] = []
        with TensorBoard(tmp_path / "board", said.append) as writer:
            writer.started(0, None, ())
            for step in range(8):
                with full_disk(300):
                    writer.recorded({**RECORD, "step": step, "split": "validation"})
                    writer.samples_written(step, ())
        assert len(said) == 1 and "board cannot be written (File too large). The run goes on" in said[0]

    def test_events_that_cannot_even_begin_do_not_end_the_run(self, tmp_path: Path) -> None:
        said: list[str] = []
        (tmp_path / "board").write_text("mine")
        with TensorBoard(tmp_path / "board", said.append) as writer:
            writer.started(0, None, ())
            writer.recorded(RECORD)
            writer.samples_written(1, ())
        assert len(said) == 1 and (tmp_path / "board").read_text() == "mine"

    def test_missing_tensorboard_is_a_one_line_error(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        words = ("--out", str(tmp_path / "run"), "--preset", "tiny", "--tensorboard")
        result = CliRunner().invoke(main, ["run", str(config.store), *words])
        assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
        assert "pip install 'headrace[tensorboard]'" in result.stderr
        assert not (tmp_path / "run").exists()


RECORD = {
    "split": "train", "step": 20, "epoch": 2, "loss_mel": 20.0, "loss_kl": 2.0, "loss_gen_all": 9.0, "lr": 1e-4,
    "grad_norm_g": 5.0, "frames": 1000, "padding": 0.02, "utterances": 3, "wait_s": 0.05, "step_s": 0.5,
    "skipped": 1.0, "quarantined": 3, "precision": "fp16", "loss_scale": 65536.0,
}  # fmt: skip


class TestTerminal:
    def watch(self, monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False) -> str:
        console = Console(force_terminal=terminal, width=110, record=True, file=io.StringIO(), soft_wrap=not terminal)
        monkeypatch.setattr(output, "console", lambda: console)
        monkeypatch.setattr("headrace.cli.run_progress.LINE_EVERY_S", 0.0)
        with TrainProgress(quiet=quiet) as progress:
            progress.log("device cpu: no CUDA device is there")
            progress.started(10, 100, ("loss_mel",))
            progress.recorded(RECORD)
            progress.recorded({"split": "validation", "step": 20, "loss_mel": 21.0, "mos": 2.5})
            progress.samples_written(20, [])
        return str(console.export_text())

    def test_a_terminal_shows_progress_and_metrics(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = self.watch(monkeypatch, terminal=True)
        for shown in (
            "20 of 100, epoch 2, 40 s left",
            "20, 21 held out, DNSMOS 2.50",
            "mel 20, kl 2",
            "g 5, learning rate 0.0001",
            "2,000 frames/s, 0.500 s per step, 2.0% padding",
            "waited for 10.0% of the time",
            "fp16, loss scale 65,536",
            "1 updates left out, 3 utterances quarantined",
        ):
            assert shown in text, shown

    def test_a_pipe_gets_plain_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.watch(monkeypatch, terminal=False).splitlines() == [
            "device cpu: no CUDA device is there",
            "step 20 of 100, epoch 2, mel loss 20, 2,000 frames/s, 10.0% waiting for data, 1 updates left out, 3 "
            "utterances quarantined, 40 s left",
            "step 20: validation mel loss 21, DNSMOS 2.50",
        ]

    def test_json_keeps_it_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.watch(monkeypatch, terminal=True, quiet=True) == ""

    def test_losses_that_are_not_finite_are_reported(self) -> None:
        progress = TrainProgress(quiet=True)
        progress.started(0, None, ("loss_mel",))
        progress.recorded(RECORD | {"loss_mel": None})
        assert "mel loss not finite" in progress._line()

    def test_a_run_of_epochs_estimates_its_last_step(self, config: RunConfig, tmp_path: Path) -> None:
        observer, summary = go(config, tmp_path / "run", max_steps=0, max_epochs=1, validate_every=0, batch_frames=700)
        assert observer.begun is not None and observer.begun[1] == summary["steps"]
