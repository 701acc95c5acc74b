"""Nothing that a corpus lists is lost: stored + rejected = listed, whatever ends a build, and at whatever moment."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from pathlib import Path

import pytest
import soundfile

from headrace import store
from headrace.cli.store import main as store_command
from headrace.featurize.forced_alignment.hmm_aligner import HmmAlign
from headrace.store import rejects
from headrace.store.errors import HeadraceError
from headrace.store.integrity import checksummed_metadata, scan_record
from headrace.store.integrity.repair import repair
from headrace.store.integrity.verify import verify
from headrace.store.schema import Reject
from headrace.store.storage import storage_of
from headrace.store.summary import summarize
from tests.helpers.commands import build, call
from tests.helpers.corpora import buzz

RATE = 16_000
FEATURES = ("--features", "wave,phones", "--part-hours", "0.0003")
GOOD, BAD = ("a.wav", "b.wav", "c.wav"), {"none.wav": "scan", "odd.wav": "scan", "cut.wav": "decode", "zh.wav": "text"}


def make_corpus(root: Path) -> Path:
    """Three good utterances; two that the scan rejects, one that cannot be decoded and one that cannot be read."""
    root.mkdir()
    for seed, name in enumerate([*GOOD, "cut.wav", "zh.wav"]):
        soundfile.write(root / name, buzz(0.5 + 0.05 * seed, RATE, seed), RATE)
    whole = (root / "cut.wav").read_bytes()
    (root / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (root / "odd.wav").write_bytes(b"no audio")
    texts = dict.fromkeys([*GOOD, *BAD], "seven rivers run down")
    lines = [f"{name}|s|en|{text}" for name, text in (texts | {"zh.wav": "☃"}).items()]
    (root / "corpus.list").write_text("\n".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus and its store."""
    folder = tmp_path_factory.mktemp("rejects")
    corpus = make_corpus(folder / "corpus")
    assert build(corpus, folder / "STORE", *FEATURES).exit_code == 0
    return corpus, folder / "STORE"


@pytest.fixture
def root(small: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(small[1], tmp_path / "STORE")


def stages(out: Path) -> dict[str, str]:
    listed, unreadable = rejects.read(out)
    assert not unreadable
    return {reject.id: reject.stage for reject in listed}


def assert_nothing_is_lost(out: Path) -> None:
    assert not list(verify(out)) and stages(out) == BAD
    summary = summarize(store.open(out))
    assert (summary["utterances"], summary["rejects"], summary["listed"]) == (3, 4, 7)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left"), HeadraceError("it failed")]
)
def test_a_later_stage_that_fails_loses_no_reject(
    small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(HmmAlign, "learn", fail)
    assert build(small[0], tmp_path / "STORE", *FEATURES[:1], "wave,phones,align", *FEATURES[2:]).exit_code
    assert_nothing_is_lost(tmp_path / "STORE")


def test_verify_and_info_tell_the_sum(small: tuple[Path, Path]) -> None:
    told = call(store_command, "verify", small[1]).stdout
    assert "3 utterances stored, 4 rejected, of 7 listed" in told and "no problems" in told
    assert {"stored": 3, "rejected": 4, "listed": 7}.items() <= json.loads(
        call(store_command, "verify", small[1], "--json").stdout
    ).items()
    assert "7 utterances in the corpus" in call(store_command, "info", small[1]).stdout


def test_the_report_groups_them_by_kind(small: tuple[Path, Path], tmp_path: Path) -> None:
    assert call(store_command, "report", small[1], "--out", tmp_path / "r.html", "--mos", 0).exit_code == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "1 x there is no such file, for example none.wav" in page and "by the kind of reason" in page


def test_the_list_is_derived_and_made_again(root: Path) -> None:
    before = (root / rejects.FILE).read_bytes()
    for content in (None, b"", before[:-9], before + b"{}\n", before.replace(b"odd", b"even")):
        (root / rejects.FILE).unlink()
        if content is not None:
            (root / rejects.FILE).write_bytes(content)
        (problem,) = verify(root)
        assert problem.drop == "rejects" and ("is not there" in problem.what) == (content is None)
        assert summarize(store.open(root))["rejects"] == 4, "counted where they are sealed"
        repair(root)
        assert (root / rejects.FILE).read_bytes() == before and not list(verify(root))


def test_a_record_that_is_lost_is_told_and_made_again_by_a_build(small: tuple[Path, Path], root: Path) -> None:
    for damage in (Path.unlink, lambda file: file.write_bytes(file.read_bytes().replace(b"no such", b"one such"))):
        damage(root / scan_record.FILE)
        (problem,) = verify(root)
        assert problem.drop == "scan" and "featurize build" in problem.what
        done = repair(root)
        assert "featurize build" in done.commands[0] and done.unrepairable
        assert stages(root) == BAD, "the list keeps them until then"
        assert build(small[0], root, *FEATURES).exit_code == 0
        assert_nothing_is_lost(root)


@pytest.mark.unaccounted
def test_an_utterance_that_is_missing_is_told(root: Path) -> None:
    record = scan_record.read(root)
    scan_record.write(root, scan_record.ScanRecord(8, record.rejects))
    told = [problem.what for problem in verify(root)]
    assert told == ["3 utterances stored and 4 rejected, 8 listed"]
    assert "of 8 listed: 1 are missing" in call(store_command, "verify", root).stdout


def test_a_store_without_a_record_verifies_as_before_and_says_so(small: tuple[Path, Path], root: Path) -> None:
    """As stores of earlier versions are."""
    document = checksummed_metadata.read(root / "zarr.json")
    del document["attributes"][scan_record.RECORDED]
    storage_of(root).write_atomic(root, "zarr.json", checksummed_metadata.with_checksum(document))
    shutil.rmtree(root / "scan")
    told = call(store_command, "verify", root)
    assert told.exit_code == 0 and "is not recorded" in told.stdout and "no problems" in told.stdout
    assert summarize(store.open(root))["rejects"] == 4
    assert "not recorded" in call(store_command, "info", root).stdout
    data = store.open(root).fingerprint
    assert build(small[0], root, *FEATURES).exit_code == 0
    assert_nothing_is_lost(root)
    assert store.open(root).fingerprint == data


def test_what_the_scan_rejects_next_time_replaces_what_it_rejected(
    small: tuple[Path, Path], root: Path, tmp_path: Path
) -> None:
    corpus = shutil.copytree(small[0], tmp_path / "corpus")
    (corpus / "unmentioned.wav").write_bytes(b"")
    assert build(corpus, root, *FEATURES).exit_code == 0
    assert not list(verify(root)) and stages(root) == BAD | {"unmentioned.wav": "scan"}
    (corpus / "unmentioned.wav").unlink()
    shutil.copy(corpus / "a.wav", corpus / "none.wav")  # what was rejected can be read now: the corpus grows
    result = build(corpus, root, *FEATURES)
    assert result.exit_code == 0 and "grows: 5 utterances to 6" in result.stderr
    assert not list(verify(root)) and "none.wav" in store.open(root).ids
    assert stages(root) == {name: stage for name, stage in BAD.items() if name != "none.wav"}


def test_joined_stores_count_the_rejects_of_all(small: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_corpus(tmp_path / "other" / "corpus")
    for name in GOOD:
        (other / name).rename(other / f"other {name}")
    lines = (other / "corpus.list").read_text(encoding="utf-8")
    for name in GOOD:
        lines = lines.replace(name, f"other {name}")
    (other / "corpus.list").write_text(lines, encoding="utf-8")
    assert build(other, tmp_path / "OTHER", *FEATURES).exit_code == 0
    (tmp_path / "all.txt").write_text(f"{small[1]}\n{tmp_path / 'OTHER'}\n")
    told = json.loads(call(store_command, "info", tmp_path / "all.txt", "--json").stdout)
    assert (told["utterances"], told["rejects"], told["listed"]) == (6, 8, 14)
    assert "14 utterances in the corpus" in call(store_command, "info", tmp_path / "all.txt").stdout


def keep_every_state(patch: pytest.MonkeyPatch, out: Path, kept: Path) -> None:
    """Copy a store before each file or folder that a build writes or deletes in it: what a kill there would leave."""
    storage = type(storage_of(out))

    def keeping(name: str) -> None:
        real = getattr(storage, name)

        def write(self: object, *words: object, **options: object) -> object:
            if out.exists() and threading.current_thread() is threading.main_thread():
                shutil.copytree(out, kept / f"{len(list(kept.iterdir())):03d}")
            return real(self, *words, **options)

        patch.setattr(storage, name, write)

    for name in ("write_atomic", "atomic_folder", "delete_folder", "clear_temporary"):
        keeping(name)


@pytest.mark.parametrize("growing", [False, True])
def test_killed_at_any_moment_the_store_is_incomplete_or_its_sum_holds(
    small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, growing: bool
) -> None:
    corpus, out, kept = shutil.copytree(small[0], tmp_path / "corpus"), tmp_path / "STORE", tmp_path / "kept"
    kept.mkdir()
    if growing:
        shutil.copytree(small[1], out)
        shutil.copy(corpus / "a.wav", corpus / "none.wav")
        (corpus / "unmentioned.wav").write_bytes(b"")
    with monkeypatch.context() as patch:
        keep_every_state(patch, out, kept)
        assert build(corpus, out, *FEATURES).exit_code == 0
    assert not list(verify(out))
    states = [state for state in sorted(kept.iterdir()) if (state / "zarr.json").exists()]
    assert len(states) > 5
    for state in states:
        left = list(verify(state))
        incomplete = any("not sealed yet" in problem.what for problem in left)
        assert incomplete or all(problem.drop in ("index", "rejects") for problem in left), (state, left)
        repair(state)
        assert incomplete or not list(verify(state)), state


@pytest.mark.unaccounted
def test_a_reject_is_read_from_the_record_as_it_was_written(tmp_path: Path, root: Path) -> None:
    made = (Reject("\udcff|ü.wav", "scan", "not \x1b printable"), Reject("b", "align", "'quoted'" * 500))
    scan_record.write(root, scan_record.ScanRecord(9, made))
    assert scan_record.read(root).rejects == made
