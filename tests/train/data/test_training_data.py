"""The utterances that a training run sees: those that its condition selects, balanced as its options say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from headrace.cli.train import main
from headrace.store.errors import RunError, StoreError, UsageError
from headrace.store.schema import FeatureSpec
from headrace.train.config import RunConfig
from headrace.train.data.training_data import _check_features
from headrace.train.trainer import loop
from tests.helpers.training_store import FRAMES, Silent, build


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("where") / "store").path


def options(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["run", str(corpus), "--out", str(out), "--preset", "tiny", "--max-steps", "1", "--json", *more]


def test_train_run_reports_and_keeps_its_condition(corpus, tmp_path):
    """--json carries the report, the checkpoint the condition; with another one the run does not go on."""
    out = tmp_path / "run"
    done = CliRunner().invoke(main, options(corpus, out, "--where", "frames < 60", "--balance", "speaker"))
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["data"]
    assert told["where"] == "frames < 60"
    assert told["in"]["utterances"] == sum(frames < 60 for frames in FRAMES)
    assert told["epoch"]["utterances"] == told["training"]["utterances"]
    again = CliRunner().invoke(
        main, options(corpus, out, "--resume", "--where", "frames < 70", "--balance-strength", "1")
    )
    assert again.exit_code == 1
    assert "where: frames < 60 in" in again.stderr
    assert "frames < 70 now" in again.stderr
    assert "--balance-strength: 0.5 in" in again.stderr
    wrong = CliRunner().invoke(main, options(corpus, tmp_path / "other", "--where", "frames < sixty"))
    assert wrong.exit_code == 2
    assert "there is no column sixty" in wrong.stderr


def test_a_run_trains_on_selected_utterances_only(corpus, tmp_path):
    observer = Silent()
    config = RunConfig.from_options(
        store=corpus, out=tmp_path / "run", preset="tiny", max_epochs=1, where="frames < 60"
    )
    loop.start(config, observer)
    kept = sum(frames < 60 for frames in FRAMES)
    assert sum(record["utterances"] for record in observer.records if record["split"] == "train") == kept - 1
    assert any(line.startswith("where frames < 60: ") for line in observer.messages)
    with pytest.raises(RunError, match="another --where and --balance"):
        loop.resume(config.out, {"where": "", "balance": "language"}, Silent())
    assert config.with_options(balance_strength=1.0).data.balance_strength == 1.0
    with pytest.raises(UsageError, match="it must be from 0 to 1"):
        config.with_options(balance_strength=1.5)
    with pytest.raises(UsageError, match="balance is 'text'"):
        config.with_options(balance="text")


@pytest.mark.parametrize(
    ("recipe", "advice"),
    [
        ({"quantiser": "gpt-sovits"}, "import one with store import DIR --out STORE --features wave,phones"),
        ({"quantiser": "gpt-sovits", "weights": "aa"}, "build a store with featurize build CORPUS --out STORE"),
    ],
)
def test_a_store_that_was_imported_is_imported_again_with_what_is_missing(recipe: dict[str, str], advice: str) -> None:
    spec = FeatureSpec(name="semantic", axis="tokens", dtype="int16", channels=None, recipe=recipe)
    with pytest.raises(StoreError, match=f"reads wave, phones too: {advice}"):
        _check_features(Path("S"), {"wave": {}, "phones": {}, "semantic": {}}, {"semantic": spec})
