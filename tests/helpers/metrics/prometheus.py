"""A real Prometheus: its programs, a server, and what it answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helpers.metrics.scrapes import free_port


def promtool() -> str | None:
    """Return the path of promtool; None if it is not installed."""
    return _program("promtool")


def server() -> str | None:
    """Return the path of prometheus; None if it is not installed."""
    return _program("prometheus")


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("HEADRACE_PROMETHEUS")) or shutil.which(name)


class Prometheus:
    """A server with a config of its own, for the duration of a `with` statement."""

    def __init__(self, config: Path, data: Path) -> None:
        """
        Args:
            data: folder for what it stores.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        program = server()
        assert program is not None
        self._command = [program, f"--config.file={config}", f"--storage.tsdb.path={data}"]
        self._command += [
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            "--query.lookback-delta=60s",
        ]
        self._log = data.with_suffix(".log")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.wait_for(self._is_ready, 60, "the server")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression has now."""
        return list(self._get("query", query=expression)["result"])

    def query_range(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression had in the last hour, as a panel would draw them."""
        now = time.time()
        found = self._get("query_range", query=expression, start=str(now - 3600), end=str(now), step="2")
        return list(found["result"])

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire now."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def ever_fired(self) -> set[str]:
        """Return the names of all alerts that have fired."""
        found = self.query('count by (alertname) (max_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {series["metric"]["alertname"] for series in found}

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until a condition holds, and fail after so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what} was waited for in vain: {self._log.read_text()}"
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _get(self, name: str, **parameters: str) -> Any:
        words = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{name}?{words}", timeout=30) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]
