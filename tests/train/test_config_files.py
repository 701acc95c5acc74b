"""Options of a run in a TOML file: round trips, precedence, mistakes, and what a resumed run makes of them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.cli.run_options import RUN
from headrace.cli.train import main as train
from headrace.store.errors import RunError, UsageError
from headrace.train.config import (
    CHOSEN_BY_RUN,
    OPTIONS,
    SECTION_OF,
    SECTIONS,
    RunConfig,
    read_options,
    resumed,
    write_options,
)
from tests.helpers import training_store
from tests.helpers.commands import call
from tests.helpers.runs import untimed_lines

OTHER_VALUES: dict[str, Any] = {
    "parallel": "fsdp",
    "pipeline_schedule": "gpipe", "compile": True, "cuda_graphs": False,
    "stage": "gpt", "preset": "tiny", "init": Path("a b/ü\n.pt"), "at": "newest", "codebook": "own", "dropout": 0.1,
    "init_discriminator": Path("s2D.pth"), "where": "speaker != \"x\\\"\x7f'", "balance": "speaker",
    "balance_strength": 1 / 3, "optimizer": "adamw", "lr_decay": 0.5, "device": "cpu", "precision": "fp32",
    "fp32_steps": 0, "save_every": "2 epochs", "checkpoint_to": "copies", "samples": 3, "voice": Path("s2G.pth"),
    "reduce": "bf16", "speeds": "1,0.45", "teacher": Path("t"), "teacher_weight": 0.25,
    "quantize": "int8", "learning_rate": 1e-5, "max_grad_norm": 1e-300, "overlap": False,
}  # fmt: skip
"""A value that is not the default, of each option that has not simply another number or flag."""


def other_value(name: str) -> Any:
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    default = getattr(SECTIONS[SECTION_OF[name]](), name)
    return not default if isinstance(default, bool) else default + 2


def config(**options: Any) -> RunConfig:
    return RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), **options)


def test_every_option_of_the_command_can_be_in_a_file_and_no_other() -> None:
    assert set(OPTIONS) == set(RUN)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_survives_a_file(name: str, tmp_path: Path) -> None:
    value = other_value(name)
    assert value != getattr(SECTIONS[SECTION_OF[name]](), name), "the default says nothing"
    write_options({name: value}, tmp_path / "my.toml")
    read = read_options(tmp_path / "my.toml")
    assert read == {name: value} and type(read[name]) is type(value)


def test_all_options_of_a_run_survive_a_file_together(tmp_path: Path) -> None:
    for stage in ("sovits", "gpt"):
        run = config(stage=stage, seed=3, max_steps=7, dropout=0.0, **({"kl_weight": 2} if stage == "sovits" else {}))
        write_options(run.options(), tmp_path / "my.toml")
        assert config(**read_options(tmp_path / "my.toml")) == run


@settings(deadline=None, max_examples=50)
@given(rate=st.floats(0, 1e9, allow_subnormal=True), where=st.text(st.characters(exclude_categories=["Cs"])))
def test_numbers_and_texts_survive_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rate: float, where: str
) -> None:
    file = tmp_path_factory.mktemp("config") / "my.toml"
    write_options({"learning_rate": rate, "where": where}, file)
    assert read_options(file) == {"learning_rate": rate, "where": where}


@pytest.mark.parametrize(
    "content, says",
    [
        ("learn_rate = 1", "'learn_rate' is no option; there are stage, preset, init,"),
        ("init_codes = 3", "'init_codes' is no option"),
        ("[optim]\nlearning_rate = 1", "'optim' is no option"),
        ("store = 'S'", "'store' is no option"),
        ("max_steps = '7'", "max_steps='7': max_steps must be a whole number"),
        ("max_steps = 7.0", "max_steps=7.0: max_steps must be a whole number"),
        ("max_steps = true", "max_steps=True: max_steps must be a whole number"),
        ("max_steps = -1", "max_steps is -1; it cannot be negative"),
        (f"seed = {1 << 62}", "seed must be finite, and less than 2 to the power of 62"),
        (f"seed = {1 << 61}", "it must be less than"),
        ("dpo = 1", "dpo=1: dpo must be true or false"),
        ("learning_rate = nan", "learning_rate=nan: learning_rate must be finite"),
        ("learning_rate = inf", "learning_rate must be finite"),
        ("lr_decay = 1.5", "lr_decay is 1.5; it must be from 0 to 1"),
        ("dropout = 1.0", "dropout is 1.0; it must be from 0 to less than 1"),
        ("dropout = -0.1", "dropout is -0.1"),
        ("stage = 'both'", "stage is 'both'; choose from sovits, gpt"),
        ("init = 1", "init=1: init must be a path"),
        ('voice = "a\\u0000b"', "voice must be a path"),
        ("keep = 1979-05-27", "keep must be a whole number"),
        ("where = ['a', 'b']", "where must be a string"),
        ("rank_timeout = 0", "rank_timeout is 0.0; it must be greater than 0"),
        ("max_steps = 1\nmax_steps = 2", "is not TOML"),
        ("max_steps", "is not TOML"),
        ("a = " + "[" * 100_000, "my.toml"),
        (f"where = {'x' * 90_000!r}\nseed = '{'y' * 90_000}'", "seed must be a whole number"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_line_with_its_key(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(content, encoding="utf-8")
    result = call(train, "run", "STORE", "--out", tmp_path / "RUN", "--config", tmp_path / "my.toml")
    (line,) = result.output.splitlines()
    assert result.exit_code == 2 and line.startswith(f"Error: The config {tmp_path / 'my.toml'}") and says in line
    assert len(line) < 1500 and not (tmp_path / "RUN").exists()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "binary.toml"):
        with pytest.raises(UsageError, match=f"The config {path}"):
            read_options(path)


def test_the_command_line_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the file before the defaults; a flag can be switched off again."""
    seen: list[RunConfig] = []
    monkeypatch.setattr("headrace.train.trainer.loop.start", lambda run, _: seen.append(run))
    (tmp_path / "my.toml").write_text("stage = 'gpt'\nmax_steps = 7\nseed = 3\noverlap = true\ncompile = true\n")
    words = ("--max-steps", 9, "--no-overlap", "--fixed-shapes", 4)  # compile needs fixed shapes, from wherever
    call(train, "run", "STORE", "--out", tmp_path / "RUN", "--config", tmp_path / "my.toml", *words)
    assert seen == [
        RunConfig.from_options(
            store=Path("STORE"), out=tmp_path / "RUN", stage="gpt", max_steps=9, seed=3, overlap=False, compile=True,
            fixed_shapes=4,
        )
    ]  # fmt: skip


@pytest.mark.slow
def test_a_saved_file_reproduces_the_run_and_resumes_it(tmp_path: Path) -> None:
    built = training_store.build(tmp_path / "STORE").path
    small = ("--stage", "gpt", "--preset", "tiny", "--device", "cpu", "--batch-frames", 300, "--validate-every", 1)
    tuned = ("--dropout", 0.2, "--learning-rate", 0.0123, "--max-steps", 2, "--seed", 5)
    file = tmp_path / "my.toml"
    one, other = tmp_path / "one", tmp_path / "other"
    assert call(train, "run", built, "--out", one, *small, *tuned, "--save-config", file).exit_code == 0
    assert call(train, "run", built, "--out", other, "--config", file).exit_code == 0
    assert untimed_lines(one) == untimed_lines(other) and len(untimed_lines(one)) == 4
    again = call(train, "run", built, "--out", other, "--resume", "--config", file, "--max-steps", 3)
    assert again.exit_code == 0, again.output
    assert untimed_lines(other)[-1]["step"] == 3
    file.write_text(file.read_text().replace("seed = 5", "seed = 6"))
    refused = call(train, "run", built, "--out", other, "--resume", "--config", file)
    assert refused.exit_code == 1 and "was started with another --seed: leave that out to resume" in refused.output


def test_what_a_run_has_chosen_stays_when_a_file_leaves_it_open(tmp_path: Path) -> None:
    chosen = config(batch_frames=1600, max_utterances=12, chunk_locality=1, codebook="own", max_steps=7)
    (tmp_path / "config.json").write_text(json.dumps(chosen.to_json()))
    now = resumed(tmp_path, config(max_steps=9).options())
    assert now == chosen.with_options(out=tmp_path, max_steps=9)
    with pytest.raises(RunError, match="another --batch-frames"):
        resumed(tmp_path, {"batch_frames": 800})
    assert all(not getattr(section, field.name) for section in (config().model, config().data)
               for field in fields(section) if field.name in CHOSEN_BY_RUN)  # fmt: skip
