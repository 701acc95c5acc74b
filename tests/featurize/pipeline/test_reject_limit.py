"""What will be rejected is told before anything is decoded, and a build that rejects too much stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import Result

from headrace.cli.featurize import main as featurize
from headrace.featurize.pipeline import reject_limit
from headrace.featurize.pipeline.reject_limit import RejectLimit
from headrace.featurize.pipeline.text_check import TextCheck
from headrace.store import rejects
from headrace.store.errors import CorpusError
from headrace.store.integrity.scan_record import ScanRecord
from headrace.store.integrity.verify import verify
from headrace.store.schema import Reject
from tests.helpers.commands import call, scheduler
from tests.helpers.corpora import buzz

RATE = 16_000
UNREADABLE = "☃"
PHONES = ("--features", "wave,phones")


def make_corpus(root: Path, texts: list[str], *, missing: int = 0) -> Path:
    """Return a list of utterances with these texts, and of some whose recordings are missing."""
    root.mkdir()
    soundfile.write(root / "0.wav", buzz(0.5, RATE, 0), RATE)
    for number in range(1, len(texts)):
        (root / f"{number}.wav").write_bytes((root / "0.wav").read_bytes())
    lines = [f"{number}.wav|s|en|{text}" for number, text in enumerate(texts)]
    lines += [f"none{number}.wav|s|en|hello" for number in range(missing)]
    (root / "corpus.list").write_text("\n".join(lines), encoding="utf-8")
    return root


def build(corpus: Path, out: Path, *words: object) -> Result:
    return call(featurize, "build", corpus, "--out", out, "--scheduler", scheduler(), *words)


def test_scan_tells_what_will_be_rejected_by_kind(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", ["seven rivers", f"{UNREADABLE}", f"{UNREADABLE}{UNREADABLE}"], missing=3)
    report = json.loads(call(featurize, "scan", corpus, "--json").stdout)
    (kind,) = report["reject_kinds"]
    assert (kind["stage"], kind["count"], kind["example"]) == ("scan", 3, "none0.wav") and "no such file" in kind[
        "kind"
    ]
    texts = report["texts"]
    assert (texts["read"], texts["utterances"], texts["rejects"]) == (3, 3, 2)
    (kind,) = texts["reject_kinds"]
    assert (kind["stage"], kind["count"]) == ("text", 2)
    told = " ".join(call(featurize, "scan", corpus).stdout.split())
    assert "3 x there is no such file, for example none0.wav" in told
    assert "align learns little from" in told and report["align_warning"] in told
    assert "3 read: 2 would be rejected (66.7%)" in told and "2 x character 1 is a picture" in told


def test_scan_reads_times_as_a_build_does(tmp_path: Path) -> None:
    """Against the length that a recording has by its header: 0.5 s."""
    corpus = make_corpus(tmp_path / "corpus", ["hi", "hi"])
    (corpus / "corpus.list").unlink()
    for number, end in enumerate((0.5, 0.9)):
        (corpus / f"{number}.txt").write_text("hi")
        (corpus / f"{number}.lab").write_text(f"0.0 {end - 0.3:g} HH\n{end - 0.3:g} {end:g} AY1\n")
    texts = json.loads(call(featurize, "scan", corpus, "--json").stdout)["texts"]
    assert build(corpus, tmp_path / "STORE", *PHONES).exit_code == 0
    (found,), _ = rejects.read(tmp_path / "STORE")
    (kind,) = texts["reject_kinds"]
    assert (kind["stage"], kind["example"], kind["reason"]) == (found.stage, found.id, found.reason)
    assert texts["read"] == 2 and "outside of 0.000 to 0.500 s" in found.reason


def test_scan_reads_a_sample_within_its_time_or_nothing(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", ["seven rivers"] * 3)
    assert json.loads(call(featurize, "scan", corpus, "--json", "--text-seconds", 0).stdout)["texts"] is None
    report = json.loads(call(featurize, "scan", corpus, "--json", "--text-seconds", 1e-9).stdout)
    assert report["texts"] is None or report["texts"]["read"] < 3
    without = json.loads(call(featurize, "scan", corpus, "--json", "--features", "wave,mel").stdout)
    assert without["texts"] is None, "a build would read no text"


def error_of(result: Any) -> str:
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return str(line)


def test_a_build_whose_scan_rejects_most_stops_before_it_decodes(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", ["seven rivers"] * 2, missing=3), tmp_path / "STORE"
    result = build(corpus, out, *PHONES)
    assert result.exit_code == 1 and "3 of the 5 utterances of" in error_of(result)
    assert "3 x there is no such file, for example none0.wav" in result.stderr
    assert not list((out / "parts").glob("0*")) and len(rejects.read(out)[0]) == 3
    done = build(corpus, out, *PHONES, "--max-rejects", 100)
    assert done.exit_code == 0 and not list(verify(out))
    assert "3 x there is no such file, for example none0.wav" in " ".join(done.stdout.split())
    assert build(corpus, out, *PHONES, "--max-rejects", 59).exit_code == 1
    assert build(corpus, out, *PHONES, "--max-rejects", 60).exit_code == 0


def test_a_build_whose_parts_reject_most_stops(tmp_path: Path) -> None:
    corpus, out = make_corpus(tmp_path / "corpus", ["seven rivers", UNREADABLE, UNREADABLE]), tmp_path / "STORE"
    result = build(corpus, out, *PHONES)
    assert result.exit_code == 1 and "2 of the 3 utterances of" in error_of(result)
    assert "more than the 50 % of --max-rejects" in error_of(result) and len(rejects.read(out)[0]) == 2
    assert build(corpus, out, *PHONES, "--max-rejects", 100).exit_code == 0 and not list(verify(out))


def test_a_build_that_keeps_nothing_fails_whatever_is_allowed(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", [UNREADABLE] * 2)
    for words in ((), ("--max-rejects", 100)):
        result = build(corpus, tmp_path / "STORE", *PHONES, *words)
        assert result.exit_code == 1 and "None of the 2 utterances" in error_of(result)


def test_texts_are_read_before_the_parts_of_a_larger_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reject_limit, "MIN_TEXTS", 8)
    corpus, out = make_corpus(tmp_path / "corpus", ["seven rivers", *[UNREADABLE] * 11]), tmp_path / "STORE"
    result = build(corpus, out, *PHONES)
    assert result.exit_code == 1 and "of 8 texts of" in error_of(result)
    assert not list((out / "parts").glob("0*"))


@pytest.mark.parametrize(
    "share, scanned, read, rejected, stops",
    [
        (0.5, 0, 200, 115, True),
        (0.5, 0, 200, 113, False),  # no more than two standard errors above the half
        (0.5, 0, 1000, 501, True),  # all were read
        (0.5, 0, 1000, 500, False),
        (0.5, 400, 200, 85, True),
        (1.0, 0, 200, 200, False),
        (0.1, 0, 200, 35, True),
        (0.5, 0, 0, 0, False),
    ],
)
def test_a_sample_of_texts_stops_a_build_only_where_it_is_evident(
    tmp_path: Path, share: float, scanned: int, read: int, rejected: int, stops: bool
) -> None:
    lost = tuple(Reject(f"{number}", "scan", "it holds no samples") for number in range(scanned))
    limit = RejectLimit(share, ScanRecord(1000 + scanned, lost), tmp_path, tmp_path)
    found = TextCheck(read=read, utterances=1000, rejects=(Reject("a", "text", "nothing to speak"),) * rejected)
    if stops:
        with pytest.raises(CorpusError, match="--max-rejects"):
            limit.check_texts(found)
    else:
        limit.check_texts(found)
