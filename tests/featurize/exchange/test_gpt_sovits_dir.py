"""GPT-SoVITS' prepared directories: taken as they are, given back as they were, and refused where they are damaged."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace import store
from headrace.cli.store import main
from headrace.featurize.exchange import export_gpt_sovits, gpt_sovits_dir
from headrace.store.integrity.verify import verify
from tests.helpers import gpt_sovits_dirs
from tests.helpers.commands import build, call, part_bytes, scheduler
from tests.helpers.corpora import buzz


def take(folder: Path, out: Path, *words: object) -> str:
    done = call(main, "import", folder, "--out", out, "--scheduler", scheduler(), *words)
    assert done.exit_code == 0, done.output
    return done.output


def give(root: Path, out: Path) -> Path:
    done = call(main, "export", root, "--to", "gpt-sovits", "--out", out)
    assert done.exit_code == 0, done.output
    return out


def rejects(out: Path) -> dict[str, str]:
    lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}


def samples(file: Path) -> bytes:
    with wave.open(str(file)) as opened:
        return opened.readframes(opened.getnframes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt_sovits_dirs.make(tmp_path_factory.mktemp("prepared") / "exp")


@pytest.fixture(scope="module")
def taken(folder: Path) -> Path:
    out = folder.parent / "store"
    take(folder, out)
    return out


def test_everything_is_taken(folder: Path, taken: Path) -> None:
    corpus = store.open(taken)
    assert not list(verify(taken)) and not rejects(taken)
    assert corpus.complete and len(corpus) == 6 and set(corpus.languages) == {"zh", "en", "ja"}
    assert set(corpus.speakers) == {"exp"}
    shapes = {name: (spec.axis, spec.dtype, spec.channels) for name, spec in corpus.features.items()}
    assert shapes["content"] == ("frames", "float16", 768)
    assert shapes["bert"] == ("phones", "float16", 1024)
    assert shapes["semantic"] == ("tokens", "int16", None)
    assert shapes["speaker_vector"] == ("utterance", "float16", 20480)


def test_every_number_is_in_its_place(folder: Path, taken: Path) -> None:
    corpus = store.open(taken)
    rows = dict(line.split("\t") for line in (folder / gpt_sovits_dir.CODES).read_text().splitlines())
    for number, name in enumerate(corpus.ids):
        frames, whole = int(corpus.frames[number]), samples(folder / "5-wav32k" / name)
        assert corpus.read("wave", number).tobytes() == whole[: frames * 1280]
        assert int(corpus.column("samples_dropped")[number]) == len(whole) // 2 - frames * 640 < 640
        content = torch.load(folder / "4-cnhubert" / f"{name}.pt", weights_only=True).detach()[0].T.numpy()
        found = corpus.read("content", number)
        assert len(found) == frames and len(content) in (frames, frames - 1)
        assert np.array_equal(found[: len(content)], content) and np.array_equal(found[-1], content[-1])
        assert " ".join(map(str, corpus.read("semantic", number))) == rows[name]
        has_bert = (folder / "3-bert" / f"{name}.pt").exists()
        assert has_bert == (corpus.languages[number] == "zh") == corpus.read("bert", number).any()


def test_a_round_trip_keeps_every_number(folder: Path, taken: Path, tmp_path: Path) -> None:
    back = give(taken, tmp_path / "back")
    files = {path.relative_to(back).as_posix() for path in back.rglob("*") if path.is_file()}
    assert files == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} | {"back.list"}
    for file in back.rglob("*.pt"):
        one = torch.load(file, weights_only=True)
        other = torch.load(folder / file.relative_to(back), weights_only=True)
        assert one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    for file in (back / "5-wav32k").iterdir():
        before = samples(folder / "5-wav32k" / file.name)
        assert before.startswith(samples(file)) and len(before) - len(samples(file)) < 1280
    for name in ("2-name2text.txt", "6-name2semantic.tsv"):
        assert sorted((back / name).read_text().splitlines()) == sorted((folder / name).read_text().splitlines())
    (back / "back.list").rename(tmp_path / "train.list")
    take(back, tmp_path / "again", "--list", tmp_path / "train.list")
    one, other = store.open(taken), store.open(tmp_path / "again")
    assert one.ids.tolist() == other.ids.tolist() and one.texts.tolist() == other.texts.tolist()
    assert one.speakers.tolist() == other.speakers.tolist() and one.languages.tolist() == other.languages.tolist()
    for name in one.features:
        assert all(np.array_equal(one.read(name, n), other.read(name, n)) for n in range(len(one))), name


def test_float32_stays_float32(tmp_path: Path) -> None:
    folder = gpt_sovits_dirs.make(tmp_path / "exp", 3, dtype=torch.float32)
    half = folder / "4-cnhubert" / "utt 1.wav.pt"
    torch.save(torch.load(half, weights_only=True).detach().half(), half)
    take(folder, tmp_path / "store")
    corpus = store.open(tmp_path / "store")
    assert {corpus.features[name].dtype for name in gpt_sovits_dir.FOLDERS} == {"float32"}
    content = torch.load(half, weights_only=True)[0].T.float().numpy()
    assert np.array_equal(corpus.read("content", corpus.find("utt 1.wav"))[: len(content)], content)


def test_mel_and_mfcc_are_computed_where_asked_for(folder: Path, tmp_path: Path) -> None:
    take(folder, tmp_path / "store", "--features", "content,mel,mfcc")
    corpus = store.open(tmp_path / "store")
    assert set(corpus.features) >= {"wave", "phones", "content", "mel", "mfcc"} and "semantic" not in corpus.features
    from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe

    mel, _ = Spectral(SpectralRecipe()).features(
        torch.from_numpy(corpus.read("wave", 0).reshape(-1) / np.float32(32768))
    )
    np.testing.assert_allclose(corpus.read("mel", 0), mel, atol=0.01)


def test_an_interrupted_import_ends_with_the_same_bytes(tmp_path: Path) -> None:
    folder = gpt_sovits_dirs.make(tmp_path / "exp", 10, seconds=8)
    take(folder, tmp_path / "store")
    whole = part_bytes(tmp_path / "store")
    parts = sorted((tmp_path / "store" / "parts").glob("0*"))
    assert len(parts) > 1
    shutil.rmtree(parts[0])
    shutil.rmtree(tmp_path / "store" / "index")
    (tmp_path / "store" / "tmp" / "parts-00000-x").mkdir(parents=True)
    assert "1 of 2 parts" in take(folder, tmp_path / "store")
    assert part_bytes(tmp_path / "store") == whole and not list(verify(tmp_path / "store"))


def kill_and_finish(tmp_path: Path, kills: int) -> None:
    """Kill imports at random moments, then finish them."""
    folder = gpt_sovits_dirs.make(tmp_path / "exp", 12, seconds=8)
    take(folder, tmp_path / "store")
    whole, random = part_bytes(tmp_path / "store"), np.random.default_rng(kills)
    for number in range(kills):
        out = tmp_path / f"killed{number}"
        words = [
            "-c",
            "from headrace.cli.store import main; main()",
            "import",
            str(folder),
            "--out",
            str(out),
            "--workers",
            "1",
        ]
        process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (out / "zarr.json").exists():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 2))
        process.kill()
        process.wait(timeout=60)
        take(folder, out)
        assert part_bytes(out) == whole and not list(verify(out))


def test_a_killed_import_is_finished_to_the_same_bytes(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, 1)


@pytest.mark.soak
def test_twenty_killed_imports(tmp_path: Path) -> None:
    kill_and_finish(tmp_path, 20)


def test_a_full_disk_is_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("headrace.store.writer.write_array", full)
        done = call(main, "import", folder, "--out", tmp_path / "store", "--scheduler", scheduler())
    assert done.exit_code == 1 and "No space left on the device" in done.output and "run the same" in done.output
    take(folder, tmp_path / "store")
    assert not list(verify(tmp_path / "store"))


def test_a_changed_directory_is_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "exp")
    take(copy, tmp_path / "store")
    text = (copy / "2-name2text.txt").read_text()
    (copy / "2-name2text.txt").write_text(text.replace("hello world", "hallo welt"))
    done = call(main, "import", copy, "--out", tmp_path / "store", "--scheduler", scheduler())
    assert done.exit_code == 1 and "changed" in done.output and "Traceback" not in done.output


def _code(file: Path) -> None:
    class Run:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {file.parent / 'ran'}",)

    torch.save(Run(), file)


def _legacy_code(file: Path) -> None:
    file.write_bytes(pickle.dumps(os.getcwd) * 2)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


CONTENT, WAVE, BERT, VECTOR = (
    "4-cnhubert/utt 0.wav.pt",
    "5-wav32k/utt 0.wav",
    "3-bert/utt 0.wav.pt",
    "7-sv_cn/utt 0.wav.pt",
)
DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no tensor": (CONTENT, Path.unlink, "is not there"),
    "code": (CONTENT, _code, "without running code"),
    "old code": (CONTENT, _legacy_code, "without running code"),
    "cut tensor": (CONTENT, _cut, "without running code"),
    "empty tensor": (CONTENT, lambda file: file.write_bytes(b""), "without running code"),
    "text tensor": (CONTENT, lambda file: file.write_bytes(b"hello" * 99), "without running code"),
    "another width": (CONTENT, lambda file: torch.save(torch.zeros(1, 256, 49), file), r"\(1, 256, 49\), not \(1, 768"),
    "another length": (CONTENT, lambda file: torch.save(torch.zeros(1, 768, 7), file), r"\(1, 768, 7\), not \(1, 768"),
    "a dict": (CONTENT, lambda file: torch.save({"a": torch.zeros(3)}, file), "holds dict"),
    "whole numbers": (CONTENT, lambda file: torch.save(torch.zeros(1, 768, 49).long(), file), "holds torch.int64"),
    "not a number": (BERT, lambda file: torch.save(torch.full((1024, 7), np.nan).half(), file), "not finite"),
    "too few phones": (
        BERT,
        lambda file: torch.save(torch.zeros(1024, 6).half(), file),
        r"\(1024, 6\), not \(1024, 7\)",
    ),
    "another speaker": (VECTOR, lambda file: torch.save(torch.zeros(1, 192).half(), file), r"not \(1, 20480\)"),
    "another rate": (WAVE, lambda file: gpt_sovits_dirs.write_wave(file, np.zeros(32000), 44_100), "44100 Hz"),
    "stereo": (WAVE, lambda file: gpt_sovits_dirs.write_wave(file, np.zeros(64000), channels=2), "2 channels"),
    "cut wave": (WAVE, _cut, "cut short"),
    "no wave": (WAVE, lambda file: file.write_bytes(b"ID3" + bytes(999)), "no WAV"),
    "a folder": (WAVE, lambda file: (file.unlink(), file.mkdir()), "not a regular file"),
    "a pipe": (WAVE, lambda file: (file.unlink(), os.mkfifo(file)), "not a regular file"),
    "too short": (WAVE, lambda file: gpt_sovits_dirs.write_wave(file, np.zeros(640)), "too short"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_costs_its_utterance_alone(folder: Path, tmp_path: Path, case: str) -> None:
    file, damage, reason = DAMAGE[case]
    copy = shutil.copytree(folder, tmp_path / "exp")
    damage(copy / file)
    take(copy, tmp_path / "store")
    found = rejects(tmp_path / "store")
    assert list(found) == ["utt 0.wav"]
    assert re.search(reason, found["utt 0.wav"]), found
    assert len(store.open(tmp_path / "store")) == 5 and not list(verify(tmp_path / "store"))
    assert not (copy / "4-cnhubert" / "ran").exists()


LINES: dict[str, tuple[str, Callable[[str], str], str, str]] = {
    "a column too few": (
        "2-name2text.txt",
        lambda t: t.replace("\t[2, 2, 1, 2]", "", 1),
        "2-name2text.txt:1",
        "3 columns",
    ),
    "a tab in the text": ("2-name2text.txt", lambda t: t.replace(",是", "\t是", 1), "2-name2text.txt:1", "5 columns"),
    "an unknown phone": ("2-name2text.txt", lambda t: t.replace("n i2", "n X9", 1), "utt 0.wav", "no 'X9'"),
    "other counts": (
        "2-name2text.txt",
        lambda t: t.replace("[2, 2, 1, 2]", "[2, 2, 1]", 1),
        "utt 0.wav",
        "5 phones together",
    ),
    "no counts": ("2-name2text.txt", lambda t: t.replace("[2, 2, 1, 2]", "[-1, 'a']", 1), "utt 0.wav", "does not say"),
    "code for counts": (
        "2-name2text.txt",
        lambda t: t.replace("[2, 2, 1, 2]", "exit(1)", 1),
        "utt 0.wav",
        "does not say",
    ),
    "a line twice": ("2-name2text.txt", lambda t: t + t.splitlines()[0] + "\n", "2-name2text.txt:7", "second time"),
    "a path for a name": (
        "2-name2text.txt",
        lambda t: t + t.splitlines()[0].replace("utt", "../utt") + "\n",
        "../utt 0.wav",
        "lead elsewhere",
    ),
    "no codes": (
        "6-name2semantic.tsv",
        lambda t: "\n".join(line for line in t.splitlines() if "utt 0" not in line),
        "utt 0.wav",
        "no line for it",
    ),
    "words for codes": (
        "6-name2semantic.tsv",
        lambda t: re.sub("(utt 0.wav\t)", r"\1many ", t),
        "utt 0.wav",
        "not codes",
    ),
    "a large code": (
        "6-name2semantic.tsv",
        lambda t: re.sub(r"(utt 0.wav\t)\d+", r"\g<1>1024", t),
        "utt 0.wav",
        "0 to 1023",
    ),
    "twice the codes": (
        "6-name2semantic.tsv",
        lambda t: re.sub(r"(utt 0.wav\t)(.*)", r"\1\2 \2", t),
        "utt 0.wav",
        "not half as many",
    ),
    "codes of nothing": ("6-name2semantic.tsv", lambda t: t + "ghost.wav\t1 2 3\n", "ghost.wav", "codes without text"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_costs_its_utterance_alone(folder: Path, tmp_path: Path, case: str) -> None:
    file, change, where, reason = LINES[case]
    copy = shutil.copytree(folder, tmp_path / "exp")
    (copy / file).write_text(change((copy / file).read_text()))
    take(copy, tmp_path / "store")
    found = rejects(tmp_path / "store")
    assert reason in found.pop(where)
    assert not found or (list(found) == ["utt 0.wav"] and "audio without text" in found["utt 0.wav"])
    assert len(store.open(tmp_path / "store")) >= 5 and not list(verify(tmp_path / "store"))


def test_texts_go_out_in_words_as_their_phones_count_them(tmp_path: Path) -> None:
    """As upstream's own preparation writes its fourth column: it asks for as many counts as there are characters."""
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", buzz(0.5, 32_000, 0), 32_000)
    (tmp_path / "c.list").write_text("a.wav|anna|ZH|我有12个苹果。\nb.wav|anna|EN|I have $2.\n", encoding="utf-8")
    root, words = tmp_path / "STORE", ("--features", "wave,phones")
    assert build(tmp_path, root, *words).exit_code == 0
    back = give(root, tmp_path / "back")
    lines = (back / gpt_sovits_dir.TEXTS).read_text(encoding="utf-8").splitlines()
    chinese, english = (next(line.split("\t") for line in lines if line.startswith(name)) for name in "ab")
    assert chinese[2:] == ["[2, 2, 2, 2, 2, 2, 2, 1]", "我有十二个苹果."] and english[2:] == [
        "None",
        "I have two dollars.",
    ]
    assert "我有12个苹果。" in (back / "back.list").read_text(encoding="utf-8")
    again = store.open(take(back, tmp_path / "again") and tmp_path / "again")
    assert [again.read("phone_word", again.find("a.wav")).tolist()] == [np.repeat(range(8), [2] * 7 + [1]).tolist()]
    assert build(tmp_path, tmp_path / "IPA", *words, "--symbols", "headrace-ipa").exit_code == 0
    refused = call(main, "export", tmp_path / "IPA", "--to", "gpt-sovits", "--out", tmp_path / "no")
    assert refused.exit_code == 1 and "--symbols gpt-sovits-v2" in refused.stderr


def test_content_that_upstream_does_not_read_is_not_exported(tmp_path: Path) -> None:
    """The content of a plain build is MFCC; upstream's networks read 768 channels of HuBERT."""
    soundfile.write(tmp_path / "a.wav", buzz(0.5, 32_000, 0), 32_000)
    (tmp_path / "c.list").write_text("a.wav|anna|EN|Hello there.\n", encoding="utf-8")
    root, out = tmp_path / "STORE", tmp_path / "no"
    assert build(tmp_path, root, "--features", "wave,phones,content").exit_code == 0
    channels = store.open(root).features["content"].channels
    refused = call(main, "export", root, "--to", "gpt-sovits", "--out", out)
    assert refused.exit_code == 1 and not out.exists() and len(refused.stderr.strip().splitlines()) == 1
    assert f"has content of {channels} channels in" in refused.stderr and channels != 768
    assert "upstream reads 768" in refused.stderr and "by HuBERT" in refused.stderr


def test_a_directory_without_the_rest_is_taken_without_it(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "exp")
    for name in ("3-bert", "4-cnhubert", "7-sv_cn"):
        shutil.rmtree(copy / name)
    (copy / "3-bert").mkdir()  # as it is where nobody speaks Chinese
    (copy / "6-name2semantic.tsv").unlink()
    assert "without mel and mfcc" in take(copy, tmp_path / "store")
    corpus = store.open(tmp_path / "store")
    assert list(corpus.features) == ["wave", "phones", "phone_end", "phone_frames", "phone_word"] and len(corpus) == 6
    assert (
        "without content, bert, speaker_vector, semantic"
        in call(main, "export", tmp_path / "store", "--to", "gpt-sovits", "--out", tmp_path / "back").output
    )


@pytest.mark.parametrize(
    "missing, words, code, message",
    [
        ("2-name2text.txt", (), 1, "it has no 2-name2text.txt"),
        ("5-wav32k", (), 1, "it has no 5-wav32k"),
        ("7-sv_cn", ("--features", "speaker_vector"), 2, "--features has speaker_vector"),
        ("", ("--features", "pitch"), 2, "--features has pitch"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, tmp_path: Path, missing: str, words: tuple[str, ...], code: int, message: str
) -> None:
    copy = shutil.copytree(folder, tmp_path / "exp")
    if missing:
        (shutil.rmtree if (copy / missing).is_dir() else os.unlink)(copy / missing)
    done = call(main, "import", copy, "--out", tmp_path / "store", "--scheduler", scheduler(), *words)
    assert done.exit_code == code and message in done.output and not (tmp_path / "store").exists()


def test_nothing_usable_is_one_error(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "exp")
    for file in (copy / "4-cnhubert").iterdir():
        file.unlink()
    done = call(main, "import", copy, "--out", tmp_path / "store", "--scheduler", scheduler())
    assert done.exit_code == 1 and "None of the 6 utterances" in done.output and "is not there" in done.output


def test_an_export_is_there_whole_or_not_at_all(taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    out = tmp_path / "back"
    killed = tmp_path / ".back.unfinished" / f"draft-{'0' * 32}" / "5-wav32k"
    killed.mkdir(parents=True)
    monkeypatch.setattr(export_gpt_sovits.Path, "write_bytes", full)
    done = call(main, "export", taken, "--to", "gpt-sovits", "--out", out)
    assert done.exit_code == 1 and "No space left on the device" in done.output and not list(tmp_path.iterdir())
    monkeypatch.undo()
    give(taken, out)
    done = call(main, "export", taken, "--to", "gpt-sovits", "--out", out)
    assert done.exit_code == 2 and "is there already" in done.output


@given(st.lists(st.integers(1, 4)))
def test_words_are_the_counts(counts: list[int]) -> None:
    words = gpt_sovits_dir.words(str(counts), sum(counts))
    assert np.bincount(words, minlength=0).tolist() == counts


def test_upstreams_own_fixture(golden: Path, tmp_path: Path) -> None:
    folder = golden / "exp_mini"
    take(folder, tmp_path / "store")
    found = rejects(tmp_path / "store")
    assert set(found) == {"f_nohub.wav", "g_unkn.wav"}
    assert "4-cnhubert" in found["f_nohub.wav"] and "NOTASYMBOL" in found["g_unkn.wav"]
    back = give(tmp_path / "store", tmp_path / "back")
    for file in back.rglob("*.pt"):
        one = torch.load(file, weights_only=True)
        other = torch.load(folder / file.relative_to(back), weights_only=True)
        assert one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.detach())
    corpus = store.open(tmp_path / "store")
    expected = json.loads((golden / "data_mini.json").read_text())["s2_v2"]["phoneme_ids"]
    assert {name: corpus.read("phones", corpus.find(name)).tolist() for name in expected} == expected


def test_recordings_are_as_long_as_upstreams_samplers_take_them_for(golden: Path, tmp_path: Path) -> None:
    """They go by the sizes of files, headers included."""
    for row in json.loads((golden / "alignment_table.json").read_text())["rows"]:
        export_gpt_sovits._write_wave(tmp_path / "one.wav", np.zeros(row["n32"], np.int16))
        size = (tmp_path / "one.wav").stat().st_size
        assert (size, size // 1280) == (row["wav_bytes"], row["sampler_len"])
