"""A run's config: sections, options by name, and config.json of runs that were made before it had sections."""

from pathlib import Path
from typing import Any

import pytest

from headrace.store.errors import RunError, UsageError
from headrace.train.config import SECTION_OF, RunConfig, config_path, resumed
from headrace.train.stages import gpt_features, sovits_features
from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
from tests.helpers import training_store
from tests.helpers.training_store import FRAMES

FORMER = (
    '{"store": "STORE", "out": "RUN", "stage": "gpt", "preset": "tiny", "init": "s1.ckpt", "init_discriminator": null,'
    ' "seed": 3, "batch_frames": 400, "max_utterances": 3, "where": "frames < 60", "balance": "speaker",'
    ' "evenness": 0.25, "fixed_shapes": 4, "max_steps": 9, "max_epochs": 0, "precision": "fp32", "fp32_steps": null,'
    ' "device": "cpu", "optimizer": "adamw", "dpo": true, "misaligned": true, "accumulate": 2, "warmup": 10,'
    ' "max_norm": 1.5, "recompute": true, "float8": false, "compile": false, "grow": true, "profile": 0,'
    ' "patience": 2, "checkpoint_every": 4, "validate_every": 5, "samples": 1, "voice": "s2G.pth",'
    ' "tensorboard": true}'
)
"""config.json as runs wrote it before there were sections."""


def config(**options: Any) -> RunConfig:
    return RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), **options)


@pytest.fixture
def former(tmp_path: Path) -> Path:
    config_path(tmp_path).write_text(FORMER)
    return tmp_path


def test_config_round_trip() -> None:
    given = config(stage="gpt", voice=Path("s2G.pth"), samples=2, init=Path("s1.ckpt"), max_steps=7)
    assert RunConfig.from_json(given.to_json()) == given


def test_no_two_sections_have_options_of_one_name() -> None:
    sections = config().to_json()
    assert len(SECTION_OF) == sum(len(sections[name]) for name in set(SECTION_OF.values()))


def test_config_of_a_run_from_before_sections(former: Path) -> None:
    expected = config(
        stage="gpt", preset="tiny", init=Path("s1.ckpt"), seed=3, batch_frames=400, max_utterances=3,
        where="frames < 60", balance="speaker", balance_strength=0.25, fixed_shapes=4, max_steps=9, precision="fp32",
        device="cpu", optimizer="adamw", dpo=True, upstream_mask=True, grad_accum=2, warmup_steps=10, max_grad_norm=1.5,
        activation_checkpointing=True, grow_batch=True, patience=2, checkpoint_every=4, validate_every=5, samples=1,
        voice=Path("s2G.pth"), tensorboard=True, chunk_locality=1, compile=False,
    )  # fmt: skip
    assert resumed(former, {}) == expected.with_options(out=former)


def test_options_that_a_run_keeps_are_named_as_on_the_command_line(former: Path) -> None:
    with pytest.raises(RunError, match="started with another --seed and --grad-accum") as caught:
        resumed(former, {"grad_accum": 8, "seed": 4, "max_steps": 20})
    assert caught.value.details == (f"--seed: 3 in {former}, 4 now", f"--grad-accum: 2 in {former}, 8 now")


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="no option 'accumulate'"):
        config(accumulate=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dpo": True, "upstream_mask": True}, "dpo and upstream_mask: only for the stage gpt"),
        ({"stage": "gpt", "samples": 1}, "spoken by a sovits model"),
        ({"samples": 1, "validate_every": 0}, "samples are synthesised by validations"),
        ({"grow_batch": True, "validate_every": 0}, "grow_batch follows the validation loss"),
        ({"patience": 1, "validate_every": 0}, "patience follows the validation loss"),
        ({"compile": True}, "give fixed_shapes too"),
        ({"grad_accum": -1}, "grad_accum is -1; it cannot be negative"),
        ({"balance": "text"}, "balance is 'text'; choose from speaker, language"),
    ],
)
def test_values_that_contradict_one_another(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config(**options)


@pytest.mark.parametrize("given, found", [(None, 0.0), (0.0, 0.0), (0.25, 0.25)])
def test_dropout_and_weights_reach_the_stages(given: float | None, found: float, tmp_path: Path) -> None:
    built = training_store.build(tmp_path / "STORE", FRAMES[:4])
    for stage, features, name in (("sovits", sovits_features, "p_dropout"), ("gpt", gpt_features, "dropout")):
        sizes = features.network_config(config(stage=stage, preset="tiny", dropout=given), built)
        assert getattr(sizes, name) == found
    optim = SovitsOptimConfig.from_config(config(preset="v2", mel_weight=20, kl_weight=0.5))
    assert (optim.mel_weight, optim.kl_weight) == (20, 0.5)
    assert SovitsOptimConfig.from_config(config(preset="v2")) == SovitsOptimConfig()
    with pytest.raises(UsageError, match="kl_weight: only for the stage sovits"):
        config(stage="gpt", kl_weight=0.5)
