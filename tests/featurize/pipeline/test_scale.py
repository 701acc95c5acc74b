"""Memory and time at scale: workers' memory, whatever the corpus; scan and plan of a million utterances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.progress import BuildProgress
from headrace.featurize.pipeline import build
from headrace.featurize.pipeline.build import BuildConfig
from headrace.featurize.pipeline.part_rows import PartRows, UtteranceFeatures
from headrace.featurize.pipeline.part_worker import process_part
from headrace.featurize.pipeline.presets import get_preset
from headrace.featurize.spectral import engine
from headrace.featurize.spectral.engine import Spectra
from headrace.store.schema import FeatureSpec, Utterance
from headrace.store.writer import create_store
from tests.helpers.build_processes import start_build, worker_processes
from tests.helpers.corpora import buzz, make_tree, sentence

MOST_WORKER_BYTES = 1.5e9
MOST_SCAN_BYTES = 2e9
MOST_PLAN_SECONDS = 10


def utterance(name: str) -> Utterance:
    return Utterance(
        id=name, audio=name, start=0, stop=1, sample_rate=1, size=1, speaker="", language="en", text=""
    )  # fmt: skip


def test_a_part_is_in_order_of_length_however_its_utterances_come() -> None:
    specs = [
        FeatureSpec(name="mel", axis="frames", dtype="float16", channels=3),
        FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None),
    ]
    rows = PartRows(specs, frames=4)  # too few: it grows
    for number, (frames, phones) in enumerate([(5, 2), (3, 0), (5, 7), (1, 1)]):
        arrays = {"mel": np.full((frames, 3), number, "float16"), "phones": np.full(phones, number, "int16")}
        columns = {"frames": frames, "samples_dropped": 0, "phones_n": phones, "aligned": 0}
        rows.add(UtteranceFeatures(utterance=utterance(str(number)), arrays=arrays, columns=columns))
    part = rows.part(7, (), "inputs")
    assert part.strings["id"] == ["3", "1", "0", "2"] and part.lengths["frames"].tolist() == [1, 3, 5, 5]
    assert part.arrays["mel"][:, 0].tolist() == [3, *[1] * 3, *[0] * 5, *[2] * 5]
    assert part.arrays["phones"].tolist() == [3, 0, 0, *[2] * 7]


class Slow:
    """An engine that takes its time, and sees who else is at it."""

    def __init__(self) -> None:
        self.at_work = self.most = 0

    def spectra(
        self, waves: Iterable[tuple[UtteranceFeatures, np.ndarray]]
    ) -> Iterator[tuple[UtteranceFeatures, Spectra]]:
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        for key, wave in waves:
            time.sleep(0.01)
            frames = len(wave) // 640
            yield key, Spectra(np.zeros((frames, 128), "float16"), np.zeros((frames, 20), "float16"))
        self.at_work -= 1


def test_of_two_parts_in_a_process_one_has_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(engine, "load", lambda *recipe: slow)
    config = BuildConfig(
        corpus=make_tree(tmp_path / "corpus", 12),
        out=tmp_path / "S",
        preset=get_preset("gpt-sovits-v2"),
        features=("mel",),
        part_hours=0.001,
    )
    tasks = build.plan_parts(build.scan(config, BuildProgress(quiet=True)), config)
    create_store(config.out, {})
    on_device = [replace(task, recipe=replace(task.recipe, device="cuda")) for task in tasks]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda task: process_part(task, threads=2), on_device))
    assert sum(report.utterances for report in reports) == 12 and slow.most == 1


def peak_bytes(pid: int) -> int:
    """Most memory that a process has held at a time; 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def build_and_watch(corpus: Path, out: Path, *words: object) -> int:
    """Build with one worker. Returns the most memory that it held."""
    process, peak = start_build(corpus, out, "--workers", 1, *words), 0
    while process.poll() is None:
        peak = max([peak, *(peak_bytes(worker.pid) for worker in worker_processes(process))])
        time.sleep(0.1)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    account = json.loads((out / "build.json").read_text(encoding="utf-8"))
    print(f"\n{account['utterances']} utterances, {account['hours']:.2f} h, {account['rejects']} rejects:")
    print(f"worker's peak {peak / 1e6:.0f} MB; seconds by stage {account['seconds_by_stage']}")
    return peak


@pytest.mark.soak
def test_a_worker_keeps_its_memory_over_ten_thousand_short_files(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for n in range(50):
        soundfile.write(tmp_path / f"{n}.flac", buzz(0.3 + n / 25, 44_100, n), 44_100)
    for n in range(10_000):
        os.link(tmp_path / f"{n % 50}.flac", corpus / f"{n:05d}.flac")
        (corpus / f"{n:05d}.txt").write_text(sentence(n, 8), encoding="utf-8")
    assert build_and_watch(corpus, tmp_path / "S", "--part-hours", 1) < MOST_WORKER_BYTES
    assert len(store.open(tmp_path / "S")) == 10_000


@pytest.mark.soak
def test_a_worker_keeps_its_memory_over_an_hour_in_one_file_and_rejects_six(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, rate, channels, minutes in (("hour", 48_000, 2, 60), ("six_hours", 16_000, 1, 360)):
        minute = np.repeat(buzz(60, rate, 0)[:, None], channels, axis=1)
        with soundfile.SoundFile(corpus / f"{name}.flac", "w", rate, channels) as file:
            for _ in range(minutes):
                file.write(minute)
        (corpus / f"{name}.txt").write_text(sentence(0, 8), encoding="utf-8")
    assert build_and_watch(corpus, tmp_path / "S", "--part-hours", 1) < MOST_WORKER_BYTES
    assert list(store.open(tmp_path / "S").ids) == ["hour.flac"]
    (reject,) = (json.loads(line) for line in (tmp_path / "S" / "rejects.jsonl").read_text().splitlines())
    assert reject["id"] == "six_hours.flac" and "3600" in reject["reason"]


def make_million(root: Path, count: int) -> None:
    """A list of `count` recordings, which are links to a few."""
    random = np.random.default_rng(0)
    for n in range(64):
        soundfile.write(root / f"{n}.wav", np.zeros(3200 * (n + 5), np.int16), 16_000)
    with (root / "corpus.list").open("w", encoding="utf-8") as lines:
        for n, source in enumerate(random.integers(0, 64, count)):
            path = root / "wavs" / f"{n // 1000:04d}" / f"{n:07d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / f"{source}.wav", path)
            lines.write(f"{path.relative_to(root)}|speaker{n % 100}|EN|{sentence(n % 997, 14)}\n")


SCAN_AND_PLAN = """
import json, sys, time
from pathlib import Path
from headrace.cli.progress import BuildProgress
from headrace.featurize.pipeline import build
from headrace.featurize.pipeline.presets import get_preset
config = build.BuildConfig(corpus=Path(sys.argv[1]), out=Path("STORE"), preset=get_preset("gpt-sovits-v2"),
                           features=("wave", "mel", "mfcc", "phones"))
begun = time.perf_counter()
found = build.scan(config, BuildProgress(quiet=True))
scanned, begun_plan = time.perf_counter(), time.process_time()
tasks = build.plan_parts(found, config)
planned = time.process_time()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"utterances": len(found.utterances), "parts": len(tasks), "scan_s": scanned - begun,
                  "plan_s": planned - begun_plan, "peak_bytes": 1024 * int(peak.split()[1])}))
"""


@pytest.mark.soak
def test_a_million_utterances_are_scanned_and_planned(tmp_path: Path) -> None:
    make_million(tmp_path, 1_000_000)
    command = [sys.executable, "-c", SCAN_AND_PLAN, str(tmp_path / "corpus.list")]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\n{done}")
    assert done["utterances"] == 1_000_000
    assert done["peak_bytes"] < MOST_SCAN_BYTES and done["plan_s"] < MOST_PLAN_SECONDS
