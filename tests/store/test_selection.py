"""Conditions on utterances: they mean what Python means, refuse everything else, and their effect is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import store
from headrace.cli.train import main
from headrace.store import added_arrays as joined_features
from headrace.store.conditions import evaluate
from headrace.store.errors import RunError, UsageError
from headrace.store.schema import FeatureSpec
from headrace.store.selection import select
from headrace.train.config import DataConfig, RunConfig
from headrace.train.data.balance import copies, repetitions
from headrace.train.data.training_data import open_training_data
from headrace.train.trainer import loop
from tests.helpers.training_store import FRAMES, Silent, build

ROWS = [
    {"duration": 1.5, "speaker": "anna", "language": "de", "text": "ein Satz", "aligned": 1, "frames": 75},
    {"duration": 5.0, "speaker": "x", "language": "en", "text": "one sentence", "aligned": 0, "frames": 250},
    {"duration": 20.0, "speaker": "anna", "language": "en", "text": "a longer one", "aligned": 1, "frames": 1000},
    {"duration": 31.0, "speaker": "ü", "language": "ja", "text": "文", "aligned": 0, "frames": 1550},
]
COLUMNS = {
    name: lambda name=name: np.array([r[name] for r in ROWS], object if isinstance(ROWS[0][name], str) else None)
    for name in ROWS[0]
}


def matching(where: str) -> list[int]:
    holds = np.logical_and.reduce([mask for _, mask in evaluate(where, COLUMNS, len(ROWS))])
    return np.flatnonzero(holds).tolist()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("duration < 20 and speaker != 'x'", [0]),
        ("duration <= 20", [0, 1, 2]),
        ("1.5 < duration <= 20", [1, 2]),
        ("20 > duration > 2 > 1", [1]),
        ("speaker in ['anna', 'ü']", [0, 2, 3]),
        ("speaker not in ('anna',)", [1, 3]),
        ("language in []", []),
        ("frames in [75, 1000]", [0, 2]),
        ("'one' in text", [1, 2]),
        ("speaker in 'x and y'", [1]),
        ("aligned", [0, 2]),
        ("not aligned or duration < 2", [0, 1, 3]),
        ("(aligned or language == 'ja') and not speaker == 'anna'", [3]),
        ("frames / duration == 50 and -duration < -5", [2, 3]),
        ("frames - 2 * 250 + 1 > 0", [2, 3]),
        ("frames / aligned < 100", [0]),
        ("True", [0, 1, 2, 3]),
        ("duration < 9.99e299", [0, 1, 2, 3]),
        (" duration\n  < 2 ", [0]),
    ],
)
def test_meaning(where, rows):
    assert matching(where) == rows


NUMBERS = st.sampled_from(["duration", "frames", "aligned"]) | st.integers(-3, 1600).map(str)
TEXTS = st.sampled_from(["speaker", "language", "text", "'x'", '"anna"', "'one'", "''"])


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(" ".join)


SUMS = st.recursive(NUMBERS, lambda x: joined(st.just("("), x, st.sampled_from("+-*"), x, st.just(")")), max_leaves=4)
COMPARED = joined(SUMS, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), SUMS)
CHAINED = joined(SUMS, st.sampled_from(["<", "<="]), SUMS, st.sampled_from(["<", "!="]), SUMS)
MEMBER = joined(TEXTS, st.sampled_from(["in", "not in", "==", "!="]), TEXTS)
LISTED = joined(TEXTS, st.sampled_from(["in [", "not in ["]), TEXTS, st.just(","), TEXTS, st.just("]"))
CONDITIONS = st.recursive(
    COMPARED | CHAINED | MEMBER | LISTED,
    lambda x: joined(st.just("("), x, st.sampled_from(["and", "or"]), x, st.just(")")) | x.map("not {}".format),
    max_leaves=5,
)


@settings(deadline=None)
@given(CONDITIONS)
def test_a_condition_means_what_it_means_in_python(where):
    expected = [n for n, row in enumerate(ROWS) if eval(where, {"__builtins__": {}}, row)]
    assert matching(where) == expected


@pytest.mark.parametrize(
    ("where", "message", "place"),
    [
        ("durations < 3", "there is no column durations; the nearest are duration", 0),
        ("duration < 3 and sprecher == 'x'", "no column sprecher; the nearest are speaker", 17),
        ("zzz > 1", "there are aligned, duration, frames, language, speaker, text", 0),
        ("duration < 'x'", "duration is a number and 'x' is text", 11),
        ("speaker == 3", "speaker is text and 3 is a number", 11),
        ("speaker < 'b'", "text is compared by ==, !=, and in", 10),
        ("'ü' == speaker and text", "this is text and not a condition", 19),
        ("duration + text > 3", "this is text where a number is needed", 11),
        ("duration in 3", r"in takes a list, such as \['a', 'b'\], or two texts", 12),
        ("duration = 3", "this is not a condition", 9),
        ("duration <", "this is not a condition", None),
        ("duration is 3", "a number is compared by ==, !=, <, <=, >, >= and in", 12),
        ("duration < 3\0", "this is no condition", 13),
        ("duration < 1e400", "neither a number nor a text", 11),
        ("duration < 1e300", "neither a number nor a text", 11),
        ("duration < 3j", "neither a number nor a text", 11),
        ("None", "neither a number nor a text", 0),
    ],
)
def test_what_cannot_be_used_is_shown_in_its_place(where, message, place):
    with pytest.raises(UsageError, match=message) as caught:
        matching(where)
    assert caught.value.exit_code == 2
    text, caret = caught.value.details
    assert text == where
    assert place is None or caret == " " * place + "^"


@pytest.mark.parametrize(
    "where",
    [
        "__import__('os').system('true')",
        "speaker.upper() == 'X'",
        "speaker.__class__",
        "text[0] == 'a'",
        "(lambda: 1)()",
        "[1 for x in text]",
        "f'{duration}' == '1'",
        "(duration := 3)",
        "duration ** 9 > 1",
        "9 << 9",
        "duration if aligned else 1",
        "speaker in {'a': 1}",
        "*duration",
        "await duration",
        "'a' 'b' + 1",
        "\0",
        "(" * 500 + "1" + ")" * 500,
        "-" * 1900 + "1",
        "9" * 1999,
        "duration < 3 " * 999,
    ],
)
def test_nothing_else_is_understood(where):
    with pytest.raises(UsageError):
        matching(where)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from("duration speaker < == in not and or ( ) [ ] , 'x' 3 - . = : ü \\ # lambda".split())))
def test_any_input_is_a_condition_or_an_error_for_a_person(words):
    try:
        matching(" ".join(words))
    except UsageError as error:
        assert "\n" not in error.message


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("where") / "store").path


def test_a_selection_says_what_is_out_and_why(corpus):
    data = open_training_data(corpus, lambda _: {}, DataConfig(where="frames < 80 and id != 'utt3' and 'la' in text"))
    kept = [n for n, frames in enumerate(FRAMES) if frames < 80 and n != 3]
    assert sorted([*data.training, *data.validation]) == kept
    told = data.to_json()
    assert told["in"]["utterances"] == len(kept)
    assert told["in"]["hours"] == pytest.approx(sum(FRAMES[n] for n in kept) / 50 / 3600, abs=1e-6)
    assert told["in"]["utterances"] + told["out"]["utterances"] == len(FRAMES)
    assert [(reason["clause"], reason["utterances"]) for reason in told["reasons"]] == [
        ("frames < 80", 5),
        ("id != 'utt3'", 1),
        ("'la' in text", 0),
    ]
    assert told["training"]["utterances"] + told["validation"]["utterances"] == told["in"]["utterances"]
    assert any("not frames < 80: 5 utterances (0.1 min)" in line for line in data.lines())


def test_every_column_of_a_store_can_be_asked_for(corpus):
    wanted = (
        "duration < 1.5 and frames < 75 and phones > 1 and phones_n > 1 and aligned and "
        "characters == 2 and text == 'la' and speaker == 's' and language == 'en' and id != ''"
    )
    holds = select(store.open(corpus), wanted).mask
    assert np.flatnonzero(holds).tolist() == [n for n, frames in enumerate(FRAMES) if 20 <= frames < 75]


def test_a_feature_of_one_number_an_utterance_is_a_column(tmp_path):
    root = build(tmp_path / "store").path
    spec = FeatureSpec(name="loudness", axis="utterance", dtype="float32", channels=None)
    for part in range(2):
        values = np.arange(10, dtype=np.float32) / 2 + 5 * part
        joined_features.write(root, part, spec, values, {}, "none")
    joined_features.publish(root, spec, range(2))
    assert np.flatnonzero(select(store.open(root), "3 <= loudness < 6").mask).tolist() == [6, 7, 8, 9, 10, 11]


def test_nothing_selected_is_an_error(corpus):
    with pytest.raises(UsageError, match="meets the condition") as caught:
        open_training_data(corpus, lambda _: {}, DataConfig(where="frames > 1000 and aligned"))
    assert caught.value.details == (
        "not frames > 1000: 20 utterances (0.4 min)",
        "not aligned: 0 utterances (0.0 min)",
    )


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 2000)), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_balancing_leaves_no_utterance_out(corpus, evenness, seed):
    groups, frames = (np.array(column) for column in zip(*corpus, strict=True))
    repeated = repetitions(groups, frames, evenness)
    assert repeated.min() == 1
    times = copies(repeated, np.random.default_rng(seed))
    assert times.min() >= 1
    assert np.abs(times - repeated).max() < 1
    assert abs(times.sum() - repeated.sum()) < 1


def test_evenness_goes_from_as_it_is_to_equal():
    groups, frames = np.array([*"aaaaaaab"]), np.full(8, 100)
    np.testing.assert_array_equal(repetitions(groups, frames, 0.0), np.ones(8))
    even = repetitions(groups, frames, 1.0)
    assert even[:7].sum() == even[7:].sum() == 7
    assert repetitions(groups, frames, 0.5)[7] == pytest.approx(7**0.5, abs=1e-3)


def test_repetitions_are_right_on_average():
    repeated = np.array([1.0, 1.25, 3.5, 2.0])
    mean = np.mean([copies(repeated, np.random.default_rng(seed)) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(mean, repeated, atol=0.05)


def options(corpus: Path, out: Path, *more: str) -> list[str]:
    return ["run", str(corpus), "--out", str(out), "--preset", "tiny", "--max-steps", "1", "--json", *more]


def test_train_run_tells_and_keeps_its_condition(corpus, tmp_path):
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


def test_a_run_sees_what_was_selected_alone(corpus, tmp_path):
    observer = Silent()
    config = RunConfig.from_options(
        store=corpus, out=tmp_path / "run", preset="tiny", max_epochs=1, where="frames < 60"
    )
    loop.start(config, observer)
    kept = sum(frames < 60 for frames in FRAMES)
    assert sum(record["utterances"] for record in observer.records if record["split"] == "train") == kept - 1
    assert any(line.startswith("where frames < 60: ") for line in observer.said)
    with pytest.raises(RunError, match="another --where and --balance"):
        loop.resume(config.out, {"where": "", "balance": "language"}, Silent())
    assert config.with_options(balance_strength=1.0).data.balance_strength == 1.0
    with pytest.raises(UsageError, match="it must be from 0 to 1"):
        config.with_options(balance_strength=1.5)
    with pytest.raises(UsageError, match="balance is 'text'"):
        config.with_options(balance="text")
