"""Whatever an utterance makes a library raise is that utterance's reject, and costs no other utterance anything."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.store import main as store_command
from headrace.featurize.features import praat
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.pipeline import part_worker
from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES
from headrace.featurize.text import g2p
from headrace.store.errors import HeadraceError, Rejected, StorageError, rejecting
from headrace.store.schema import Reject
from tests.helpers.commands import add, build, call
from tests.helpers.corpora import buzz, make_tree

RATE = 16_000


def rejects_of(out: Path) -> dict[str, Reject]:
    lines = (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return {reject.id: reject for reject in (Reject(**json.loads(line)) for line in lines)}


def recordings(root: Path, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        soundfile.write(root / name, buzz(0.5 + 0.05 * seed, RATE, seed), RATE)
    return root


def test_what_a_library_refuses_is_the_reject_of_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(text: str) -> list[tuple[str, str]]:
        raise ValueError(f"unexpected {text}")

    monkeypatch.setattr("ToJyutping.get_jyutping_list", refuse)
    with pytest.raises(Rejected, match=r"fails on its text \(ValueError: .*\): write that text otherwise"):
        g2p.phonemise("三個人", "yue")


def test_one_bad_text_costs_no_other_of_its_part(tmp_path: Path) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav", "c.wav")
    lines = ["a.wav|s|zh|你好。", "b.wav|s|zh|一共㐂个。", "c.wav|s|zh|再见。"]
    (corpus / "c.list").write_text("\n".join(lines), encoding="utf-8")
    result = build(corpus, tmp_path / "STORE", "--features", "wave,phones")
    assert result.exit_code == 0, result.output
    assert list(store.open(tmp_path / "STORE").ids) == ["a.wav", "c.wav"]
    assert rejects_of(tmp_path / "STORE")["b.wav"].stage == "text"


def cut_line(source: str = "a.wav", **changed: Any) -> dict[str, Any]:
    supervision = {"speaker": "s", "language": "en", "text": "hello there"} | changed.pop("supervision", {})
    recording = {"sources": [{"type": "file", "channels": [0], "source": source}], "sampling_rate": RATE}
    recording |= {"duration": 0.5} | changed.pop("recording", {})
    cut = {"type": "MonoCut", "id": source, "start": 0, "duration": 0.5, "recording": recording}
    return cut | {"supervisions": [supervision]} | changed


HALF = "\ud83d"
HUGE = 10**400
BAD_CUTS: Mapping[str, dict[str, Any]] = {
    "half a character in the text": cut_line("b.wav", supervision={"text": f"hello {HALF}"}),
    "in the speaker": cut_line("b.wav", supervision={"speaker": HALF}),
    "in the language": cut_line("b.wav", supervision={"language": HALF}),
    "in the phones": cut_line("b.wav", supervision={"custom": {"phones": HALF}}),
    "in the path": cut_line(f"{HALF}.wav"),
    "in the path, as a byte": cut_line("\udcff.wav"),
    "in the type": cut_line("b.wav", type=HALF),
    "in an alignment": cut_line("b.wav", supervision={"alignment": {"phones": [[HALF, 0, 0.1]]}}),
    "a null in the path": cut_line("b\0.wav"),
    "a rate of zero": cut_line("b.wav", recording={"sampling_rate": 0}),
    "a time too large for a float": cut_line("b.wav", start=HUGE),
    "a rate too large for a float": cut_line("b.wav", recording={"sampling_rate": HUGE}),
    "not a number": cut_line("b.wav", start=float("nan")),
    "times without end": cut_line("b.wav", supervision={"alignment": {"word": [["hello", 0, float("inf")]]}}),
}


@pytest.mark.parametrize("bad", BAD_CUTS.values(), ids=BAD_CUTS.keys())
def test_a_bad_cut_costs_no_other(tmp_path: Path, bad: dict[str, Any]) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav", "c.wav")
    (corpus / "\udcff.wav").write_bytes((corpus / "b.wav").read_bytes())
    cuts = [cut_line(), bad, cut_line("c.wav", duration=0.6, recording={"duration": 0.6})]
    (corpus / "cuts.jsonl").write_text("".join(f"{json.dumps(cut)}\n" for cut in cuts), encoding="utf-8")
    result = build(corpus / "cuts.jsonl", tmp_path / "STORE", "--features", "wave,phones")
    assert result.exit_code == 0, result.output
    assert list(store.open(tmp_path / "STORE").ids) == ["a.wav", "c.wav"]
    found = rejects_of(tmp_path / "STORE")
    assert any(id.startswith(("b", "cuts.jsonl:2", "\\ud83d", "\\udcff")) for id in found), found
    assert all(reject.reason.isprintable() for reject in found.values())


ODD_LINES = ["b b.wav\0", "b .", "b /", "b ..", "b \ud83d.wav", "b //dev/null", "b ~", "b " + "x" * 5000]


@pytest.mark.parametrize("line", ODD_LINES)
def test_an_odd_line_of_kaldi_costs_no_other(tmp_path: Path, line: str) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav", "c.wav")
    scp = f"a a.wav\n{line}\nc c.wav\n".encode("utf-8", "surrogatepass")
    (corpus / "wav.scp").write_bytes(scp)
    (corpus / "text").write_text("a hello\nb hello\nc hello\n", encoding="utf-8")
    result = build(corpus, tmp_path / "STORE", "--features", "wave,phones", "--format", "kaldi")
    assert result.exit_code == 0, result.output
    assert list(store.open(tmp_path / "STORE").ids) == ["a.wav", "c.wav"]


SEGMENTS = ["b b nan 1", "b b -0.1 0.3", "b b 0 1e308", "b b " + "1" * 5000 + " 3"]


@pytest.mark.parametrize("line", SEGMENTS, ids=lambda line: line[:12])
def test_an_odd_segment_costs_no_other(tmp_path: Path, line: str) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav")
    (corpus / "wav.scp").write_text("a a.wav\nb b.wav\n")
    (corpus / "segments").write_text(f"a a 0 0.4\n{line}\n")
    (corpus / "text").write_text("a hello\nb hello\n")
    result = build(corpus, tmp_path / "STORE", "--features", "wave,phones", "--format", "kaldi")
    assert result.exit_code == 0, result.output
    assert list(store.open(tmp_path / "STORE").ids) == ["a.wav#0-6400"]


ODD_LABELS = {
    "digits beyond what int takes": b"0 " + b"9" * 5000 + b" a\n1 " + b"9" * 5000 + b" b\n",
    "digits of other scripts": "0 ٣٣٣٣٣٣٣٣٣ a\n1 ٣٣٣٣٣٣٣٣٣٣ b\n".encode(),
    "not a number": b"nan nan a\nnan nan b\n",
    "without end": b"0 inf a\n1 inf b\n",
}


@pytest.mark.parametrize("content", ODD_LABELS.values(), ids=ODD_LABELS.keys())
def test_odd_labels_cost_no_other(tmp_path: Path, content: bytes) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav")
    for name in "ab":
        (corpus / f"{name}.txt").write_text("hello there")
    (corpus / "b.lab").write_bytes(content)
    result = build(corpus, tmp_path / "STORE", "--features", "wave,phones")
    assert result.exit_code == 0, result.output
    assert store.open(tmp_path / "STORE").ids[0] == "a.wav"
    assert len(store.open(tmp_path / "STORE")) + len(rejects_of(tmp_path / "STORE")) == 2


@pytest.mark.parametrize("text", ["一共∀个。", "。"], ids=["that nobody reads", "without phones"])
def test_a_build_without_any_utterance_fails_and_lists_why(tmp_path: Path, text: str) -> None:
    corpus = recordings(tmp_path / "corpus", "a.wav", "b.wav")
    (corpus / "c.list").write_text(f"a.wav|s|zh|{text}\nb.wav|s|zh|{text}", encoding="utf-8")
    for _ in range(2):
        result = build(corpus, tmp_path / "STORE", "--features", "wave,phones,f0")
        assert result.exit_code == 1
        (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        assert line.startswith(f"Error: None of the 2 utterances of {corpus} can be used.")
        assert set(rejects_of(tmp_path / "STORE")) == {"a.wav", "b.wav"}


MACHINE: list[BaseException] = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ESTALE, "Stale file handle"),
    MemoryError(),
    StorageError("the bucket does not answer"),
    HeadraceError("of the machine"),
    ImportError("no module named jieba"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    KeyboardInterrupt(),
]
OF_THE_UTTERANCE: list[Exception] = [
    ValueError("of a library"), KeyError("x"), AssertionError(), RecursionError("deep"), ZeroDivisionError("division"),
    UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), RuntimeError("wrong shape"),
    OSError(errno.ENAMETOOLONG, "File name too long"), OSError("without a number"),
]  # fmt: skip


@pytest.mark.parametrize("error", MACHINE, ids=repr)
def test_faults_of_the_machine_are_no_rejects(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, rejecting("text"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", OF_THE_UTTERANCE, ids=repr)
def test_what_an_utterance_makes_a_library_raise_is_its_reject(error: Exception) -> None:
    with pytest.raises(Rejected) as raised, rejecting("decode"):
        raise error
    assert raised.value.stage == "decode" and type(error).__name__ in raised.value.reason
    assert Reject("a", raised.value.stage, raised.value.reason).to_json().encode()


@pytest.mark.parametrize("where", ["decode", "phones"])
def test_a_full_disk_while_an_utterance_is_read_stops_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"decode": "headrace.featurize.audio.recording._blocks_by_libsndfile", "phones": None}[where]
    monkeypatch.setattr(target or f"{part_worker.__name__}.add_phones", full)
    result = build(make_tree(tmp_path / "corpus", 3), tmp_path / "STORE", "--features", "wave,phones")
    assert result.exit_code == 1 and "No space left on device" in result.output
    assert not list((tmp_path / "STORE/parts").glob("0*"))


def test_a_recording_that_makes_its_decoder_raise_is_its_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = part_worker.decode_utterances.__globals__["decode"].decode

    def odd(root: Any, utterance: Any, *rest: Any) -> Any:
        if utterance.id == "speaker0/001.flac":
            raise ZeroDivisionError("division by zero")
        return real(root, utterance, *rest)

    monkeypatch.setattr(part_worker.decode_utterances.__globals__["decode"], "decode", odd)
    monkeypatch.setitem(part_worker.decode_utterances.__kwdefaults__, "decoder", odd)
    result = build(make_tree(tmp_path / "corpus", 6), tmp_path / "STORE", "--features", "wave")
    assert result.exit_code == 0, result.output
    (reject,) = rejects_of(tmp_path / "STORE").values()
    assert (reject.id, reject.stage) == ("speaker0/001.flac", "decode") and "ZeroDivisionError" in reject.reason


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    assert build(make_tree(folder / "corpus", 6), folder / "STORE", "--features", "wave,mel").exit_code == 0
    return folder / "STORE"


def failing_pitch(number_of_samples: int) -> Callable[..., np.ndarray]:
    real = praat.pitch

    def pitch(wave: np.ndarray, *rest: Any, **options: Any) -> np.ndarray:
        if wave.size == number_of_samples:
            raise RuntimeError("Praat: sampling period is odd")
        made: np.ndarray = real(wave, *rest, **options)
        return made

    return pitch


def test_a_feature_that_fails_for_one_utterance_is_added_with_zeros_there_and_says_so(
    small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store.open(small_store)
    monkeypatch.setattr(praat, "pitch", failing_pitch(int(opened.read("wave", 2).size)))
    result = add(small_store, "f0")
    assert result.exit_code == 0, result.output
    assert "1 without f0 (" in " ".join(result.output.split())
    written = json.loads((small_store / "add.json").read_text())["added"]["f0"]
    (failed,) = written["failed"]
    assert failed["id"] == opened.ids[2] and "sampling period is odd" in failed["reason"]
    opened = store.open(small_store)
    assert not opened.read("f0", 2).any() and all(opened.read("f0", n).any() for n in (0, 1, 3, 4, 5))
    assert call(store_command, "verify", small_store).exit_code == 0
    again = json.loads((add(small_store, "f0"), (small_store / "add.json").read_text())[1])
    assert again["added"]["f0"]["failed"] == [failed], "the seal of the array remembers it"


@dataclass(frozen=True, kw_only=True)
class Broken(Derived):
    """A feature that no utterance can have."""

    name, needs, axis, dtype = "level", ("wave",), "utterance", "float32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for _ in part.utterances("wave"):
            raise TypeError("a fault of the code")
            yield np.zeros(1)


@dataclass(frozen=True, kw_only=True)
class OutOfDisk(Derived):
    """A feature whose machine fails."""

    name, needs, axis, dtype = "snr", ("wave",), "utterance", "float32"

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        for _ in part.utterances("wave"):
            raise OSError(errno.ENOSPC, "No space left on device")
            yield np.zeros(1)


@pytest.mark.parametrize("feature, message", [(Broken, "a fault of the code"), (OutOfDisk, "No space left")])
def test_a_feature_that_fails_for_all_or_by_the_machine_is_not_added(
    small_store: Path, monkeypatch: pytest.MonkeyPatch, feature: Any, message: str
) -> None:
    monkeypatch.setitem(DERIVED_FEATURES, feature.name, feature)  # type: ignore[arg-type]
    result = add(small_store, feature.name)
    assert result.exit_code == 1 and message in result.output
    assert feature.name not in store.open(small_store).features
