"""Alignments of every kind, from where they lie to the phones, times and words of a store; and files that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import store
from headrace.cli.store import main
from headrace.featurize.alignment import label_files, textgrid, words
from headrace.featurize.alignment.intervals import Alignment
from headrace.featurize.corpus import scanner
from headrace.featurize.report.utterance_plot import draw_utterance
from headrace.featurize.text.symbols import SYMBOLS
from headrace.store.errors import Rejected, UsageError
from headrace.store.reader import Store
from headrace.store.schema import Reject, Utterance
from tests.helpers.commands import build, call
from tests.helpers.textgrids import write_textgrid

RATE = 32_000
ENDS = [1603, 6400, 12_800, 19_203, 25_600, 32_000]
"""In samples, of one second."""
NAMES = ["SP", "HH", "AY1", "SP2", "B", "AY1"]
LABELS = ["sil", "hh", "AY1", "<breath>", "B_B", "AY1_E"]
WORDS = [-1, 0, 0, -1, 4, 4]
"""Of "hi, bye"."""
PHONES = [(start / RATE, end / RATE, label) for start, end, label in zip([0, *ENDS], ENDS, LABELS, strict=False)]
SAID = [(PHONES[1][0], PHONES[2][1], "hi"), (PHONES[4][0], PHONES[5][1], "bye")]


def bare(label: str) -> str:
    return label.partition("_")[0]


PLAIN = [(start, end, bare(label)) for start, end, label in PHONES]


def record(path: Path, text: str = "hi, bye", seconds: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(path, wave, RATE, subtype="PCM_16")
    if text:
        path.with_suffix(".txt").write_text(text)


def htk(rows: list[tuple[float, float, str]] = PLAIN) -> str:
    return "".join(f"{start * 1e7:.0f} {end * 1e7:.0f} {label}\n" for start, end, label in rows)


def states() -> str:
    """HTS' full-context labels, three states a phone."""
    lines = []
    for start, end, label in PLAIN:
        cuts = np.linspace(start, end, 4) * 1e7
        for state, (first, last) in enumerate(pairwise(cuts), 2):
            lines.append(f"{first:.0f} {last:.0f} x^x-{label}+x=x@1_2/A:0_0_0[{state}]")
    return "\n".join(lines)


def festival() -> str:
    return "separator ;\nnfields 1\n#\n" + "".join(f"\t{end!r} 26 {label}\n" for _, end, label in PLAIN)


def ctm(name: str, rows: list[tuple[float, float, str]], after: float = 0.0) -> str:
    return "".join(f"{name} 1 {after + start!r} {end - start!r} {label} 0.9\n" for start, end, label in rows)


def check(built: Store, id: str, *, worded: bool = True) -> None:
    number = built.find(id)
    assert [SYMBOLS[phone] for phone in built.read("phones", number)] == NAMES
    assert built.read("phone_end", number).tolist() == ENDS
    assert built.read("phone_frames", number).sum() == built.frames[number] == 50
    assert built.read("phone_word", number).tolist() == (WORDS if worded else [-1] * len(WORDS))
    assert built.column("aligned")[number] == 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one recording for each kind of alignment that may lie beside it, and what is left of the text."""
    root = tmp_path_factory.mktemp("alignments")
    labs = {"htk": htk(), "seconds": "".join(f"{a!r} {b!r} {c}\n" for a, b, c in PLAIN)}
    labs |= {"states": states(), "festival": festival(), "text": "hi, bye\n", "figures": "1 2 buckle\n3 4 knock\n"}
    for name, content in labs.items():
        record(root / "corpus" / f"{name}.wav")
        (root / "corpus" / f"{name}.lab").write_text(content)
    for name in ("grid", "words", "another", "apart"):
        record(root / "corpus" / f"{name}.wav")
    record(root / "corpus" / "tail.wav", seconds=1.015)
    write_textgrid(root / "corpus" / "tail.TextGrid", {"words": SAID, "phones": [*PLAIN, (1.0, 1.015, "")]}, 1.015)
    record(root / "corpus" / "textless.wav", "")
    (root / "corpus" / "textless.lab").write_text(htk())
    write_textgrid(root / "corpus" / "grid.TextGrid", {"words": SAID, "phones": PLAIN}, 1.0)
    write_textgrid(root / "corpus" / "words.TextGrid", {"words": SAID}, 1.0)
    other = [(SAID[0][0], 0.3, "seven"), (0.3, 0.6, "rivers"), (0.6, 1.0, "run")]
    write_textgrid(root / "corpus" / "another.TextGrid", {"words": other, "phones": PLAIN}, 1.0)
    record(root / "corpus" / "symbol.wav")
    (root / "corpus" / "symbol.lab").write_text(htk([*PLAIN[:-1], (*PLAIN[-1][:2], "w8t!")]))
    (root / "corpus" / "phones.ctm").write_text(";; by hand\n" + ctm("apart", PHONES))
    (root / "corpus" / "words.ctm").write_text(ctm("apart", SAID))
    assert build(root / "corpus", root / "S", "--features", "wave,mel,phones").exit_code == 0
    return root


def test_what_lies_beside_a_recording(tree: Path) -> None:
    built = store.open(tree / "S")
    for name in ("grid", "tail", "apart"):
        check(built, f"{name}.wav")
    for name in ("htk", "seconds", "states", "festival"):
        check(built, f"{name}.wav", worded=False)
    for name in ("text", "figures", "words"):
        number = built.find(f"{name}.wav")
        assert built.column("aligned")[number] == 0 and (built.read("phone_end", number) == -1).all()
        assert built.read("phones", number).tolist() == built.read("phones", built.find("text.wav")).tolist()


def test_what_does_not_fit_is_rejected(tree: Path) -> None:
    lines = (tree / "S" / "rejects.jsonl").read_text().splitlines()
    rejects = {reject["id"]: (reject["stage"], reject["reason"]) for reject in map(json.loads, lines)}
    assert set(rejects) == {"another.wav", "textless.wav", "symbol.wav"}
    assert rejects["another.wav"] == (
        "align",
        "its words, 'seven rivers run' ..., are not those of the text: align it again",
    )
    assert rejects["textless.wav"] == ("scan", "textless.lab holds times of phones, not a text: put a .txt beside it")
    assert rejects["symbol.wav"][0] == "align" and "'w8t!'" in rejects["symbol.wav"][1]


def test_exported_and_built_again_it_is_the_same(tree: Path) -> None:
    out = tree / "grids"
    assert call(main, "export", tree / "S", "--to", "textgrid", "--out", out).exit_code == 0
    done = build(tree / "corpus", tree / "T", "--alignments", out, "--features", "wave,phones")
    assert done.exit_code == 0, done.output
    one, again = store.open(tree / "S"), store.open(tree / "T")
    for id in ("grid.wav", "tail.wav", "apart.wav", "htk.wav", "festival.wav"):
        for name in ("phones", "phone_end", "phone_frames", "phone_word"):
            assert np.array_equal(one.read(name, one.find(id)), again.read(name, again.find(id))), (id, name)
    assert [word.label for word in words.spoken_words(one, one.find("grid.wav"))] == ["hi", "bye"]


def test_cuts_of_it_are_the_same(tree: Path) -> None:
    assert call(main, "export", tree / "S", "--to", "lhotse", "--out", tree / "cuts").exit_code == 0
    done = build(tree / "cuts" / "cuts.jsonl.gz", tree / "U", "--features", "wave,phones")
    assert done.exit_code == 0, done.output
    one, again = store.open(tree / "S"), store.open(tree / "U")
    names = ("phones", "phone_end", "phone_word")
    aligned = [n for n in range(len(again)) if again.column("aligned")[n]]
    said = [tuple(one.read(name, n).tolist() for name in names) for n in np.flatnonzero(one.column("aligned"))]
    assert sorted(said) == sorted(tuple(again.read(name, n).tolist() for name in names) for n in aligned)


def test_words_are_drawn(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    shown: list[str] = []

    def save(figure: Figure, target: Path, **_: object) -> None:
        shown.extend(text.get_text() for text in figure.axes[0].texts)
        target.touch()

    monkeypatch.setattr(Figure, "savefig", save)
    built = store.open(tree / "S")
    draw_utterance(built, built.find("grid.wav"), tree / "a.png")
    assert shown == [*NAMES, "hi", "bye"]


def scan(path: Path, **options: object) -> dict[str, str]:
    found = list(scanner.scan(path, **options))  # type: ignore[arg-type]
    assert all(isinstance(item, Utterance) for item in found), found
    return {item.id: item.alignment for item in found if isinstance(item, Utterance)}


def test_a_column_of_a_list(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", "")
    record(tmp_path / "b.wav", "")
    (tmp_path / "grids").mkdir()
    write_textgrid(tmp_path / "grids" / "1.TextGrid", {"phones": PLAIN}, 1.0)
    (tmp_path / "c.list").write_text("a.wav|anna|EN|hi, bye|grids/1.TextGrid\nb.wav|anna|EN|hi.lab\n")
    assert scan(tmp_path) == {"a.wav": "grids/1.TextGrid", "b.wav": ""}
    (tmp_path / "c.list").write_text("a.wav|anna|EN|hi, bye|grids/2.TextGrid\nb.wav|anna|EN|hi.lab\n")
    (missing,) = (item for item in scanner.scan(tmp_path) if isinstance(item, Reject))
    assert missing.stage == "align" and "grids/2.TextGrid: there is no such file" in missing.reason


def make_kaldi(root: Path) -> Path:
    record(root / "r.wav", "", seconds=3.0)
    (root / "wav.scp").write_text("r r.wav\n")
    (root / "segments").write_text("u1 r 0.5 1.5\nu2 r 1.5 2.5\n")
    (root / "text").write_text("u1 hi, bye\nu2 hi, bye\n")
    return root


@pytest.mark.parametrize("clock", ["utterance", "recording"])
def test_segments_are_found_in_ctms(tmp_path: Path, clock: str) -> None:
    """Of Kaldi: by the utterance's name, or by the recording's on its clock."""
    root = make_kaldi(tmp_path / "corpus")
    for kind, rows in (("phones", PHONES), ("words", SAID)):
        names = [("u1", 0.0), ("u2", 0.0)] if clock == "utterance" else [("r", 0.5), ("r", 1.5)]
        (root / f"{kind}.ctm").write_text("".join(ctm(name, rows, after) for name, after in names))
    assert build(root, tmp_path / "S", "--features", "wave,phones").exit_code == 0
    built = store.open(tmp_path / "S")
    for id in built.ids:
        check(built, id)
    assert len(built) == 2


def cut(start: float, alignment: dict[str, object]) -> str:
    said = {"id": "s", "start": 0, "duration": 1.0, "text": "hi, bye", "speaker": "anna", "alignment": alignment}
    recording = {
        "sampling_rate": RATE,
        "duration": 3.0,
        "sources": [{"type": "file", "channels": [0], "source": "r.wav"}],
    }
    return json.dumps(
        {"id": "c", "type": "MonoCut", "start": start, "duration": 1.0, "recording": recording, "supervisions": [said]}
    )


def test_alignments_of_supervisions(tmp_path: Path) -> None:
    record(tmp_path / "corpus" / "r.wav", "", seconds=3.0)
    phones, spoken = ([[label, start, end - start, 0.9] for start, end, label in rows] for rows in (PLAIN, SAID))
    lines = [cut(start, {"phone": phones, "word": spoken}) for start in (0.0, 0.5)]
    lines += [cut(1.0, {"phone": [["B"]]}), cut(1.1, {"phone": [["B", "x", 1]]}), cut(1.2, {"phone": [["B", -1, 0.5]]})]
    lines += [cut(1.3, {"word": spoken})]
    (tmp_path / "corpus" / "cuts.jsonl").write_text("\n".join(lines))
    assert build(tmp_path / "corpus" / "cuts.jsonl", tmp_path / "S", "--features", "wave,phones").exit_code == 0
    built = store.open(tmp_path / "S")
    check(built, "r.wav#0-32000")
    check(built, "r.wav#16000-48000")
    assert len(built) == 3 and built.column("aligned").sum() == 2
    rejects = [json.loads(line) for line in (tmp_path / "S" / "rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == 3 and {reject["stage"] for reject in rejects} == {"align"}


def test_a_folder_apart_goes_first(tmp_path: Path) -> None:
    record(tmp_path / "corpus" / "anna" / "1.wav")
    write_textgrid(tmp_path / "corpus" / "anna" / "1.TextGrid", {"phones": PLAIN}, 1.0)
    (tmp_path / "apart" / "anna").mkdir(parents=True)
    assert scan(tmp_path / "corpus", alignments=tmp_path / "apart") == {"anna/1.wav": "anna/1.TextGrid"}
    (tmp_path / "apart" / "anna" / "1.lab").write_text(htk())
    apart = (tmp_path / "apart" / "anna" / "1.lab").as_posix()
    assert scan(tmp_path / "corpus", alignments=tmp_path / "apart") == {"anna/1.wav": apart}


def test_a_folder_apart_that_is_none(tmp_path: Path) -> None:
    record(tmp_path / "1.wav")
    for none in (tmp_path / "gone", tmp_path / "1.txt"):
        with pytest.raises(UsageError, match="is not a folder"):
            list(scanner.scan(tmp_path, alignments=none))


def test_the_end_is_no_pause_but_for_one() -> None:
    """What an aligner's rounding leaves at the end is none."""
    rows = [label_files.Interval(0.0, 0.97, "B")]
    near = label_files.from_json(label_files.to_json("x", rows, []), 1.0)
    assert near.duration_s == 0.97
    assert label_files.from_json(label_files.to_json("x", rows, []), 1.2).duration_s == 1.2


@pytest.mark.parametrize(
    ("text", "said", "places"),
    [
        ("Hi, bye", ["hi", "bye"], [0, 4]),
        ("In 1990 it was", ["in", "nineteen", "ninety", "it", "was"], [0, 3, 3, 8, 11]),
        ("Don't go", ["don't", "go"], [0, 6]),
        ("Well go", ["uh", "well", "um", "go"], [0, 0, 0, 5]),
        ("你好,世界", ["你好", "世界"], [0, 3]),
        ("a a b a", ["a", "a", "b", "a"], [0, 2, 4, 6]),
        ("", ["hi"], [-1]),
    ],
)
def test_words_have_a_place_in_the_text(text: str, said: list[str], places: list[int]) -> None:
    ends = np.arange(1.0, len(said) + 1)
    tier = label_files.make_tier(
        "", [label_files.Interval(end - 1, end, label) for end, label in zip(ends, said, strict=True)]
    )
    assert words.phone_word(tier, ends, text).tolist() == places


@pytest.mark.parametrize(
    ("text", "said", "fits"),
    [
        ("hello world", "hello world", True),
        ("hello world", "seven rivers", False),
        ("OK TV", "o k t v", True),
        ("page 12", "seven rivers", True),  # in figures
        ("你好世界", "ni hao shi jie", True),  # in another script
        ("你好世界", "今天天气", False),
        ("yes", "no", True),  # nothing to judge by
    ],
)
def test_words_of_another_text(text: str, said: str, fits: bool) -> None:
    tier = label_files.make_tier("", [label_files.Interval(n, n + 1, label) for n, label in enumerate(said.split())])
    if fits:
        words.check_words_match_text(tier, text)
    else:
        with pytest.raises(Rejected, match="not those of the text"):
            words.check_words_match_text(tier, text)


GRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n'
BAD: dict[str, tuple[bytes, str]] = {
    "latin-1.TextGrid": ((GRID + '1\n0\n1\n"\xe9"').encode("latin-1"), "neither UTF-8 nor UTF-16 from byte"),
    "half.TextGrid": (b"\xff\xfeF\x00i", "neither UTF-8 nor UTF-16"),
    "short.TextGrid": ((GRID + '3\n0\n0.5\n"B"\n0.5\n1\n"B"\n').encode(), "a number was expected, and it ends"),
    "cut.TextGrid": ((GRID + '2\n0\n0.5\n"B').encode(), "a text was expected"),
    "many.TextGrid": ((GRID + "1000000000\n0\n1\n").encode(), "a text was expected, and it ends"),
    "half a count.TextGrid": ((GRID + "1.5\n").encode(), "1.5 is not a count"),
    "minus.TextGrid": ((GRID + "-1\n").encode(), "-1 is not a count"),
    "1e400.TextGrid": ((GRID + '1\n0\n1e400\n"B"').encode(), "'1e400' is not a time"),
    "nan.TextGrid": ((GRID + '1\nnan\n1\n"B"').encode(), "a number was expected"),
    "tier.TextGrid": (GRID.replace("IntervalTier", "Pitch").encode(), "a tier is a 'Pitch'"),
    "tierless.TextGrid": (GRID.replace("<exists>", "<absent>").encode(), "its tiers of intervals: none"),
    "empty.TextGrid": ((GRID + "0\n").encode(), ""),
    "sound.TextGrid": (GRID.replace("TextGrid", "Sound").encode(), "not a TextGrid in text format"),
    "code.TextGrid": (b"__import__('os').system('touch executed')", "cannot be read from line 1"),
    "quotes.TextGrid": (b'"ooTextFile" "TextGrid" "' + b'""' * 500_000, "a number was expected"),
    "gaps.lab": (b"0 2000000 B\n1000000 3000000 B\n", "intervals overlap"),
    "back.lab": (b"5000000 1000000 B\n0 1000000 B\n", "runs from 0.5 to 0.1 s"),
    "minus.lab": (b"-5000000 1000000 B\n1000000 9000000 B\n", "outside"),
    "nan.lab": (b"nan 0.5 B\n0.5 1.0 B\n", "from nan to 0.5 s"),
    "inf.lab": (b"0.0 0.5 B\n0.5 1e400 B\n", "to inf s"),
    "long.lab": (b"0 5000000 B\n5000000 20000000 B\n", "outside of 0.000 to 1.000 s"),
    "fields.lab": (b"0 5000000 B\n5000000 9000000\n", "fields.lab:2: '5000000 9000000' is not start"),
}


def read(path: Path) -> Alignment:
    return label_files.read_lab(path, 1.0) if path.suffix == ".lab" else textgrid.read_textgrid(path, 0.0, 1.0)


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_alignment(tmp_path: Path, name: str) -> None:
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    if not reason:
        assert not read(tmp_path / name).phones.labels
        return
    with pytest.raises(Rejected, match=reason.replace("(", r"\(")) as caught:
        read(tmp_path / name)
    assert caught.value.stage == "align" and name in caught.value.reason
    assert "\n" not in caught.value.reason and len(caught.value.reason) < 200


def test_ten_megabytes_of_garbage(tmp_path: Path) -> None:
    garbage = np.random.default_rng(0).integers(32, 127, 10_000_000, np.uint8).tobytes()
    for name, content in {"a.TextGrid": garbage, "b.TextGrid": GRID.encode() + garbage, "c.lab": garbage}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Rejected):
            read(tmp_path / name)


FORMS: list[Callable[[], str]] = [lambda: GRID + '2\n0\n0.5\n"B"\n0.5\n1\n"AY1"\n', htk, states, festival]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_reject_or_an_alignment(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    form = data.draw(st.integers(0, len(FORMS) - 1))
    content = bytearray(FORMS[form]().encode())
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    content[first:last] = data.draw(
        st.sampled_from([b"", b"nan", b"-1", b"1e400", b'"', b"9" * 400]) | st.binary(max_size=9)
    )
    path = tmp_path_factory.mktemp("damaged") / ("a.lab" if form else "a.TextGrid")
    path.write_bytes(content)
    try:
        label_files.has_times(label_files.read_text(path))
        found = read(path)
    except Rejected as error:
        assert error.stage == "align" and "\n" not in error.reason
    else:
        assert np.isfinite(found.phones.ends_s).all() and (np.diff(found.phones.ends_s) > -1e-3).all()
        assert math.isfinite(found.duration_s)
