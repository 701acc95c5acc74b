"""A recording that is replaced by another of the same size is noticed; one that is touched or copied is the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile

from headrace import store
from headrace.cli.store import main as store_command
from headrace.featurize.pipeline import replaced_recordings
from headrace.featurize.pipeline.contents import Checksums
from headrace.store.integrity.verify import verify
from tests.helpers import gpt_sovits_dirs
from tests.helpers.commands import build, call, part_bytes, scheduler
from tests.helpers.corpora import buzz

RATE = 16_000
WORDS = ("--features", "wave,phones")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    for seed, name in enumerate("abc"):
        soundfile.write(root / f"{name}.wav", buzz(0.5, RATE, seed), RATE)
        (root / f"{name}.txt").write_text(f"hello number {name}")
    return root


def replace(path: Path, seed: int) -> None:
    before = path.stat()
    soundfile.write(path, buzz(0.5, RATE, seed), RATE)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def test_a_replaced_recording_is_noticed(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "STORE"
    assert build(corpus, out, *WORDS).exit_code == 0
    replace(corpus / "b.wav", 9)
    before = part_bytes(out)
    for _ in range(2):
        result = build(corpus, out, *WORDS)
        assert result.exit_code == 1 and "1 recordings were replaced since" in result.output
        assert "parts/00000: b.wav" in result.output and part_bytes(out) == before
    shutil.rmtree(out / "parts/00000")
    assert build(corpus, out, *WORDS).exit_code == 0, "as the message says"
    assert build(corpus, out, *WORDS).exit_code == 0 and part_bytes(out) != before


def test_a_replaced_recording_is_noticed_when_the_corpus_grows(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "STORE"
    assert build(corpus, out, *WORDS).exit_code == 0
    replace(corpus / "b.wav", 9)
    soundfile.write(corpus / "d.wav", buzz(0.7, RATE, 4), RATE)
    (corpus / "d.txt").write_text("hello again")
    result = build(corpus, out, *WORDS)
    assert result.exit_code == 1 and "were replaced since" in result.output
    assert store.open(out).complete and len(store.open(out)) == 3


def test_a_touched_or_copied_corpus_is_the_same(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "STORE"
    assert build(corpus, out, *WORDS).exit_code == 0
    before = part_bytes(out)
    for path in corpus.iterdir():
        os.utime(path, ns=(0, 10**18))
    result = build(corpus, out, *WORDS)
    assert result.exit_code == 0 and "comparing their contents" in result.output and part_bytes(out) == before
    monkeypatch.setattr(replaced_recordings, "checksum", lambda *_, **__: pytest.fail("nothing is read again"))
    assert build(corpus, out, *WORDS).exit_code == 0


def test_a_replaced_reject_is_noticed(corpus: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "STORE", (corpus / "b.wav").read_bytes()
    wave, _ = soundfile.read(corpus / "b.wav")
    soundfile.write(corpus / "b.wav", wave, RATE, "FLOAT")
    bad = bytearray((corpus / "b.wav").read_bytes())
    good = bytes(bad)
    bad[-4:] = b"\xff\xff\xff\xff"
    (corpus / "b.wav").write_bytes(bad)
    assert build(corpus, out, *WORDS).exit_code == 0 and len(store.open(out)) == 2
    (corpus / "b.wav").write_bytes(good)
    os.utime(corpus / "b.wav", ns=(0, 10**18))
    assert "b.wav" in build(corpus, out, *WORDS).output


def test_a_replaced_alignment_is_noticed_where_it_is_read(corpus: Path, tmp_path: Path) -> None:
    (corpus / "a.lab").write_text("0 2500000 HH\n2500000 5000000 AH0\n")
    out, waves = tmp_path / "STORE", tmp_path / "WAVES"
    assert build(corpus, out, *WORDS).exit_code == 0 and build(corpus, waves, "--features", "wave").exit_code == 0
    (corpus / "a.lab").write_text("0 1500000 HH\n1500000 5000000 AH0\n")
    os.utime(corpus / "a.lab", ns=(0, 10**18))
    assert "a.wav" in build(corpus, out, *WORDS).output
    assert build(corpus, waves, "--features", "wave").exit_code == 0, "no feature of it is made from the alignment"


def test_a_recording_of_segments_is_read_once_for_all_of_them(corpus: Path, tmp_path: Path) -> None:
    (corpus / "wav.scp").write_text("a a.wav\nb b.wav\nc c.wav\n")
    (corpus / "segments").write_text("a1 a 0 0.2\na2 a 0.2 0.4\nb1 b 0 0.4\nc1 c 0 0.3\n")
    (corpus / "text").write_text("a1 one\na2 two\nb1 three\nc1 four\n")
    out = tmp_path / "STORE"
    words = (*WORDS, "--format", "kaldi", "--part-hours", "0.00005")
    assert build(corpus, out, *words).exit_code == 0
    seals = [json.loads(path.read_text())["attributes"]["seal"] for path in sorted(out.glob("parts/0*/zarr.json"))]
    known = "".join(seal.get("contents", "") for seal in seals).replace("-", "")
    assert len(seals) > 1 and len(known) == 3 * 8
    replace(corpus / "a.wav", 9)
    result = build(corpus, out, *words)
    assert result.exit_code == 1 and "1 recordings were replaced" in result.output


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff", b'{"00000": 3}', b"[" * 100_000])
def test_stores_without_times_or_with_damaged_ones_resume(corpus: Path, tmp_path: Path, content: bytes | None) -> None:
    out = tmp_path / "STORE"
    assert build(corpus, out, *WORDS).exit_code == 0
    (out / replaced_recordings.FILE).unlink()
    if content is not None:
        (out / replaced_recordings.FILE).write_bytes(content)
    assert build(corpus, out, *WORDS).exit_code == 0
    assert not list(verify(out))


@pytest.mark.parametrize("name", ["5-wav32k/utt 1.wav", "4-cnhubert/utt 1.wav.pt", "7-sv_cn/utt 1.wav.pt"])
def test_a_replaced_file_of_a_prepared_directory_is_noticed(name: str, tmp_path: Path) -> None:
    directory, out = gpt_sovits_dirs.make(tmp_path / "logs", 3, seconds=0.5), tmp_path / "STORE"
    command = ("import", directory, "--out", out, "--scheduler", scheduler())
    assert call(store_command, *command).exit_code == 0
    path, before = directory / name, part_bytes(out)
    good = path.read_bytes()
    os.utime(path, ns=(0, 10**18))
    touched = call(store_command, *command)
    assert touched.exit_code == 0 and "comparing their contents" in touched.output
    path.write_bytes(good[:-40] + bytes(8) + good[-32:])
    os.utime(path, ns=(0, 2 * 10**18))
    result = call(store_command, *command)
    assert result.exit_code == 1 and "1 recordings were replaced since" in result.output and "utt 1" in result.output
    assert part_bytes(out) == before


def test_a_prepared_directory_imported_before_there_were_checksums_resumes(tmp_path: Path) -> None:
    """Also one whose recordings were touched: there is nothing to compare."""
    directory, out = gpt_sovits_dirs.make(tmp_path / "logs", 3, seconds=0.5), tmp_path / "STORE"
    command = ("import", directory, "--out", out, "--scheduler", scheduler())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checksums, "joined", lambda self: "")
        assert call(store_command, *command).exit_code == 0
    (out / replaced_recordings.FILE).unlink()
    assert call(store_command, *command).exit_code == 0 and not list(verify(out))
