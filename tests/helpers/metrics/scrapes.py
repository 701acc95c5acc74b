"""Metrics as a scrape finds them."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families


def parse(text: str) -> dict[str, Metric]:
    """Return the metrics of a page, by name."""
    return {metric.name: metric for metric in text_string_to_metric_families(text)}


def page_of(collectors: Iterable[Any]) -> str:
    """Return the page that collectors would be served as."""
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry).decode()


def fetch(port: int, host: str = "127.0.0.1") -> str:
    """Return the page that is served at a port."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def values(page: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples of a page that have this name, by their labels, without `out`."""
    return {
        tuple(sorted((label, value) for label, value in sample.labels.items() if label != "out")): sample.value
        for metric in parse(page).values()
        for sample in metric.samples
        if sample.name == name
    }


def value(page: str, name: str, **labels: str) -> float | None:
    """Return the value of the only sample of this name with these labels; None if there is none."""
    found = [v for key, v in values(page, name).items() if set(labels.items()) <= set(key)]
    assert len(found) < 2, f"{name} {labels} is there several times"
    return found[0] if found else None


def free_port() -> int:
    """Return a port of loopback at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
