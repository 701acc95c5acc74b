"""Dashboards of Grafana: a run, a farm of machines, and a build. Writes dashboards/*.json beside this file.

    python deploy/grafana/dashboards.py

They are made by Grafana's own library of its schema (grafana-foundation-sdk), for Grafana 11.6 or newer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
RUN = '{out=~"$out"}'
HOST = '{Hostname=~"$host"}'
EACH = "$__rate_interval"
STEP = 'histogram_quantile({}, sum by (le) (rate(headrace_train_step_seconds_bucket{{out=~"$out"}}[$__rate_interval])))'
DISK = f"headrace_disk_free_bytes{RUN} / headrace_disk_size_bytes{RUN}"
WIDTH, HEIGHT = 8, 8


class Panel(NamedTuple):
    """A panel over time."""

    title: str
    unit: str
    """As Grafana calls it."""
    queries: Sequence[tuple[str, str]]
    """PromQL, and the legend of its series."""


def gpu_row(title: str, names: dict[str, tuple[str, str, str]]) -> tuple[str, list[Panel]]:
    """Return a row of panels that show one figure of each GPU.

    Args:
        names: title to unit, query without its selector, and what is around it, with `{}` for both.
    """
    legend = "{{Hostname}} {{gpu}}"
    return title, [Panel(name, unit, [(f.format(metric + HOST), legend)]) for name, (unit, metric, f) in names.items()]


GPUS = gpu_row(
    "GPUs",
    {
        "Utilization": ("percentunit", "headrace_gpu_utilization_ratio", "{}"),
        "Memory in use": ("bytes", "headrace_gpu_memory_used_bytes", "{}"),
        "Memory bandwidth in use": ("percentunit", "headrace_gpu_memory_utilization_ratio", "{}"),
        "Temperature": ("celsius", "headrace_gpu_temperature_celsius", "{}"),
        "Power": ("watt", "headrace_gpu_power_watts", "{}"),
        "Clock of multiprocessors": ("hertz", "headrace_gpu_sm_clock_hertz", "{}"),
        "Sent over PCIe": ("Bps", "headrace_gpu_pcie_tx_bytes_per_second", "{}"),
        "Received over PCIe": ("Bps", "headrace_gpu_pcie_rx_bytes_per_second", "{}"),
        "Sent over NVLink": ("Bps", "headrace_gpu_nvlink_tx_bytes_total", f"rate({{}}[{EACH}])"),
        "Received over NVLink": ("Bps", "headrace_gpu_nvlink_rx_bytes_total", f"rate({{}}[{EACH}])"),
        "Slowed down": ("short", "headrace_gpu_throttled", "sum by (Hostname, gpu, reason) ({})"),
        "Memory errors": ("short", "headrace_gpu_ecc_errors_total", "sum by (Hostname, gpu, type) ({})"),
    },
)
DCGM = gpu_row(
    "GPUs by dcgm-exporter",
    {
        "Utilization (DCGM)": ("percent", "DCGM_FI_DEV_GPU_UTIL", "{}"),
        "Memory in use (DCGM)": ("decmbytes", "DCGM_FI_DEV_FB_USED", "{}"),
        "Memory bandwidth in use (DCGM)": ("percent", "DCGM_FI_DEV_MEM_COPY_UTIL", "{}"),
        "Temperature (DCGM)": ("celsius", "DCGM_FI_DEV_GPU_TEMP", "{}"),
        "Power (DCGM)": ("watt", "DCGM_FI_DEV_POWER_USAGE", "{}"),
        "Clock of multiprocessors (DCGM)": ("hertz", "DCGM_FI_DEV_SM_CLOCK", "1e6 * {}"),
        "Sent over PCIe (DCGM)": ("Bps", "DCGM_FI_PROF_PCIE_TX_BYTES", f"rate({{}}[{EACH}])"),
        "Received over PCIe (DCGM)": ("Bps", "DCGM_FI_PROF_PCIE_RX_BYTES", f"rate({{}}[{EACH}])"),
        "NVLink, both ways (DCGM)": ("MBs", "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "{}"),
        "Multiprocessors at work (DCGM)": ("percentunit", "DCGM_FI_PROF_SM_ACTIVE", "{}"),
        "Tensor cores at work (DCGM)": ("percentunit", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "{}"),
        "Errors (XID) (DCGM)": ("short", "DCGM_FI_DEV_XID_ERRORS", "{}"),
    },
)

ROWS_OF_A_RUN = [
    (
        "Losses",
        [
            Panel("Losses", "short", [('headrace_train_loss{out=~"$out",split="train"}', "{{loss}}")]),
            Panel("Validation", "short", [('headrace_train_loss{out=~"$out",split="validation"}', "{{loss}}")]),
            Panel("Gradient norm", "short", [(f"headrace_train_gradient_norm{RUN}", "{{network}}")]),
            Panel("Learning rate", "sci", [(f"headrace_train_learning_rate{RUN}", "{{out}}")]),
            Panel("Loss scale", "short", [(f"headrace_train_loss_scale{RUN}", "{{out}}")]),
            Panel(
                "Updates",
                "short",
                [
                    (f"headrace_train_updates_left_out_total{RUN}", "left out"),
                    (f"headrace_train_updates_scaled_down_total{RUN}", "scaled down"),
                    (f"headrace_train_quarantined_utterances{RUN}", "utterances quarantined"),
                ],
            ),
        ],
    ),
    (
        "Speed",
        [
            Panel(
                "Seconds of a step",
                "s",
                [
                    (STEP.format(0.5), "median"),
                    (STEP.format(0.95), "95 %"),
                ],
            ),
            Panel("Frames a second", "short", [(f"rate(headrace_train_frames_total{RUN}[{EACH}])", "{{out}}")]),
            Panel("Utterances a second", "short", [(f"rate(headrace_train_utterances_total{RUN}[{EACH}])", "{{out}}")]),
            Panel(
                "Waiting for data",
                "percentunit",
                [
                    (
                        f"rate(headrace_train_wait_seconds_total{RUN}[{EACH}])"
                        f" / rate(headrace_train_step_seconds_sum{RUN}[{EACH}])",
                        "rank {{rank}}",
                    )
                ],
            ),
            Panel(
                "Batches: seconds a second",
                "s",
                [(f"rate(headrace_train_stream_seconds_total{RUN}[{EACH}])", "{{stage}}")],
            ),
            Panel(
                "Phases: seconds a second",
                "s",
                [(f"sum by (phase) (rate(headrace_train_phase_seconds_total{RUN}[{EACH}]))", "{{phase}}")],
            ),
            Panel("Padding", "percentunit", [(f"headrace_train_padding_ratio{RUN}", "{{out}}")]),
        ],
    ),
    (
        "Progress",
        [
            Panel(
                "Steps",
                "short",
                [
                    (f"headrace_train_step{RUN}", "rank {{rank}}"),
                    (f"headrace_train_planned_steps{RUN}", "last"),
                    (f"headrace_train_checkpoint_step{RUN}", "newest checkpoint"),
                ],
            ),
            Panel("Epoch", "short", [(f"headrace_train_epoch{RUN}", "{{out}}")]),
            Panel("Time left", "s", [(f"headrace_train_remaining_seconds{RUN}", "{{out}}")]),
            Panel(
                "Age of the newest checkpoint",
                "s",
                [(f"time() - headrace_train_checkpoint_timestamp_seconds{RUN}", "{{out}}")],
            ),
            Panel("Free share of the disk", "percentunit", [(DISK, "{{out}}")]),
        ],
    ),
]
ROWS_OF_A_FARM = [
    GPUS,
    DCGM,
    (
        "Runs and builds",
        [
            Panel("Frames a second of all runs", "short", [(f"rate(headrace_train_frames_total[{EACH}])", "{{out}}")]),
            Panel(
                "Waiting for data",
                "percentunit",
                [
                    (
                        f"max by (out) (rate(headrace_train_wait_seconds_total[{EACH}])"
                        f" / rate(headrace_train_step_seconds_sum[{EACH}]))",
                        "{{out}}",
                    )
                ],
            ),
            Panel("Time left of runs", "s", [("headrace_train_remaining_seconds", "{{out}}")]),
            Panel(
                "Seconds of audio a second of all builds",
                "short",
                [(f"rate(headrace_build_audio_seconds_total[{EACH}])", "{{out}}")],
            ),
            Panel("GPUs that answer", "short", [(f"max by (Hostname) (headrace_gpus{HOST})", "{{Hostname}}")]),
            Panel(
                "Free share of disks",
                "percentunit",
                [("headrace_disk_free_bytes / headrace_disk_size_bytes", "{{out}}")],
            ),
        ],
    ),
]
ROWS_OF_A_BUILD = [
    (
        "Progress",
        [
            Panel("Tasks", "short", [(f"headrace_build_tasks{RUN}", "{{state}}")]),
            Panel("Workers", "short", [(f"headrace_build_workers{RUN}", "{{out}}")]),
            Panel(
                "Audio",
                "s",
                [
                    (f"headrace_build_audio_seconds_total{RUN}", "stored by this process"),
                    (f"headrace_build_planned_audio_seconds{RUN}", "all parts"),
                ],
            ),
            Panel("Utterances", "short", [(f"headrace_build_utterances_total{RUN}", "{{result}}")]),
            Panel("Scanned", "short", [(f"headrace_build_scanned_utterances_total{RUN}", "{{result}}")]),
            Panel("Learning", "percentunit", [(f"headrace_build_learned_ratio{RUN}", "{{feature}}")]),
        ],
    ),
    (
        "Speed",
        [
            Panel(
                "Seconds of audio a second",
                "short",
                [(f"rate(headrace_build_audio_seconds_total{RUN}[{EACH}])", "{{out}}")],
            ),
            Panel("Workers' seconds by stage", "s", [(f"headrace_build_stage_seconds_total{RUN}", "{{stage}}")]),
            Panel("CPU seconds", "s", [(f"headrace_build_cpu_seconds_total{RUN}", "{{out}}")]),
            Panel("Progress", "short", [(f"rate(headrace_build_progress_total{RUN}[{EACH}])", "{{out}}")]),
            Panel("Free share of the disk", "percentunit", [(DISK, "{{out}}")]),
        ],
    ),
]


def panel(number: int, spec: Panel) -> timeseries.Panel:
    """Return the builder of a panel."""
    made = timeseries.Panel().id(number).title(spec.title).unit(spec.unit).datasource(SOURCE).span(WIDTH).height(HEIGHT)
    made.legend(common.VizLegendOptions().show_legend(True)).line_width(1).fill_opacity(10)
    for name, (query, legend) in zip(ascii_uppercase, spec.queries, strict=False):
        target = prometheus.Dataquery().ref_id(name).expr(query).legend_format(legend).datasource(SOURCE)
        made.with_target(target)
    return made


def board(uid: str, title: str, rows: Sequence[tuple[str, list[Panel]]], variables: dict[str, str]) -> str:
    """Return the JSON of a dashboard.

    Args:
        variables: name to the query of its values.
    """
    made = (
        dashboard.Dashboard(title).uid(uid).tags(["headrace"]).refresh("15s").time("now-1h", "now").timezone("browser")
    )
    made.with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    for name, query in variables.items():
        variable = dashboard.QueryVariable(name).query(query).datasource(SOURCE).multi(True).include_all(True)
        made.with_variable(variable.all_value(".*").refresh(2))
    numbers = itertools.count(1)
    for name, specs in rows:
        made.with_row(dashboard.Row(name).id(next(numbers)))
        for spec in specs:
            made.with_panel(panel(next(numbers), spec))
    return JSONEncoder(sort_keys=True, indent=1).encode(made.build()) + "\n"


def boards() -> dict[str, str]:
    """Return the JSON of all dashboards, by the name of their file."""
    train, build = "label_values(headrace_train_step, out)", "label_values(headrace_build_workers, out)"
    host = {"host": 'label_values({__name__=~"headrace_gpus|DCGM_FI_DEV_GPU_TEMP"}, Hostname)'}
    return {
        "run.json": board("headrace-run", "Headrace: a run", [*ROWS_OF_A_RUN, GPUS, DCGM], {"out": train} | host),
        "farm.json": board("headrace-farm", "Headrace: a farm", ROWS_OF_A_FARM, host),
        "build.json": board("headrace-build", "Headrace: a build", ROWS_OF_A_BUILD, {"out": build}),
    }


if __name__ == "__main__":
    for name, text in boards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
