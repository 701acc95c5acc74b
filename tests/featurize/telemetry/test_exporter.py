"""Metrics at a port and in a file: what is refused, what is left behind, and what becomes of it at the end."""

from __future__ import annotations

import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from headrace.featurize.telemetry import exporter
from headrace.featurize.telemetry.exporter import MetricsConfig, MetricsExporter, OutputCollector, common_labels
from headrace.featurize.telemetry.metric_set import MetricSet
from headrace.store.errors import Interrupted, UsageError
from tests.helpers.full_disk import full_disk
from tests.helpers.metrics.scrapes import fetch, free_port, page_of, value, values


class Counting:
    """A collector that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def collect(self) -> Iterator[Metric]:
        self.asked += 1
        metrics = MetricSet({"out": "RUN"})
        metrics.counter("headrace_asked_total", "Times.", self.asked)
        yield from metrics


def test_a_page_is_served_and_the_port_is_free_afterwards() -> None:
    port, asked = free_port(), Counting()
    with MetricsExporter(MetricsConfig(port=port), print) as metrics:
        metrics.add(asked)
        assert value(fetch(port), "headrace_asked_total") == 1
        assert value(fetch(port), "headrace_asked_total") == 2
        with pytest.raises(ConnectionRefusedError):  # on loopback only
            socket.create_connection(("127.0.0.2", port), timeout=5)
    with MetricsExporter(MetricsConfig(port=port), print):
        assert fetch(port) == ""


@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_an_error_frees_the_port_too(error: type[Exception]) -> None:
    port = free_port()
    with pytest.raises(error), MetricsExporter(MetricsConfig(port=port), print):
        raise error("so it ends")
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_that_is_taken_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--metrics-port {port} at 127.0.0.1 cannot be had \(Address already"):
            MetricsExporter(MetricsConfig(port=port), print)


def test_an_address_that_is_not_of_this_machine_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--metrics-port .* at 192\.0\.2\.1 cannot be had"):
        MetricsExporter(MetricsConfig(port=free_port(), address="192.0.2.1"), print)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"address": "0.0.0.0"}, "--metrics-address 0.0.0.0: give --metrics-port too"),
        ({"file": Path("run.txt")}, "--metrics-file run.txt: .* end with .prom"),
        ({"port": 65536}, "Port 65536: ports are 1 to 65535"),
        ({"port": 0}, "Port 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MetricsConfig(**options)


def test_each_rank_has_a_port_and_a_file_of_its_own() -> None:
    config = MetricsConfig(port=9400, file=Path("a/run.prom"))
    assert config.of_rank(0) == config
    assert config.of_rank(3) == MetricsConfig(port=9403, file=Path("a/run.rank3.prom"))
    with pytest.raises(UsageError, match="Port 65537"):
        MetricsConfig(port=65535).of_rank(2)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pynvml", "prometheus_client"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match=rf"not there \({name}\): pip install 'headrace\[metrics\]'"):
                MetricsExporter(MetricsConfig(port=free_port()), print)


class TestFile:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exporter, "FILE_EVERY_S", 0.02)

    def wait_for(self, file: Path, least: float) -> None:
        end = time.monotonic() + 20
        while (value(file.read_text(), "headrace_asked_total") or 0) < least:
            assert time.monotonic() < end
            time.sleep(0.01)

    def test_it_is_replaced_again_and_again_and_gone_at_the_end(self, tmp_path: Path) -> None:
        file = tmp_path / "run.prom"
        with MetricsExporter(MetricsConfig(file=file), print) as metrics:
            assert file.exists(), "what cannot be written is known before any work"
            metrics.add(Counting())
            self.wait_for(file, 3)
            assert stat.S_IMODE(file.stat().st_mode) & 0o044 == 0o044, "node-exporter is another user"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("error, stays", [(RuntimeError, True), (Interrupted, False), (KeyboardInterrupt, False)])
    def test_it_stays_after_an_error_only(self, tmp_path: Path, error: type[BaseException], stays: bool) -> None:
        file = tmp_path / "run.prom"
        with pytest.raises(error), MetricsExporter(MetricsConfig(file=file), print) as metrics:
            metrics.add(Counting())
            raise error("so it ends")
        assert file.exists() == stays
        if stays:
            assert value(file.read_text(), "headrace_asked_total")

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"--metrics-file .*run.prom cannot be written \(No such file"):
            MetricsExporter(MetricsConfig(file=tmp_path / "none" / "run.prom"), print)

    def test_a_full_disk_is_told_once_and_the_work_goes_on(self, tmp_path: Path) -> None:
        file, told = tmp_path / "run.prom", list[str]()
        with MetricsExporter(MetricsConfig(file=file), told.append) as metrics:
            metrics.add(Counting())
            self.wait_for(file, 1)
            with full_disk(10):
                end = time.monotonic() + 20
                while not told and time.monotonic() < end:
                    time.sleep(0.01)
                time.sleep(0.1)
            before = value(file.read_text(), "headrace_asked_total")
            assert before
            self.wait_for(file, before + 1)
        assert len(told) == 1 and "cannot be written (File too large): the work goes on" in told[0]


class TestOutput:
    def test_the_disk_is_that_of_the_folder_or_of_the_first_above_it(self, tmp_path: Path) -> None:
        import shutil

        out = tmp_path / "not" / "there" / "yet"
        text = page_of([OutputCollector("train run", out, common_labels(out))])
        assert value(text, "headrace_disk_size_bytes") == shutil.disk_usage(tmp_path).total
        assert 0 < (value(text, "headrace_disk_free_bytes") or 0) <= shutil.disk_usage(tmp_path).total
        (labels,) = values(text, "headrace_info")
        assert dict(labels)["command"] == "train run"

    def test_a_bucket_has_no_disk(self) -> None:
        from headrace.store.storage import parse_path

        out = parse_path("s3://bucket/store")
        text = page_of([OutputCollector("featurize build", out, common_labels(out))])
        assert "headrace_disk" not in text and 'out="s3://bucket/store"' in text

    def test_a_folder_is_labelled_in_full(self) -> None:
        assert common_labels(Path("RUN")) == {"out": str(Path.cwd() / "RUN")}
