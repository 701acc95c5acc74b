"""Measuring: what is counted, what is beside it, and whether the verdict is right in both directions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.cli.store import main as store_command
from headrace.cli.train import main as train_command
from headrace.store.errors import UsageError
from headrace.store.reader import Spans, Store
from headrace.store.storage.s3 import S3Path
from headrace.train.data import stream
from headrace.train.data.batch import Batch
from headrace.train.data.stream import Stream, StreamConfig
from headrace.train.measure import bottleneck, page_cache, throughput
from headrace.train.measure.bottleneck import Comparison, compare
from tests.helpers.commands import call
from tests.helpers.training_store import FRAMES, build

pytestmark = pytest.mark.timing

FEATURES = ("wave", "mfcc", "phones")
CONFIG = StreamConfig(batch_frames=250)
ROW = 640 * 2 + 20 * 2
"""Bytes of a frame of wave and mfcc."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("bench") / "store")


@pytest.fixture(autouse=True)
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "DATA_SECONDS", 0.1)
    monkeypatch.setattr(throughput, "COPY_SOURCE_BYTES", 1 << 24)


def strict(output: str) -> dict[str, Any]:
    """JSON as others read it: NaN and Infinity are no words of it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found: dict[str, Any] = json.loads(output, parse_constant=refuse)
    return found


class SlowStage:
    """A stage that does nothing for so long."""

    def __init__(self, seconds: float, grad_accum: int = 1) -> None:
        self.optim, self._seconds = SimpleNamespace(grad_accum=grad_accum), seconds
        self.seen: list[list[list[int]]] = []

    def step(self, batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
        self.seen.append([batch.numbers.tolist() for batch in batches])
        time.sleep(self._seconds)
        return {"skipped": torch.zeros(())}


class SlowStore:
    """A store whose features take so long to read."""

    def __init__(self, corpus: Store, delay: float) -> None:
        self._corpus, self._delay = corpus, delay

    def __getattr__(self, name: str) -> Any:
        return getattr(self._corpus, name)

    def read_into(self, feature: str, spans: Spans, out: np.ndarray) -> None:
        time.sleep(self._delay)
        self._corpus.read_into(feature, spans, out)


def compared(corpus: Store, *, reading: float, computing: float, grad_accum: int = 1) -> tuple[Comparison, SlowStage]:
    """With so many seconds for each batch read, and each step computed."""
    everything = np.arange(len(corpus))
    stage, store = SlowStage(computing, grad_accum), SlowStore(corpus, reading / len(FEATURES))
    found = compare(stage, lambda: Stream(store, FEATURES, everything, CONFIG), 8, lambda _: None)  # type: ignore[arg-type]
    return found, stage


def test_a_slow_model_does_not_wait(corpus: Store) -> None:
    found, _ = compared(corpus, reading=0, computing=0.04)
    assert found.bottleneck == "model"
    assert found.wait_share < bottleneck.WAIT_SHARE_LIMIT
    assert found.verdict("pray").startswith("data is not the bottleneck: ")
    assert found.data.frames_per_s > 3 * found.together.frames_per_s
    assert found.together.frames_per_s == pytest.approx(found.model.frames_per_s, rel=0.2)


@pytest.mark.parametrize("computing", [0.005, 0.04])
def test_a_model_waits_for_a_slow_reader(corpus: Store, computing: float) -> None:
    """Also where it is not much slower than the model, and what is read ahead could hide it for a while."""
    found, _ = compared(corpus, reading=0.06, computing=computing)
    assert found.bottleneck == "data"
    assert found.wait_share == pytest.approx(1 - computing / 0.06, abs=0.15)
    verdict = found.verdict("pray")
    assert verdict.startswith("data is the bottleneck: ") and verdict.endswith("; pray") and "\n" not in verdict
    assert found.data.frames_per_s < found.model.frames_per_s
    assert found.together.frames_per_s == pytest.approx(found.data.frames_per_s, rel=0.25)


def test_the_model_sees_the_same_batches_alone_and_together(corpus: Store) -> None:
    found, stage = compared(corpus, reading=0, computing=0, grad_accum=2)
    assert stage.seen[:10] == stage.seen[10:]
    assert all(len(update) == 2 for update in stage.seen)
    assert found.model.steps == found.together.steps == len(found.waits_s) == 8
    ratio = found.model.frames_per_s / found.model.utterances_per_s
    assert ratio == pytest.approx(found.together.frames_per_s / found.together.utterances_per_s)


@pytest.fixture(scope="module")
def words(corpus: Store) -> list[object]:
    return ["bench", corpus.path, "--preset", "tiny", "--batch-frames", 100, "--max-utterances", 1, "--device", "cpu"]


def test_train_bench_of_a_model_that_is_slow(words: list[object], tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    result = call(train_command, *words, "--steps", 2, "--png", picture)
    assert result.exit_code == 0, result.output
    assert "data is not the bottleneck: " in result.stdout.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_train_bench_of_a_reader_that_is_slow(words: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    read = stream.read_batch

    def slowly(*args: Any, **kwargs: Any) -> Batch:
        time.sleep(1.2)  # longer than a step, also on a machine that is busy
        return read(*args, **kwargs)

    monkeypatch.setattr(stream, "read_batch", slowly)
    result = call(train_command, *words, "--steps", 2, "--cold", "--json")
    assert result.exit_code == 0, result.output
    found = strict(result.stdout)
    assert found["bottleneck"] == "data" and found["cold"]
    assert found["verdict"].startswith("data is the bottleneck: ") and "faster disk" in found["verdict"]
    assert len(found["waits_s"]) == found["together"]["steps"] == 2


def test_the_remedy_depends_on_how_the_store_is_read(corpus: Store) -> None:
    def members(path: object, compression: str) -> Any:
        return SimpleNamespace(members=[SimpleNamespace(path=path, attributes={"compression": compression})])

    bucket = members(S3Path.parse("s3://bucket/store"), "zstd")
    assert "copy" in bottleneck.remedy(bucket, True)
    assert throughput.reason_never_warm(bucket, ()) == "it lies in a bucket"
    assert "--compression none" in bottleneck.remedy(members(corpus.path, "zstd"), True)
    assert "disk" in bottleneck.remedy(corpus, True)
    assert "disk" not in bottleneck.remedy(corpus, False)


def test_measured_rates(corpus: Store) -> None:
    found = throughput.measure_stream(corpus.path, FEATURES, CONFIG, epochs=1)
    assert sorted(np.concatenate(found.numbers).tolist()) == list(range(len(FRAMES)))
    assert found.stored == sum(FRAMES) * ROW + int(corpus.phones_n.sum()) * 2
    rates = found.to_json()
    assert rates["frames_per_s"] * found.seconds == pytest.approx(sum(FRAMES))
    assert rates["hours_per_s"] * found.seconds == pytest.approx(corpus.hours)
    assert rates["gb_per_s"] * found.seconds * 1e9 == pytest.approx(sum(map(sum, found.sizes)))
    assert sum(map(sum, found.sizes)) > found.stored
    assert 0 < rates["padding"] < 0.5
    assert found.first_batch_s > 0


def test_epochs_that_are_not_counted(corpus: Store) -> None:
    found = throughput.measure_stream(corpus.path, FEATURES, CONFIG, skipped=1, epochs=2)
    assert sorted(np.concatenate(found.numbers).tolist()) == list(range(len(FRAMES)))
    first = throughput.measure_stream(corpus.path, FEATURES, CONFIG, epochs=1)
    assert [some.tolist() for some in found.numbers] != [some.tolist() for some in first.numbers]


def test_store_bench(corpus: Store, tmp_path: Path) -> None:
    picture = tmp_path / "rates.png"
    words = ["bench", corpus.path, "--features", "mfcc, phones", "--batch-frames", 250, "--seconds", 0.1]
    found = strict(call(store_command, *words, "--json", "--png", picture).stdout)
    assert found["features"] == ["mfcc", "phones"] and found["reading"].startswith("mapped")
    for state in ("warm", "cold"):
        assert found[state]["frames_per_s"] / found[state]["utterances_per_s"] == pytest.approx(
            np.mean(FRAMES), rel=0.2
        )
    assert found["warm"]["seconds"] >= 0.1
    assert found["warm"]["of_copies"] == pytest.approx(found["warm"]["gb_per_s"] / found["copy_gb_per_s"])
    assert found["cold"]["of_disk"] > 0 and found["disk_gb_per_s"] > 0
    if found["disk_direct"]:
        assert found["cold"]["fetched"] > 0.9, "tmpfs would have no disk below"
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("state, other", [("warm", "cold"), ("cold", "warm")])
def test_store_bench_of_one_state(corpus: Store, state: str, other: str) -> None:
    words = ["bench", corpus.path, "--seconds", 0.05, f"--{state}"]
    found = strict(call(store_command, *words, "--json").stdout)
    assert found[state] and found[other] is None
    table = call(store_command, *words).stdout
    assert "GB/s" in table and "hours of audio/s" in table


def test_a_compressed_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = build(tmp_path / "store", compression="zstd")
    found = throughput.bench(packed.path, FEATURES, batch_frames=250, seconds=0.05)
    assert found["reading"].startswith("by whole chunks")
    assert found["warm"]["gb_per_s"] > 0 and found["cold"]["gb_per_s"] > 0
    monkeypatch.setattr(stream, "MEMORY_SHARE", 0.0)
    assert throughput.bench(packed.path, FEATURES, seconds=0.05)["warm"] is None
    with pytest.raises(UsageError, match="half of this machine's memory"):
        throughput.bench(packed.path, FEATURES, cold=False)


def test_files_are_read_whole_and_from_the_disk(tmp_path: Path) -> None:
    sizes = (0, 1, 4096, 5000, page_cache.BLOCK, page_cache.BLOCK + 4097)
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(b"x" * size)
    page_cache.sync(tmp_path)
    flags = page_cache.os.O_DIRECT if page_cache.supports_direct_io(tmp_path) else 0
    assert sum(page_cache._read_blocks(page_cache.files_in(tmp_path), flags)) == sum(sizes)
    assert page_cache.disk_rate(tmp_path) > 0
    page_cache.load(tmp_path)
    before = page_cache.bytes_read()
    page_cache.load(tmp_path)
    assert page_cache.bytes_read() == before
    page_cache.evict(tmp_path)
    page_cache.load(tmp_path)
    if flags:
        assert page_cache.bytes_read() - before >= sum(sizes)


@pytest.mark.parametrize("command", [store_command, train_command])
@pytest.mark.parametrize("path", ["nowhere", "s4://bucket/store"])
def test_bad_input_is_a_one_line_error(command: object, path: str, corpus: Store) -> None:
    result = call(command, "bench", path)
    assert result.exit_code != 0
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1
    assert not result.stdout


def test_a_missing_feature_is_refused(corpus: Store) -> None:
    result = call(store_command, "bench", corpus.path, "--features", "wave,mell")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and "no feature mell: choose from wave, " in result.stderr
    assert result.stderr.count("\n") == 1
