"""The quality of a corpus: numbers are right, near duplicates are found, and conditions are what `--where` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soxr

from headrace import store
from headrace.cli.store import main
from headrace.featurize.features.derived import LearningLog
from headrace.featurize.features.derived import Part as DerivedPart
from headrace.featurize.quality import near_duplicates, signal_quality
from headrace.featurize.quality.corpus_statistics import COMPARED_TEXTS, MetadataReader, compute_statistics
from headrace.featurize.quality.repeated_texts import RepeatedText
from headrace.featurize.quality.signal_quality import Recording
from headrace.featurize.report import write_report
from headrace.featurize.report.measures import MEASURES, count_selection, format_value, known_values, outlier_limits
from headrace.store import index, layout
from headrace.store.errors import StoreError
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.store.selection import select
from headrace.store.writer import Part, create_store, write_part
from tests.helpers import browser
from tests.helpers.commands import add, call

RATE, HOP = 32_000, 640
SPECS = (
    FeatureSpec(name="wave", axis="frames", dtype="int16", channels=HOP, recipe={"sample_rate": RATE, "hop": HOP}),
    FeatureSpec(name="mel", axis="frames", dtype="float16", channels=16),
    FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None),
)
EVIL = "</script><img src=x onerror=alert(1)>\"'&<b>{{ 7*7 }}</b>"
TEXTS = (
    EVIL,
    "The quick brown fox jumps over the lazy dog.",
    "the QUICK brown fox, jumps over the lazy dog",
    "The quick brown fox jumps over the lazy dogs.",
    "An entirely other sentence about rivers and mills.",
    "سلام دنیا",
    "水車は回る。",
    "...",
)


def speech(seed: int, frames: int = 100) -> np.ndarray:
    """(frames, HOP) float64 below 1: noise whose level goes up and down, with pauses."""
    random = np.random.default_rng(seed)
    levels = np.repeat(random.choice([0.001, 0.05, 0.1, 0.2], -(-frames // 5)), 5)[:frames]
    return np.clip(levels[:, None] * random.normal(size=(frames, HOP)), -1, 1)


def as_stored(wave: np.ndarray) -> np.ndarray:
    return np.round(wave * 32767).astype(np.int16)


def waves() -> list[np.ndarray]:
    """One for each text, one of them clipped and one very quiet; the last but one is the one before it, at half its
    level and in a little noise."""
    made = [speech(n, 100 + 7 * n) for n in range(len(TEXTS))]
    made[2] = np.clip(8 * made[2], -0.5, 0.5)
    made[4] = made[4] / 100
    made[6] = made[5] / 2 + 1e-5 * np.random.default_rng(9).normal(size=made[5].shape)
    return [as_stored(wave) for wave in made]


def mel_of(wave: np.ndarray) -> np.ndarray:
    """(T, 16): log power in bands of one width."""
    power = np.abs(np.fft.rfft(wave / 32768, axis=1)[:, 1:]) ** 2
    return np.log(power.reshape(len(wave), 16, -1).sum(2) + 1e-10)


def make(root: Path, prefix: str = "utt'") -> Store:
    """Two parts with four utterances each."""
    made, specs = waves(), list(SPECS)
    plan = {"parts": 2, "utterances": len(TEXTS), "digest": ""}
    attributes = {
        "format": layout.FORMAT,
        "sample_rate": RATE,
        "hop": HOP,
        "preset": "test",
        "compression": "none",
        "plan": plan,
    }
    create_store(root, attributes | {"features": [spec.to_json() for spec in specs]})
    for number in range(2):
        members = range(4 * number, 4 * number + 4)
        frames = np.array([len(made[n]) for n in members], np.int32)
        arrays = {
            "wave": np.concatenate([made[n] for n in members]),
            "mel": np.concatenate([mel_of(made[n]) for n in members]).astype(np.float16),
            "phones": np.zeros(int((frames // 10).sum()), np.int16),
        }
        strings = {
            "id": [f"{prefix}{EVIL}" if n == 0 else f"{prefix}{n}" for n in members],
            "speaker": [EVIL if n == 4 else "anna" for n in members],
            "language": ["en"] * 4,
            "text": [TEXTS[n] for n in members],
        }
        lengths = {"frames": frames, "phones_n": (frames // 10).astype(np.int32), "aligned": np.zeros(4, np.int32)}
        write_part(root, Part(number=number, specs=specs, arrays=arrays, lengths=lengths, strings=strings))
    index.write(root, index.derive(root))
    return store.open(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("report") / "S")


def quiet(done: int, parts: int) -> None:
    pass


def test_level_is_that_of_a_tone() -> None:
    tone = as_stored(0.1 * np.sin(2 * np.pi * 440 * np.arange(100 * HOP) / RATE)).reshape(-1, HOP)
    assert signal_quality.level(signal_quality.levels(tone)) == pytest.approx(-23.01, abs=0.05)


def test_another_gain_moves_the_level_and_nothing_else() -> None:
    loud, soft = as_stored(speech(1)), as_stored(speech(1) / 2)
    one, two = signal_quality.levels(loud), signal_quality.levels(soft)
    assert signal_quality.level(one) - signal_quality.level(two) == pytest.approx(6.02, abs=0.05)
    assert signal_quality.snr(one) == pytest.approx(signal_quality.snr(two), abs=0.2)
    assert signal_quality.silence(one) == signal_quality.silence(two)


def test_noise_lowers_snr_and_pauses_make_silence() -> None:
    wave = speech(2)
    noisy = wave + 0.02 * np.random.default_rng(0).normal(size=wave.shape)
    assert (
        signal_quality.snr(signal_quality.levels(as_stored(noisy)))
        < signal_quality.snr(signal_quality.levels(as_stored(wave))) - 10
    )
    padded = np.concatenate([wave, np.zeros((len(wave), HOP))])
    before, after = (signal_quality.silence(signal_quality.levels(as_stored(one))) for one in (wave, padded))
    assert after == pytest.approx((1 + before) / 2, abs=0.02)
    assert signal_quality.silence(signal_quality.levels(np.zeros((9, HOP), np.int16))) == 1


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_flattened_peaks_are_found_at_any_level(gain: float) -> None:
    wave = speech(3)
    cut = np.clip(wave, -0.15, 0.15)
    flat = np.abs(cut) == 0.15
    assert signal_quality.clipped(as_stored(gain * wave)) < 1e-4
    assert 0 < signal_quality.clipped(as_stored(gain * cut)) <= flat.mean() + 1e-3
    assert signal_quality.clipped(as_stored(gain * np.clip(50 * wave, -1, 1))) > 0.3
    assert signal_quality.clipped(np.zeros((3, HOP), np.int16)) == 0


@pytest.mark.parametrize("highest", [3000, 8000, 11_000])
def test_bandwidth_is_where_the_recording_ends(highest: int) -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=400 * HOP) * 0.05)
    spectrum[np.fft.rfftfreq(400 * HOP, 1 / RATE) > highest] = 0
    wave = np.fft.irfft(spectrum).reshape(-1, HOP)
    for gain in (1, 0.1):
        assert signal_quality.bandwidth(Recording(as_stored(gain * wave), RATE)) == pytest.approx(
            highest, abs=5 * RATE / HOP
        )
    assert signal_quality.bandwidth(Recording(np.zeros((3, HOP), np.int16), RATE)) == 0


def test_a_narrow_recording_in_faint_noise_is_narrow_still() -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(100 * HOP) / RATE)
    hiss = np.random.default_rng(0).normal(size=tone.shape)
    levels = [10 ** (-db / 20) * hiss for db in (40, 110)]
    wide, narrow = (
        signal_quality.bandwidth(Recording(as_stored(tone + noise).reshape(-1, HOP), RATE)) for noise in levels
    )
    assert wide > 0.95 * RATE / 2 and narrow < 1300


def test_dc_offset_is_a_share_at_any_level() -> None:
    wave = speech(1)
    effective = np.sqrt((wave**2).mean())
    for gain in (1.0, 0.3):
        moved = as_stored(gain * (wave + effective))
        assert signal_quality.dc_offset(moved) == pytest.approx(1 / np.sqrt(2), abs=0.02)
    assert signal_quality.dc_offset(as_stored(-wave - effective)) == pytest.approx(1 / np.sqrt(2), abs=0.02)
    assert signal_quality.dc_offset(np.zeros((3, HOP), np.int16)) == 0


@pytest.mark.parametrize("rt60", [0.8, 1.6])
def test_reverberation_is_that_of_the_room(rt60: float) -> None:
    random, heard = np.random.default_rng(0), []
    for _ in range(8):
        decay = random.normal(size=round(rt60 * RATE)) * 10 ** (-3 * np.arange(round(rt60 * RATE)) / (rt60 * RATE))
        voice = random.normal(size=RATE) * (0.2 + abs(np.sin(2 * np.pi * 3 * np.arange(RATE) / RATE)))
        wave = 0.1 * np.concatenate([voice, decay])
        wave = as_stored(wave[: len(wave) // HOP * HOP].reshape(-1, HOP))
        heard.append(signal_quality.reverberation_time(wave, RATE))
        dry = as_stored(0.1 * np.concatenate([voice, 1e-3 * decay])[: len(wave) * HOP].reshape(-1, HOP))
        assert signal_quality.reverberation_time(dry, RATE) == 0
    assert np.median(heard) == pytest.approx(rt60, rel=0.15)
    assert signal_quality.reverberation_time(np.zeros((1, HOP), np.int16), RATE) == 0


def test_what_could_not_be_aligned_moves_no_limit() -> None:
    measure = next(one for one in MEASURES if one.name == "confidence")
    values = np.array([-1.0, -1.2, -100.0, np.nan, -0.9], np.float32)
    statistics = SimpleNamespace(columns={"confidence": values})
    assert known_values(statistics, measure).tolist() == pytest.approx([-1.0, -1.2, -0.9])
    assert format_value(measure, -100.0) == "not measured" and format_value(measure, -1.2) == "-1.2 nats"


def test_texts_that_read_the_same_have_one_key() -> None:
    keys = near_duplicates.text_keys([near_duplicates.normalise_text(text) for text in TEXTS])
    assert keys[1] == keys[2] and keys[7] == near_duplicates.NO_TEXT
    assert len(set(keys.tolist())) == len(TEXTS) - 1


def test_minhash_estimates_jaccard() -> None:
    random, pairs = np.random.default_rng(0), []
    for share in (0.0, 0.1, 0.3, 0.6):
        one = "".join(random.choice(list("abcdefghijklmnop"), 200))
        kept = random.random(200) > share / 3
        pairs.append((one, "".join(c if keep else "z" for c, keep in zip(one, kept, strict=True))))
    signed = near_duplicates.signatures([text for pair in pairs for text in pair]).reshape(len(pairs), 2, -1)
    for (one, two), (a, b) in zip(pairs, signed, strict=True):
        grams = [{f"{text}\0\0"[k : k + 3] for k in range(len(text))} for text in (one, two)]
        exact = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        assert (a == b).mean() == pytest.approx(exact, abs=0.25)
    assert (signed[0, 0] == signed[0, 1]).all()


def test_what_two_speakers_say_is_no_repetition() -> None:
    strings = {"id": list("abcde"), "text": ["Good day.", "good day", "Good day!", "", ""], "speaker": list("mfmmm")}
    part = DerivedPart({}, {}.__getitem__, strings=strings.__getitem__)
    learned = RepeatedText().learn([part], LearningLog())
    over_all = {"texts": near_duplicates.text_keys(["goodday"]), "firsts": near_duplicates.text_keys(["a"])}
    for model, expected in ((learned, [0, 0, 1, 0, 0]), (over_all, [0, 1, 1, 0, 0])):
        rows = RepeatedText().rows(replace(part, learned=lambda name, model=model: model))
        assert np.concatenate(list(rows)).tolist() == expected


def test_signatures_do_not_depend_on_the_company() -> None:
    texts = list(map(near_duplicates.normalise_text, TEXTS))
    alone = np.concatenate([near_duplicates.signatures([text]) for text in texts])
    assert np.array_equal(alone, near_duplicates.signatures(texts))


def test_near_duplicates_are_found_and_nothing_else(made: Store) -> None:
    found = compute_statistics(made, 100, quiet)
    assert found.same_text.tolist() == [[2, 1]]
    assert {tuple(pair) for pair in found.near_text[0].tolist()} in ({(1, 3)}, {(2, 3)}, {(1, 3), (2, 3)})
    assert found.near_sound[0].tolist() == [[5, 6]]
    assert found.analysed.tolist() == list(range(8)) and found.compared == 8 < COMPARED_TEXTS


def test_a_copy_that_is_softer_noisier_and_narrower_is_found() -> None:
    """Of recordings whose pauses are digital silence."""
    spoken, random = [speech(n) for n in range(6)], np.random.default_rng(0)
    whole = [np.where(wave.std(1, keepdims=True) > 0.01, wave, 0) for wave in spoken]
    narrow = [soxr.resample(soxr.resample(wave.reshape(-1), RATE, RATE // 2), RATE // 2, RATE) for wave in whole]
    copies = [0.4 * (wave + 0.005 * wave.std() * random.normal(size=wave.shape)) for wave in narrow]
    heard = [mel_of(as_stored(wave.reshape(-1, HOP))) / 2 for wave in (*whole, *copies)]
    outlines = np.stack(list(map(near_duplicates.energy_contour, heard)))
    assert (np.diag(outlines[:6] @ outlines[6:].T) >= near_duplicates.SIMILAR_SOUND).all()
    assert (outlines[:6] @ outlines[:6].T)[~np.eye(6, dtype=bool)].max() < 0.9


def test_hours_add_up(made: Store) -> None:
    found = compute_statistics(made, 0, quiet)
    frames = int(made.frames.sum())
    assert sum(found.speakers.values()) == sum(found.languages.values()) == frames
    assert np.isnan(found.columns["snr"]).all() and not len(found.analysed)


def test_the_analysed_recordings_are_spread_over_the_store(made: Store) -> None:
    found = compute_statistics(made, 3, quiet)
    assert found.analysed.tolist() == [0, 3, 6]
    assert np.flatnonzero(np.isfinite(found.columns["level"])).tolist() == [0, 3, 6]


def test_names_of_single_utterances(made: Store) -> None:
    name = MetadataReader(made)
    assert [name("id", n) for n in range(8)] == made.ids.tolist()
    assert [name("text", n) for n in (7, 0)] == [TEXTS[7], TEXTS[0]]


def test_an_empty_store_has_no_report(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "__len__", lambda self: 0)
    with pytest.raises(StoreError, match="nothing to report"):
        compute_statistics(made, 1, quiet)


class Reader(HTMLParser):
    """Tags, and the rows of the table of filters."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.filters: list[dict[str, str]] = []
        self._kind = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        kinds = (dict(attrs).get("class") or "").split()
        if "filter" in kinds:
            self.filters.append({})
        self._kind = next((kind for kind in ("where", "in", "out") if kind in kinds), "")

    def handle_endtag(self, tag: str) -> None:
        self._kind = ""

    def handle_data(self, data: str) -> None:
        if self._kind:
            self.filters[-1][self._kind] = self.filters[-1].get(self._kind, "") + data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path, dict]:
    """Of a store that has all columns."""
    folder = tmp_path_factory.mktemp("page")
    make(folder / "S")
    assert add(folder / "S", "level,snr,silence,clipped,bandwidth,dc_offset,reverberation,repeated").exit_code == 0
    done = call(main, "report", folder / "S", "--out", folder / "r.html", "--mos", 0, "--json")
    assert done.exit_code == 0, done.output
    return store.open(folder / "S"), folder / "r.html", json.loads(done.stdout)


def test_columns_are_what_was_measured(report: tuple[Store, Path, dict]) -> None:
    opened = report[0]
    for kind in signal_quality.KINDS:
        expected = [kind.measure(Recording(opened.read("wave", n), RATE)) for n in range(len(opened))]
        assert opened.per_utterance(kind.name, object).tolist() == pytest.approx(expected, rel=1e-6)


def test_what_was_said_before_is_a_column(report: tuple[Store, Path, dict]) -> None:
    assert report[0].per_utterance("repeated", object).tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_counts_on_the_page_are_those_of_where(report: tuple[Store, Path, dict]) -> None:
    opened, page, said = report
    shown = [one for one in Reader(page.read_text()).filters if "in" in one]
    assert {"clipped <= 0.001", "snr >= 15", 'id not in ["utt\'6"]', "repeated == 0"} <= {one["where"] for one in shown}
    for one in shown:
        selected = select(opened, one["where"])
        assert (int(one["in"]), int(one["out"])) == (selected.included.utterances, selected.excluded.utterances)
    assert [one["where"] for one in said["filters"]] == [one["where"] for one in shown]
    together = next(one for one in shown if " and " in one["where"])
    assert int(together["out"]) >= max(int(one["out"]) for one in shown if one["where"] in together["where"]) > 0


def test_the_page_needs_nothing_and_runs_nothing(report: tuple[Store, Path, dict]) -> None:
    page = report[1].read_text()
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "b"}
    for _, attrs in reader.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("src") or "data:").startswith("data:")
        assert (attrs.get("href") or "#").startswith("#")
    assert "{{ 7*7 }}" in page and "default-src 'none'" in page


def test_without_columns_the_page_says_what_makes_them(made: Store, tmp_path: Path) -> None:
    done = call(main, "report", made.path, "--out", tmp_path / "r.html", "--mos", 0, "--worst", 2, "--json")
    filters = {one["where"]: one for one in json.loads(done.stdout)["filters"]}
    assert "in" not in filters["snr >= 15"] and "of the 8 measured" in filters["snr >= 15"]["remark"]
    assert f"featurize add {made.path} snr" in (tmp_path / "r.html").read_text()
    assert max(json.loads(done.stdout)["lists"].values()) == 2


def test_ratings_of_a_few_are_shown(made: Store, tmp_path: Path) -> None:
    pytest.importorskip("speechmos")
    done = call(main, "report", made.path, "--out", tmp_path / "r.html", "--mos", 2, "--worst", 1, "--json")
    said = json.loads(done.stdout)
    assert said["measures"]["mos"]["known"] == 2 and "DNSMOS: lowest rated" in said["lists"]
    assert any("mos >=" in one["where"] and "of the 2 measured" in one["remark"] for one in said["filters"])


@pytest.mark.parametrize("value", [10.04, -10.04, 0.0, 9.999, -1e-5])
def test_limits_of_equal_values_let_them_in(value: float) -> None:
    for measure in MEASURES:
        for by_ratio in {False, value > 0}:
            kind = replace(measure, limits=(None, None), by_ratio=by_ratio)
            low, high = outlier_limits(kind, np.full(9, value, np.float32))
            assert (low is None or low <= value) and (high is None or high >= value)
            assert (low is None) == (not kind.low) and (high is None) == (not kind.high)


def test_several_stores_are_one_corpus(made: Store, tmp_path: Path) -> None:
    other = make(tmp_path / "other", "more ")
    (tmp_path / "all.txt").write_text(f"{made.path}\n{other.path}\n")
    done = call(main, "report", tmp_path / "all.txt", "--out", tmp_path / "r.html", "--mos", 0, "--worst", 1, "--json")
    said, page = json.loads(done.stdout), (tmp_path / "r.html").read_text()
    assert said["utterances"] == said["analysed"] == 16 and said["same_text"] == 8 and said["near_sound"] >= 8
    assert all(f"featurize add {one.path} level" in page for one in (made, other))


def test_a_report_is_written_from_python(made: Store, tmp_path: Path) -> None:
    stages: list[str] = []

    @contextmanager
    def progress(stage: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: stages.append(f"{stage} {done}/{total}")

    found = write_report(made, tmp_path / "r.html", max_recordings=3, max_mos=0, max_listed=1, progress=progress)
    assert found.path == tmp_path / "r.html" and "<!doctype html>" in found.path.read_text()
    assert found.statistics.analysed.tolist() == [0, 3, 6] and all(len(one.entries) == 1 for one in found.lists)
    assert stages[:2] == ["read 1/2", "read 2/2"] and stages[-1] == f"drawn {len(found.lists)}/{len(found.lists)}"
    options = ("--max-recordings", 3, "--mos", 0, "--worst", 1, "--json")
    command = call(main, "report", made.path, "--out", tmp_path / "c.html", *options)
    paths = {"page": str(tmp_path / "c.html"), "bytes": (tmp_path / "c.html").stat().st_size}
    assert json.loads(command.stdout) == json.loads(json.dumps(found.to_json())) | paths


def test_a_condition_that_nothing_meets_is_told(made: Store) -> None:
    one = count_selection(made, "Length", "duration > 1000")
    assert one.selection is None and "No utterance" in one.remark


@pytest.mark.skipif(not browser.found(), reason="no Chromium: HEADRACE_CHROMIUM names one, or it is on PATH")
def test_a_browser_shows_it_and_plays_it(report: tuple[Store, Path, dict], tmp_path: Path) -> None:
    play = """(async () => {
        const sound = document.querySelector('audio');
        await sound.play();
        const end = Date.now() + 20000;
        while (sound.currentTime == 0 && Date.now() < end) await new Promise(done => setTimeout(done, 20));
        const images = [...document.images], players = [...document.querySelectorAll('audio')];
        await Promise.all(images.map(one => { one.loading = 'eager'; return one.decode(); }));
        for (const one of players) {
            one.preload = 'metadata';
            if (!one.readyState) await new Promise(done => one.onloadedmetadata = one.onerror = done);
        }
        const texts = kind => [...document.querySelectorAll(kind)].map(one => one.textContent);
        return {time: sound.currentTime, seconds: players.map(one => one.duration), images: images.length,
                where: texts('code.where'), in: texts('td.in')};
    })()"""
    seen, said = browser.ask(report[1], play, tmp_path)
    assert said == []
    assert seen["time"] > 0 and seen["images"] > 8
    assert len(seen["seconds"]) > 8 and all(1.9 < seconds < 3.2 for seconds in seen["seconds"])
    assert seen["where"] == [one["where"] for one in report[2]["filters"] if one["where"]]
    assert list(map(int, seen["in"])) == [one["in"]["utterances"] for one in report[2]["filters"] if "in" in one]
