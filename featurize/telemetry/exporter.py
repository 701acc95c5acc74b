"""Metrics of a command for Prometheus: served at a port, or in a file that node-exporter reads.

They are gathered when they are asked for, by the thread that answers: what is measured does not wait for it.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from headrace.store.errors import Interrupted, UsageError
from headrace.store.storage import StoragePath
from headrace.store.storage.local import atomic_file

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"
FILE_EVERY_S = 15.0
"""Seconds between two versions of the file: the usual time between two scrapes."""
LARGEST_PORT = 65535


class Collector(Protocol):
    """What has metrics of its own, as prometheus-client knows it."""

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """Where the metrics of a command can be read."""

    port: int | None = None
    """TCP port that serves them; None for none."""
    address: str = LOOPBACK
    """Address of this machine that it listens at."""
    file: Path | None = None
    """File that holds them, in the folder of node-exporter's textfile collector; None for none."""

    def __post_init__(self) -> None:
        if self.port is not None and not 0 < self.port <= LARGEST_PORT:
            raise UsageError(f"Port {self.port}: ports are 1 to {LARGEST_PORT}, and each process needs one of its own.")
        if self.port is None and self.address != LOOPBACK:
            raise UsageError(f"--metrics-address {self.address}: give --metrics-port too.")
        if self.file is not None and self.file.suffix != ".prom":
            raise UsageError(f"--metrics-file {self.file}: node-exporter reads only files whose names end with .prom.")

    def of_rank(self, rank: int) -> MetricsConfig:
        """Return where the process of this rank puts its own: at a port that is higher by its rank, in another file."""
        if not rank:
            return self
        return replace(
            self,
            port=None if self.port is None else self.port + rank,
            file=None if self.file is None else self.file.with_suffix(f".rank{rank}.prom"),
        )


class MetricsExporter:
    """Makes the metrics of its collectors readable for the duration of a `with` statement.

    The file is deleted at the end, for nothing old to be taken for new; after an error it stays, and its metrics stand
    still.
    """

    def __init__(self, config: MetricsConfig, log: Callable[[str], None]) -> None:
        """Listen at the port, with no collectors yet.

        Args:
            log: is told once that the file can no longer be written.
        Raises:
            UsageError: the libraries are not installed, the port is taken, or the file cannot be written.
        """
        try:
            import prometheus_client
            import pynvml  # noqa: F401 - is part of the same extra
        except ImportError as error:
            raise UsageError(
                f"Metrics need a package that is not there ({error.name}): pip install 'headrace[metrics]'."
            ) from error
        self._client, self._config, self._log = prometheus_client, config, log
        self._registry = prometheus_client.CollectorRegistry()
        self._server: Any = None
        self._ended = threading.Event()
        self._writer = threading.Thread(target=self._write_now_and_then, name="metrics-file", daemon=True)
        if config.file is not None:
            self._write_first(config.file)
        if config.port is not None:
            self._listen(config.port)

    def add(self, *collectors: Collector) -> None:
        """Add collectors."""
        for collector in collectors:
            self._registry.register(collector)

    def __enter__(self) -> Self:
        if self._config.file is not None:
            self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        if self._config.file is not None:
            self._ended.set()
            self._writer.join()
            if kind is None or issubclass(kind, Interrupted | KeyboardInterrupt):
                self._config.file.unlink(missing_ok=True)
            else:
                self._write()

    def _listen(self, port: int) -> None:
        address = self._config.address
        try:
            self._server, _ = self._client.start_http_server(port, address, self._registry)
        except OSError as error:
            raise UsageError(
                f"--metrics-port {port} at {address} cannot be had ({error.strerror}): give another port, or address."
            ) from error

    def _write_first(self, file: Path) -> None:
        try:
            self._put(file)
        except OSError as error:
            raise UsageError(f"--metrics-file {file} cannot be written ({error.strerror}): give another.") from error

    def _write_now_and_then(self) -> None:
        while not self._ended.wait(FILE_EVERY_S):
            self._write()

    def _write(self) -> None:
        """Write the file; where that fails, say so the first time."""
        assert self._config.file is not None
        try:
            self._put(self._config.file)
        except OSError as error:
            self._log(f"--metrics-file {self._config.file} cannot be written ({error.strerror}): the work goes on")
            self._log = lambda _: None

    def _put(self, file: Path) -> None:
        with atomic_file(file) as target:
            target.write(self._client.generate_latest(self._registry))


class OutputCollector:
    """Tells which command writes where, and how full that disk is."""

    def __init__(self, command: str, out: StoragePath, labels: Mapping[str, str]) -> None:
        """
        Args:
            command: such as `train run`.
            out: what it writes into.
            labels: are those of all metrics of this process.
        """
        self._command, self._out, self._labels = command, out, labels

    def collect(self) -> Iterator[Metric]:
        """Return version and command, and size and free space of the disk, if it is one of this machine."""
        from importlib.metadata import version

        from headrace.featurize.telemetry.metric_set import MetricSet

        metrics = MetricSet(self._labels)
        meaning = "Always 1; its labels are the command and the version of Headrace."
        metrics.gauge("headrace_info", meaning, 1, command=self._command, version=version("headrace"))
        disk = _disk_of(self._out) if isinstance(self._out, Path) else None
        if disk is not None:
            meaning = "Free space, for this user, of the disk that --out is on."
            metrics.gauge("headrace_disk_free_bytes", meaning, disk.free)
            metrics.gauge("headrace_disk_size_bytes", "Size of the disk that --out is on.", disk.total)
        yield from metrics


def _disk_of(folder: Path) -> Any:
    """Return what the system says of the disk of a folder, or of the first folder above it that is there."""
    for path in (folder, *folder.parents):
        try:
            return shutil.disk_usage(path)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def common_labels(out: StoragePath) -> dict[str, str]:
    """Return the labels of all metrics of a command: the folder that it writes, in full."""
    return {"out": str(out.absolute() if isinstance(out, Path) else out)}
