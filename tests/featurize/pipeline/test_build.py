"""`featurize build`: everything stored or rejected with a reason, resumed without a trace, clear about mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import zarr

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.integrity.verify import verify
from headrace.store.names import DRAFTS
from tests.helpers.commands import build, call, part_bytes
from tests.helpers.corpora import buzz, make_tree


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "STORE"
    assert build(corpus, out, "--part-hours", 0.002).exit_code == 0
    return out


def test_what_is_built_is_what_was_recorded(corpus: Path, built: Path) -> None:
    opened = store.open(built)
    assert len(opened) == 24 and opened.complete and not list(verify(built))
    spectral = Spectral(SpectralRecipe())
    for number in range(len(opened)):
        wave = opened.read("wave", number)
        mel, mfcc = spectral.features(torch.from_numpy(wave.ravel() / np.float32(32768)))
        assert np.array_equal(opened.read("mel", number), mel.half().numpy())
        assert np.array_equal(opened.read("mfcc", number), mfcc.half().numpy())
        info = soundfile.info(corpus / opened.ids[number])
        frames, dropped = divmod(info.frames * 32_000 // info.samplerate, 640)
        assert (opened.frames[number], opened.column("samples_dropped")[number]) == (frames, dropped)
    assert opened.texts[opened.find("speaker0/000.wav")].endswith(".")


def test_utterances_lie_in_order_of_length(built: Path) -> None:
    assert (np.diff(store.open(built).frames) >= 0).all()


def test_zarr_alone_reads_a_part(built: Path) -> None:
    group = zarr.open_group(built / "parts" / "00000", mode="r")
    offsets = np.concatenate(([0], np.cumsum(group["frames"][:])))
    opened = store.open(built)
    for n in range(len(offsets) - 1):
        assert np.array_equal(group["mel"][offsets[n] : offsets[n + 1]], opened.read("mel", n))


@pytest.mark.slow
def test_two_builds_are_the_same_bytes_with_any_number_of_workers(corpus: Path, built: Path, tmp_path: Path) -> None:
    words = ("build", corpus, "--out", tmp_path / "S", "--part-hours", 0.002, "--workers", 2)
    assert call(featurize, *words).exit_code == 0
    assert part_bytes(tmp_path / "S") == part_bytes(built)


def test_a_build_goes_on_where_another_stopped(corpus: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "STORE"
    shutil.copytree(built, out)
    sealed = sorted((out / "parts").iterdir())
    shutil.rmtree(sealed[1])
    shutil.rmtree(out / "index")
    (out / DRAFTS / f"00001-{'0' * 32}").mkdir(parents=True)
    untouched = sealed[0].stat().st_mtime_ns
    result = build(corpus, out, "--part-hours", 0.002, "--json")
    assert json.loads(result.stdout)["parts_built"] == 1
    assert sealed[0].stat().st_mtime_ns == untouched and part_bytes(out) == part_bytes(built)
    assert not (out / DRAFTS).exists() and not list(verify(out))


@pytest.mark.unaccounted
def test_a_part_of_another_store_is_not_taken_for_ours(corpus: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "STORE"
    shutil.copytree(built, out)
    shutil.rmtree(out / "parts" / "00001")
    shutil.copytree(out / "parts" / "00000", out / "parts" / "00001")
    result = build(corpus, out, "--part-hours", 0.002)
    assert result.exit_code == 1 and "00001 was made from other inputs: remove that folder" in result.stderr


def test_a_finished_store_is_left_alone(corpus: Path, built: Path) -> None:
    account = json.loads(build(corpus, built, "--part-hours", 0.002, "--json").stdout)
    assert account["parts_built"] == 0 and account["utterances"] == 24 and account["hours_built"] == 0


def test_bad_files_are_rejected_and_cost_no_good_one(tmp_path: Path) -> None:
    corpus = make_tree(tmp_path / "corpus", 6)
    for name in ("cut", "short", "nan", "zero", "wordless", "silent_words"):
        (corpus / f"{name}.txt").write_text("some words", encoding="utf-8")
    soundfile.write(corpus / "cut.flac", buzz(1, 32_000, 0), 32_000)
    data = (corpus / "cut.flac").read_bytes()
    (corpus / "cut.flac").write_bytes(data[: len(data) // 2])
    soundfile.write(corpus / "short.wav", buzz(0.03, 32_000, 0), 32_000)
    soundfile.write(corpus / "nan.wav", np.full(32_000, np.nan, np.float32), 32_000, subtype="FLOAT")
    soundfile.write(corpus / "zero.wav", np.zeros(0), 32_000)
    soundfile.write(corpus / "wordless.wav", buzz(1, 32_000, 0), 32_000)
    (corpus / "wordless.txt").write_text("... !", encoding="utf-8")
    (corpus / "noise.flac").write_bytes(b"not audio at all")
    (corpus / "noise.txt").write_text("some words", encoding="utf-8")
    soundfile.write(corpus / "textless.wav", buzz(1, 32_000, 0), 32_000)
    out = tmp_path / "STORE"
    result = build(corpus, out, "--strict", "--json")
    assert result.exit_code == 3
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {reject["id"].split(".")[0] for reject in rejects} == {
        "cut", "short", "nan", "zero", "wordless", "silent_words", "noise", "textless",
    }  # fmt: skip
    assert all(reject["reason"] and reject["stage"] for reject in rejects)
    assert json.loads(result.stdout)["utterances"] == 6 == len(store.open(out)) and not list(verify(out))


def test_features_can_be_chosen(corpus: Path, tmp_path: Path) -> None:
    assert build(corpus, tmp_path / "S", "--features", "mel", "--compression", "zstd").exit_code == 0
    opened = store.open(tmp_path / "S")
    assert list(opened.features) == ["mel"] and np.isfinite(opened.read("mel", 3)).all()


def test_json_is_one_object_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    for result in (call(featurize, "scan", corpus, "--json"), build(corpus, tmp_path / "S", "--json")):
        assert isinstance(json.loads(result.stdout), dict) and result.stderr == ""


def test_scan_tells_what_is_there_and_writes_nothing(corpus: Path) -> None:
    before = sorted(corpus.rglob("*"))
    report = json.loads(call(featurize, "scan", corpus, "--json").stdout)
    assert report["utterances"] == 24 and sum(report["histogram"].values()) == 24
    assert report["formats"]["flac 16 kHz"] and set(report["speakers"]) == {"speaker0", "speaker1"}
    assert report["estimate"]["store_bytes"] > 0 and report["estimate"]["seconds"] > 0
    assert sorted(corpus.rglob("*")) == before
    shown = call(featurize, "scan", corpus)
    assert "24 usable" in shown.stdout and shown.exit_code == 0


def test_the_estimate_of_size_is_about_right(corpus: Path, built: Path) -> None:
    estimated = json.loads(call(featurize, "scan", corpus, "--json").stdout)["estimate"]["store_bytes"]
    data = sum(len(b) for name, b in part_bytes(built).items() if "/c/" in name)
    assert 0.8 < estimated / data < 1.25


@pytest.mark.parametrize(
    "words, code, line",
    [
        (("no/such/corpus",), 2, "no/such/corpus"),
        (("{empty}",), 1, "{empty}"),
        (("{corpus}", "--preset", "v9"), 2, "no preset 'v9'"),
        (("{corpus}", "--features", "mel,smell"), 2, "smell"),
        (("{corpus}", "--device", "cuda"), 2, "--device cpu"),
        (("{corpus}", "--engine", "tali"), 2, "--engine"),
        (("{corpus}", "--recipe", "no.toml"), 2, "no.toml"),
        (("{corpus}", "--recipe", "no.toml", "--preset", "whisper-16k"), 2, "give one of them"),
        (("{corpus}", "--format", "ogg"), 2, "--format"),
        (("{corpus}", "--scheduler", "tcp://127.0.0.1:9"), 1, "No Dask scheduler answers"),
    ],
)
def test_mistakes_end_in_one_line_and_the_right_code(
    corpus: Path, tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    (tmp_path / "empty").mkdir()
    places = {"corpus": corpus, "empty": tmp_path / "empty"}
    result = call(featurize, "build", words[0].format(**places), "--out", tmp_path / "S", *words[1:])
    (error,) = (said for said in result.stderr.splitlines() if said.startswith(("Error: ", "Error ")))
    assert result.exit_code == code and line.format(**places) in error
    assert not (tmp_path / "S" / "parts" / "00000").exists()


def test_another_recipe_or_corpus_is_refused_with_both_shown(corpus: Path, built: Path, tmp_path: Path) -> None:
    before = part_bytes(built)
    result = build(corpus, built, "--part-hours", 0.002, "--features", "mel")
    assert result.exit_code == 1 and "begun with another features" in result.stderr
    assert "in store:" in result.stderr and "asked for:" in result.stderr
    more = tmp_path / "corpus"
    shutil.copytree(corpus, more)
    make_tree(more, 26)
    result = build(more, built, "--part-hours", 0.002)
    assert result.exit_code == 1 and "26 utterances" in result.stderr and part_bytes(built) == before


def test_folders_of_other_things_are_not_written_into(corpus: Path) -> None:
    result = build(corpus, corpus)
    assert result.exit_code == 2 and "holds other things" in result.stderr


def test_store_commands_answer(built: Path, tmp_path: Path) -> None:
    info = json.loads(call(store_command, "info", built, "--json").stdout)
    assert info["utterances"] == 24 and info["complete"]
    phones = {"phones", "phone_end", "phone_frames", "phone_word"}
    assert {f["name"] for f in info["features"]} == {"wave", "mel", "mfcc"} | phones
    assert "24 utterances" in call(store_command, "info", built).stdout
    assert "no problems" in call(store_command, "verify", built).stdout
    picture = tmp_path / "a.png"
    assert call(store_command, "show", built, "speaker0/001.flac", "--out", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    missing = call(store_command, "show", built, "speaker0/0010.flac", "--out", picture)
    assert missing.exit_code == 1 and "speaker0/001.flac" in missing.stderr
    for command in ("info", "verify"):
        nothing = call(store_command, command, tmp_path)
        assert nothing.exit_code == 1 and "is not a Headrace store" in nothing.stderr


def test_verify_fails_on_damage(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "STORE"
    shutil.copytree(built, out)
    path = next((out / "parts" / "00000" / "mel").rglob("0/0"))
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    result = call(store_command, "verify", out, "--json")
    (problem,) = json.loads(result.stdout)["problems"]
    assert result.exit_code == 1 and (problem["part"], problem["array"]) == (0, "mel")
