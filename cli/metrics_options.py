"""Options of commands whose metrics can be read by Prometheus, and what they lead to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from headrace.cli import output
from headrace.cli.options import FILE, option

if TYPE_CHECKING:
    from headrace.featurize.telemetry.exporter import Collector, MetricsConfig, MetricsExporter
    from headrace.store.storage import StoragePath

NAMES = ("metrics_port", "metrics_address", "metrics_file")
_OPTIONS = (
    option(
        "--metrics-port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help="Serve metrics for Prometheus at this port; of several processes, each at PORT plus its rank.",
    ),
    option(
        "--metrics-address",
        metavar="ADDRESS",
        show_default="127.0.0.1",
        help="Serve them at this address of the machine; everyone who can reach it can read them.",
    ),
    option(
        "--metrics-file",
        type=FILE,
        metavar="FILE",
        help="Write metrics into this .prom file every 15 s, for the textfile collector of node-exporter.",
    ),
)


def metrics_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of metrics to a command."""
    for option_ in reversed(_OPTIONS):
        function = option_(function)
    return function


def pop_metrics_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of metrics that were given out of those of a command."""
    taken = {name: options.pop(name) for name in NAMES}
    return {name: value for name, value in taken.items() if value is not None}


def metrics_config(given: dict[str, Any], rank: int = 0) -> MetricsConfig | None:
    """Return where the metrics of the process of this rank can be read; None for nowhere.

    Raises:
        UsageError: an option is not valid, or not beside another.
    """
    if not given:
        return None
    from headrace.featurize.telemetry.exporter import MetricsConfig

    return MetricsConfig(**{name.removeprefix("metrics_"): value for name, value in given.items()}).of_rank(rank)


def open_metrics(config: MetricsConfig | None) -> AbstractContextManager[MetricsExporter | None]:
    """Return a context in which metrics can be read; one of None if they need not be.

    Raises:
        UsageError: as `MetricsExporter`.
    """
    if config is None:
        return nullcontext()
    from headrace.featurize.telemetry.exporter import MetricsExporter

    return MetricsExporter(config, output.log)


def machine_collectors(command: str, out: StoragePath) -> list[Collector]:
    """Return the collectors of what does not depend on the work: the command, the disk, and the GPUs."""
    import pynvml

    from headrace.featurize.telemetry.exporter import OutputCollector, common_labels
    from headrace.featurize.telemetry.nvml import GpuCollector

    labels = common_labels(out)
    gpus = GpuCollector(labels, pynvml)
    if gpus.missing:
        output.log(f"metrics have no figures of GPUs: {gpus.missing}")
    return [OutputCollector(command, out, labels), gpus]
