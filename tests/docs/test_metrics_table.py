"""The table of metrics in docs/watching.md is what is served: names, types, units, labels and meanings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric

from headrace.featurize.pipeline.build_metrics import BuildMetrics
from headrace.featurize.pipeline.part_worker import PartReport
from headrace.featurize.telemetry.exporter import OutputCollector
from headrace.featurize.telemetry.nvml import GpuCollector
from headrace.train.monitoring.run_metrics import RunMetrics
from tests.helpers.metrics.fake_nvml import GPU, FakeNvml
from tests.helpers.metrics.prometheus import promtool
from tests.helpers.metrics.scrapes import page_of, parse
from tests.helpers.metrics.table import documented

COMMON = {"out"}
UNITS = {
    "_bytes_per_second": "bytes a second",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "share",
    "_celsius": "degrees Celsius",
    "_watts": "watts",
    "_hertz": "hertz",
}
"""Ends of names without `_total`; all others have no unit."""
STEP: dict[str, Any] = {
    "split": "train", "step": 1, "epoch": 1, "loss": 3.0, "accuracy": 0.5, "grad_norm": 1.0, "skipped": 0.0,
    "exploded": 0.0, "lr": 1e-4, "loss_scale": 1.0, "precision": "fp32", "step_s": 0.5, "wait_s": 0.1, "plan_s": 0.0,
    "read_s": 0.1, "copy_s": 0.0, "frames": 9, "utterances": 3, "padding": 0.1, "quarantined": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    """A page with every metric."""
    run, build, out = RunMetrics(Path("RUN"), {"out": "RUN"}, rank=0), BuildMetrics({"out": "STORE"}), {"out": "RUN"}
    run.started(0, 10, ["loss"])
    run.recorded(STEP)
    run.recorded({"split": "validation", "step": 1, "loss": 3.0, "mos": 3.0})
    build.scanning(1, 0)
    build.planned(1, 0, 1.0, 0.0)
    build.learning("semantic", 1, 2, "clusters")
    build.part_done(
        PartReport(number=0, utterances=1, audio_seconds=1, rejects=(), seconds={"decode": 1.0}, cpu_seconds=1)
    )
    divided = {**GPU, "mig": [{"uuid": "MIG-0", "id": 1, "used": 1, "total": 2}]}
    gpus, disk = GpuCollector(out, FakeNvml(lambda: [divided])), OutputCollector("train run", Path("RUN"), out)
    return page_of([run, gpus, disk, build])


@pytest.fixture(scope="module")
def served(page: str) -> dict[str, Metric]:
    """Every metric, by name."""
    return parse(page)


@pytest.mark.skipif(promtool() is None, reason="no promtool: apt-get install prometheus")
def test_promtool_has_nothing_to_say(page: str) -> None:
    done = subprocess.run(
        [str(promtool()), "check", "metrics"], input=page, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def sample_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_names_types_labels_and_meanings_are_those_that_are_served(served: dict[str, Metric]) -> None:
    rows = {row.name: (row.kind, row.labels, row.meaning) for row in documented()}
    found = {}
    for metric in served.values():
        labels = {label for sample in metric.samples for label in sample.labels} - COMMON - {"le"}
        found[sample_name(metric)] = (metric.type, frozenset(labels), metric.documentation)
    assert rows == found


def test_units_are_those_of_the_names() -> None:
    for row in documented():
        base = row.name.removesuffix("_total")
        expected = next((unit for end, unit in UNITS.items() if base.endswith(end)), "")
        assert row.unit == expected, row.name


def test_all_have_the_prefix_and_the_common_label(served: dict[str, Metric]) -> None:
    for metric in served.values():
        assert metric.name.startswith("headrace_")
        assert all(sample.labels.keys() >= COMMON for sample in metric.samples), metric.name


def test_values_of_labels_are_bounded(served: dict[str, Metric]) -> None:
    """None is an utterance, a text or a step."""
    known = {"out", "rank", "phase", "le", "stage", "loss", "split", "network", "gpu", "UUID", "model_name", "Hostname",
             "GPU_I_ID", "reason", "type", "command", "version", "state", "result", "feature"}  # fmt: skip
    assert {label for metric in served.values() for sample in metric.samples for label in sample.labels} == known
