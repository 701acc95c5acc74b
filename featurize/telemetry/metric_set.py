"""Metrics of one scrape, as prometheus-client's collectors return them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from prometheus_client.core import Metric


class MetricSet:
    """Gathers samples by the name of their metric. All of them carry the same common labels."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """
        Args:
            labels: the common labels.
        """
        self._labels, self._metrics = dict(labels), dict[str, Metric]()

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def gauge(self, name: str, meaning: str, value: float | None, **labels: str) -> None:
        """Add what can rise and fall; nothing if it is None."""
        if value is not None:
            self._of(name, meaning, "gauge").add_sample(name, self._labels | labels, value)

    def counter(self, name: str, meaning: str, value: float | None, **labels: str) -> None:
        """Add what only rises until the process ends; nothing if it is None.

        Args:
            name: ends with `_total`.
        """
        if value is not None:
            self._of(name.removesuffix("_total"), meaning, "counter").add_sample(name, self._labels | labels, value)

    def histogram(
        self, name: str, meaning: str, counts: Collection[int], bounds: Collection[float], total: float
    ) -> None:
        """Add a distribution.

        Args:
            counts: numbers of values up to each bound and above the one before it; the last one is of all above.
        """
        metric, below = self._of(name, meaning, "histogram"), 0
        for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
            below += count
            metric.add_sample(f"{name}_bucket", self._labels | {"le": bound}, below)
        metric.add_sample(f"{name}_count", self._labels, below)
        metric.add_sample(f"{name}_sum", self._labels, total)

    def _of(self, name: str, meaning: str, kind: str) -> Metric:
        return self._metrics.setdefault(name, Metric(name, meaning, kind))
