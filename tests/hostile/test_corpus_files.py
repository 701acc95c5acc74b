"""Damaged and hostile files of a corpus, through the scan that reads them in earnest: each becomes utterances and
rejects that a store can hold, or one error for a person."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from benchmarks.archives import pack_arrow, pack_parquet, pack_tars, pack_zip, tar_of
from headrace.featurize.alignment import intervals, words
from headrace.featurize.corpus.alignment_files import read_alignment
from headrace.featurize.corpus.scanner import scan
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.exchange.gpt_sovits_inventory import scan_directory
from headrace.featurize.files.archives import reading
from headrace.featurize.pipeline.presets import feature_specs, read_recipe
from headrace.featurize.segmentation import segment_list
from headrace.featurize.segmentation.join_texts import join_texts
from headrace.featurize.segmentation.segment_list import Row
from headrace.store.conditions import evaluate
from headrace.store.errors import CorpusError, Rejected, UsageError
from headrace.store.schema import Reject, Utterance
from tests.featurize.corpus import archives
from tests.featurize.corpus.layouts import LAYOUTS
from tests.helpers import corpus_formats, gpt_sovits_dirs
from tests.helpers.corpus_formats import RATE, RECOGNISED, record, write
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz
from tests.helpers.textgrids import write_textgrid

counts = pytest.mark.parametrize("count", FUZZ_COUNTS)
PHONES = [(0.0, 0.25, "HH"), (0.25, 0.5, "AY1"), (0.5, 0.75, "B"), (0.75, 0.99, "AY1")]
WORDS = [(0.0, 0.5, "hi"), (0.5, 0.99, "bye")]
HTK = "".join(f"{start * 1e7:.0f} {end * 1e7:.0f} {label}\n" for start, end, label in PHONES)
STATES = "".join(
    f"{int(start * 1e7) + n * 100} {int(start * 1e7) + n * 100 + 100} x^x-{label}+x=x@1_2/A:0[{n + 2}]\n"
    for start, _, label in PHONES
    for n in range(3)
)
FESTIVAL = "separator ;\nnfields 1\n#\n" + "".join(f"\t{end!r} 26 {label}\n" for _, end, label in PHONES)
CTM = "".join(f"a 1 {start} {end - start} {label} 0.9\n" for start, end, label in PHONES)
SHORT_GRID = 'File type = "ooTextFile"\n"TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n2\n'
SHORT_GRID += '0\n0.5\n"B"\n0.5\n1\n"AY1"\n'


def check(found: Utterance | Reject, root: Path) -> None:
    """Take an utterance as far as the part that would hold it."""
    if isinstance(found, Reject):
        json.loads(found.to_json().encode())
        return
    json.dumps(astuple(found), ensure_ascii=False).encode()
    assert 0 <= found.start < found.stop and len(found.text) <= 1 << 20
    if not found.alignment:
        return
    try:
        alignment = read_alignment(root, found)
        names, ends = intervals.symbols_and_ends(alignment, found.language)
        durations = intervals.phone_boundaries(ends, sample_rate=32_000, hop=640, frames=50)[1]
        assert durations.sum() == 50 and len(durations) == len(names) and (durations >= 0).all()
        words.phone_word(alignment.words, ends, found.text)
    except Rejected:
        pass


def scan_all(path: Path, **options: object) -> None:
    for found in scan(path, **options):  # type: ignore[arg-type]
        check(found, path.parent if path.is_file() else path)


def fuzz_file(file: Path, seeds: Sequence[str | bytes], count: int, attempt: Callable[[], object], *words: str) -> None:
    """Fuzz a file of the corpus in the folder `corpus` by reading the corpus."""
    folder = next(parent for parent in file.parents if parent.name == "corpus")
    contents = [seed.encode() if isinstance(seed, str) else seed for seed in seeds]

    def write_and_read(data: bytes) -> None:
        file.write_bytes(data)
        attempt()

    fuzz(write_and_read, contents, folder=folder, count=count, tokens=[word.encode() for word in words])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


@counts
def test_list(root: Path, count: int) -> None:
    file = corpus_formats.make_list(root)
    seed = file.read_text() + "a.wav|anna|EN|hi, bye|HH AY1|a.TextGrid\n"
    fuzz_file(file, [seed], count, lambda: scan_all(root), "|", "a.wav", "EN", "/dev/zero", "a.wav/", "\\", ".lab")


@counts
def test_ljspeech(root: Path, count: int) -> None:
    corpus_formats.make_ljspeech(root)
    file = root / "metadata.csv"
    fuzz_file(file, [file.read_bytes()], count, lambda: scan_all(root), "|", "LJ-1", "../LJ-1")


@counts
@pytest.mark.parametrize("name", ["wav.scp", "segments", "text", "utt2spk", "utt2lang", "utt2phones"])
def test_kaldi(root: Path, name: str, count: int) -> None:
    corpus_formats.make_kaldi(root)
    write(root / "utt2lang", "u1 en\nu2 zh\n")
    write(root / "utt2phones", "u1 HH AY1\nu2 n i2\n")
    if count <= 200:
        count //= 4
    file = root / name
    fuzz_file(file, [file.read_bytes()], count, lambda: scan_all(root), "u1", "r1", "-1", "|", "audio/r1.wav", "ZH")


@counts
def test_tables(root: Path, count: int) -> None:
    record(root / "a.wav", 1600)
    rows = {
        "t.csv": 'path,text,speaker,language,start,end\na.wav,"Hi, ""you""",anna,en,0.01,0.05\n',
        "t.tsv": "path\tsentence\tlocale\na.wav\tHello\tde\n",
        "t.jsonl": '{"audio_filepath": "a.wav", "text": "Hello", "duration": 0.1, "offset": 0.0}\n',
    }
    for name, content in rows.items():
        file = write(root / name, content)
        words = ("path", "text", "a.wav", '"', "\t", "0.05", '"text"', "de")
        fuzz_file(file, [content], count // len(rows), lambda file=file: scan_all(file), *words)  # type: ignore[misc]


@counts
@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if not layout.options])
def test_published_corpora(root: Path, name: str, count: int) -> None:
    """Every transcript of every miniature."""
    layout = LAYOUTS[name]
    path, each = layout.make(root), max(4, count // 100) if count <= 200 else count // len(layout.files)
    for transcript, content in layout.files.items():
        seed = content if isinstance(content, bytes) else content.encode()
        file = root / layout.root / transcript
        fuzz_file(file, [seed], each, lambda: scan_all(path, format=layout.format), "|", "\t", "../")
        file.write_bytes(seed)


@counts
def test_cuts(root: Path, count: int) -> None:
    file = corpus_formats.make_cuts(root)
    aligned = corpus_formats.cut(root / "a.wav", "hi, bye")
    tiers = {"phone": [[label, start, end - start] for start, end, label in PHONES]}
    aligned["supervisions"][0] |= {"alignment": tiers, "custom": {"phones": "HH AY1"}}
    seeds = [file.read_bytes(), json.dumps(aligned).encode()]
    keys = ("id", "recording", "sources", "channels", "supervisions", "alignment", "custom", "speaker", "duration")
    words = ('"MonoCut"', '"\\ud83d"', *keys)
    fuzz_file(file, seeds, count, lambda: scan_all(file), *words)


@counts
def test_compressed_cuts(root: Path, count: int) -> None:
    content = corpus_formats.make_cuts(root).read_bytes()
    file = root / "cuts.jsonl.gz"
    fuzz_file(file, [gzip.compress(content, mtime=0)], count, lambda: scan_all(file))


@counts
def test_transcripts(root: Path, count: int) -> None:
    corpus_formats.make_tree(root)
    fuzz_file(root / "anna/1.txt", ["\ufeffHello\n  there\r\n"], count, lambda: scan_all(root))


@counts
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_textgrid(root: Path, encoding: str, count: int) -> None:
    record(root / "a.wav", RATE)
    write(root / "a.txt", "hi, bye")
    file = root / "a.TextGrid"
    write_textgrid(file, {"phones": PHONES, "words": WORDS}, 1.0, points="x", encoding=encoding)
    seeds = [file.read_bytes(), SHORT_GRID.encode(encoding)]
    tokens = '"IntervalTier"', '"TextTier"', '"phones"', "<exists>", "<absent>", '"', '""', "xmin", "size = "
    fuzz_file(file, seeds, count, lambda: scan_all(root, max_segment_s=0.6), *tokens)


@counts
def test_textgrid_as_transcript(root: Path, count: int) -> None:
    record(root / "a.wav", RATE)
    file = write_textgrid(root / "a.TextGrid", {"phones": PHONES, "words": WORDS}, 1.0)
    fuzz_file(file, [file.read_bytes()], count, lambda: scan_all(root), '"words"', '"phones"')


@counts
def test_labels(root: Path, count: int) -> None:
    record(root / "a.wav", RATE)
    write(root / "a.txt", "hi, bye")
    seeds = [HTK, STATES, FESTIVAL, "".join(f"{start} {end} {label}\n" for start, end, label in PHONES)]
    fuzz_file(root / "a.lab", seeds, count, lambda: scan_all(root, max_segment_s=0.6), "#", "[2]", "x^x-a+x", "sil")


@counts
def test_labels_as_transcript(root: Path, count: int) -> None:
    record(root / "a.wav", RATE)
    fuzz_file(root / "a.lab", ["1 2 buckle\n3 4 knock\n", "hi, bye"], count, lambda: scan_all(root), "#", "1 2 a\n")


@counts
@pytest.mark.parametrize("name", ["phones.ctm", "words.ctm"])
def test_ctm(root: Path, name: str, count: int) -> None:
    record(root / "a.wav", RATE)
    write(root / "a.txt", "hi, bye")
    write(root / "phones.ctm", CTM)
    write(root / "words.ctm", ";; words\na 1 0 0.5 hi\na 1 0.5 0.4 bye 1.0\n")
    file = root / name
    fuzz_file(file, [file.read_bytes()], count, lambda: scan_all(root, max_segment_s=0.6), ";;", "a 1", "a_B", "<eps>")


RECIPE = """extends = "gpt-sovits-v2"
n_mels = 80
fmax = 8000
n_fft = 1024
win = 1024
hop = 256
level = "none"
sample_rate = 22050
n_mfcc = 13
"""


@counts
def test_recipe(root: Path, count: int) -> None:
    file = root / "recipe.toml"
    tokens = "hop", "n_mels = ", "fmin", "[a]", "a.b = 1", "'whisper-16k'", "1979-05-27", "0.0", '"""', "extends"
    names = ("wave", "mel", "mfcc", "phones")
    fuzz_file(file, [RECIPE], count, lambda: feature_specs(read_recipe(file), names), *tokens)


@counts
def test_conditions(root: Path, count: int) -> None:
    texts = np.array(["a", "Goethe said", "ü"], object)
    columns = {name: lambda: np.array([1, 2, 30]) for name in ("duration", "frames", "phones", "aligned")}
    columns |= {name: lambda: texts for name in ("speaker", "language", "text")}
    seeds = [
        "duration < 20 and speaker != 'x'",
        "2 < duration <= 15 and (language in ['en', 'de'] or 'Goethe' in text)",
        "aligned and frames / phones < 40 and not (-duration + 2 * frames - 1 > 0)",
    ]

    def attempt(data: bytes) -> None:
        for _, holds in evaluate(data.decode(errors="surrogateescape"), columns, 3):
            assert holds.shape == (3,)

    tokens = b"( ) not in is + - * / ** ~ < == lambda [1] 'a' text b'' f'{text}' ... 1j".split()
    fuzz(attempt, [seed.encode() for seed in seeds], folder=root, count=count, tokens=tokens)


@counts
@pytest.mark.parametrize("name", [gpt_sovits_dir.TEXTS, gpt_sovits_dir.CODES])
def test_prepared_tables(root: Path, name: str, count: int) -> None:
    gpt_sovits_dirs.make(root, 3)
    file = root / name

    def attempt() -> None:
        found, lines = scan_directory(root, ("wave", "phones", "semantic", "bert"), None, lambda *_: None)
        for item in (*found.rejects, *found.utterances):
            check(item, root)
        for utterance, line in zip(found.utterances, lines, strict=True):
            try:
                frames = (utterance.stop - utterance.start) // gpt_sovits_dir.HOP
                gpt_sovits_dir.words(line.characters, len(line.phones.split()))
                gpt_sovits_dir.codes(line.codes, frames)
            except Rejected:
                pass

    fuzz_file(file, [file.read_bytes()], count, attempt, "\t", "utt 0.wav", "[2, 2]", "None", "[-1]", "[1e9]", "[[2]]")


def reasons(path: Path) -> str:
    found = list(scan(path))
    for one in found:
        check(one, path.parent if path.is_file() else path)
    return " / ".join(one.reason if isinstance(one, Reject) else one.id for one in found)


@pytest.mark.parametrize("field", ["speaker", "text", "id", "source", "language"])
def test_half_a_surrogate_pair_costs_its_cut(root: Path, field: str) -> None:
    file = corpus_formats.make_cuts(root)
    cut = json.loads(file.read_text().splitlines()[0])
    target = {"id": cut, "source": cut["recording"]["sources"][0]}.get(field, cut["supervisions"][0])
    target[field] = "half \ud83d"
    write(file, json.dumps(cut) + "\n" + file.read_text().split("\n", 1)[1])
    found = reasons(file)
    assert "half of a surrogate pair" in found and "sub/b.flac" in found


def test_a_small_file_that_unpacks_to_one_endless_line(root: Path) -> None:
    file = write(root / "cuts.jsonl.gz", gzip.compress(b"[" * (1 << 28), 1))

    def attempt(data: bytes) -> None:
        if data:  # a mutation of the seed, which is empty
            with pytest.raises(CorpusError, match="a line of more than 64 MB"):
                scan_all(file)

    fuzz(attempt, [b""], folder=root, count=2, memory=1 << 27 | 1 << 26)


@pytest.mark.parametrize(
    ("characters", "reason"),
    [
        ("[1000000000000]", "does not say"),
        ("[-1, 3]", "does not say"),
        ("[1.0, 1]", "does not say"),
        ("[3]", "3 phones"),
    ],
)
def test_counts_of_phones_take_no_memory_before_they_are_checked(characters: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        gpt_sovits_dir.words(characters, 2)


def test_a_transcript_that_nobody_could_speak(root: Path) -> None:
    corpus_formats.make_tree(root)
    write(root / "anna/1.txt", "a" * ((1 << 20) + 1))
    with open(root / "ben/1.TXT", "wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no space
    assert reasons(root).count("no utterance has more than 1,048,576") == 2


@pytest.mark.parametrize("name", ["metadata.csv", "phones.ctm"])
def test_a_pipe_in_place_of_a_file_does_not_block(root: Path, name: str) -> None:
    corpus_formats.make_ljspeech(root)
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    with pytest.raises(CorpusError, match="not a regular file"):
        scan_all(root)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("suffix", [".TextGrid", ".lab", ".txt", ".wav"])
def test_a_pipe_or_a_device_beside_a_recording_costs_its_utterance_alone(root: Path, suffix: str, kind: str) -> None:
    """Neither is opened: one would wait for a writer, and the other never end."""
    corpus_formats.make_tree(root)
    whole = {one.id for one in scan(root) if isinstance(one, Utterance)}
    file = root / "anna" / f"1{suffix}"
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    for follow in (False, True):
        found = list(scan(root, follow_outside=follow))
        (reject,) = [one for one in found if isinstance(one, Reject)]
        reason = "not a regular file" if follow or kind == "pipe" else "outside of the corpus"
        assert reason in reject.reason and "\n" not in reject.reason and reject.id.startswith("anna/1")
        assert {one.id for one in found if isinstance(one, Utterance)} == whole - {"anna/1.wav"}


def test_an_alignment_that_became_a_pipe_costs_its_utterance(root: Path) -> None:
    """After the scan, before it is read."""
    corpus_formats.make_tree(root)
    write(root / "anna/1.lab", HTK)
    (utterance,) = [one for one in scan(root) if isinstance(one, Utterance) and one.alignment]
    (root / "anna/1.lab").unlink()
    os.mkfifo(root / "anna/1.lab")
    with pytest.raises(Rejected, match="not a regular file"):
        read_alignment(root, utterance)


def test_a_file_that_is_named_like_an_alignment(root: Path) -> None:
    name = '{"where":0}'
    record(root / f"{name}.wav", RATE)
    write(root / f"{name}.txt", "hi, bye")
    write(root / f"{name}.lab", HTK)
    assert "is no alignment" in " / ".join(str(one) for one in scan(root, max_segment_s=0.6))


def test_a_language_that_is_none(root: Path) -> None:
    with pytest.raises(UsageError, match="nothing here reads language"):
        scan_all(corpus_formats.make_list(root).parent, language="\udcff")


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 100_000, "a = " + "{a=" * 100_000, "[" + "a." * 50_000 + "b]\nc = 1"]
)
def test_a_recipe_that_nests_deeply_is_told_in_a_line(root: Path, content: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_recipe(write(root / "r.toml", content))
    assert "\n" not in caught.value.message and len(caught.value.message) < 500


def test_no_recipe_takes_gigabytes(root: Path) -> None:
    file = write(root / "r.toml", 'extends = "gpt-sovits-v2"\nn_fft = 65536\nn_mels = 32768\n')
    with pytest.raises(UsageError, match="at most 1024 bands"):
        read_recipe(file)


def archives_of(folder: Path) -> dict[str, list[bytes]]:
    """Seeds of archives of every kind, by the names that they have in the corpus."""
    kinds = {
        "a.tar": [tar.read_bytes() for tar in sorted(pack_tars(folder, folder / "t", 2).iterdir())],
        "a.zip": [pack_zip(folder, folder / f"{n}.zip", n).read_bytes() for n in (0, 8)],
        "a.parquet": [file.read_bytes() for file in sorted(pack_parquet(folder, folder / "p").iterdir())],
        "a.arrow": [file.read_bytes() for file in sorted(pack_arrow(folder, folder / "r").glob("*.arrow"))],
    }
    kinds["a.tar"].append(tar_of(("n" * 300 + ".wav", b"RIFF"), format=tarfile.PAX_FORMAT))
    return kinds


@counts
@pytest.mark.parametrize("name", ["a.tar", "a.zip", "a.parquet", "a.arrow"])
def test_archives(tmp_path: Path, count: int, name: str) -> None:
    folder = archives.make_recordings(tmp_path / "speech", 2, 0.01)
    seeds = archives_of(folder)[name]
    corpus = tmp_path / "corpus"
    corpus.mkdir()

    def read() -> None:
        given = corpus if name == "a.tar" else corpus / name
        for found in scan(given):
            check(found, corpus)
            if isinstance(found, Utterance) and found.member:
                with contextlib.suppress(Rejected):
                    assert sum(map(len, reading.read_member(corpus, found.member, found.size))) == found.size

    fuzz_file(
        corpus / name, seeds, count // 4, read, "ustar\x0000", "PK\x03\x04", "PAR1", "audio", ".wav", "../", "path="
    )


@counts
def test_segments_and_results_of_recognisers(root: Path, count: int) -> None:
    """The list of segments, and what recognisers wrote: damaged ones end in one line, or cost themselves alone."""
    listed, results, out = root / "list.tsv", root / "one.jsonl", root / "out.tsv"
    segment_list.write(listed, root, [Row("one.wav", 1.0, 3.0, "ada", "en"), Row("one.wav", 4.0, 6.0, "ada", "en")])
    seeds = [json.dumps(document) for document in RECOGNISED.values() if not isinstance(document, str)]
    results.write_text("\n".join(seeds))

    def join() -> None:
        join_texts(listed, results, out)

    names = ("words", "segments", "timestamp", "start", "1e999", "NaN", "null", "[]", "{}", '"one.wav"', "<|zh|>")
    fuzz_file(results, seeds, count // 2, join, *names)
    results.write_text("\n".join(seeds))
    fuzz_file(listed, [listed.read_bytes()], count // 2, join, "\t", "audio", "-1", "inf", "nan", "one.wav", "1e400")
