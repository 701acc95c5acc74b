"""GPUs as NVML tells of them, by a stand-in for its library."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.featurize.telemetry.nvml import GpuCollector
from tests.helpers.metrics.fake_nvml import GPU, FakeNvml
from tests.helpers.metrics.scrapes import page_of, parse, value, values


def page(*gpus: dict[str, Any], **options: bool) -> str:
    return page_of([GpuCollector({"out": "RUN"}, FakeNvml(lambda: list(gpus), **options))])


@pytest.mark.parametrize(
    "name, labels, expected",
    [
        ("utilization_ratio", {}, 0.97),
        ("memory_utilization_ratio", {}, 0.41),
        ("memory_used_bytes", {}, 60 * 2**30),
        ("memory_total_bytes", {}, 80 * 2**30),
        ("temperature_celsius", {}, 66),
        ("power_watts", {}, 512.3),
        ("sm_clock_hertz", {}, 1.755e9),
        ("pcie_tx_bytes_per_second", {}, 1.5e6),
        ("pcie_rx_bytes_per_second", {}, 2.5e6),
        ("nvlink_tx_bytes_total", {}, 3 * 1024),
        ("nvlink_rx_bytes_total", {}, 5 * 1024),
        ("throttled", {"reason": "hw_thermal"}, 0),
        ("ecc_errors_total", {"type": "corrected"}, 7),
        ("ecc_errors_total", {"type": "uncorrected"}, 0),
    ],
)
def test_figures_are_in_base_units(name: str, labels: dict[str, str], expected: float) -> None:
    assert value(page(GPU), f"headrace_gpu_{name}", **labels) == pytest.approx(expected)


def test_labels_are_those_of_dcgm_exporter() -> None:
    (labels,) = values(page(GPU), "headrace_gpu_power_watts")
    assert dict(labels).keys() == {"gpu", "UUID", "model_name", "Hostname"}
    assert dict(labels)["UUID"] == "GPU-0a"


@pytest.mark.parametrize("missing", [name for name in GPU if name not in ("name", "uuid")])
def test_a_figure_that_is_not_supported_is_left_out_and_no_other(missing: str) -> None:
    whole = parse(page(GPU))
    lacking = parse(page({name: value for name, value in GPU.items() if name != missing}))
    gone = whole.keys() - lacking.keys()
    assert 1 <= len(gone) <= 2, gone


@pytest.mark.parametrize("bit, reason", [(0x4, "sw_power_cap"), (0x40, "hw_thermal"), (0x80, "hw_power_brake")])
@pytest.mark.parametrize("old_driver", [False, True])
def test_reasons_of_low_clocks_are_told_apart(bit: int, reason: str, old_driver: bool) -> None:
    found = values(page({**GPU, "reasons": bit | 0x1}, old_driver=old_driver), "headrace_gpu_throttled")
    assert {dict(labels)["reason"] for labels, throttled in found.items() if throttled} == {reason}
    assert len(found) == 6


def test_gpus_may_vanish_and_come_back() -> None:
    gpus = [dict(GPU), {**GPU, "uuid": "GPU-1b"}]
    collector = GpuCollector({}, FakeNvml(lambda: gpus))

    def seen() -> tuple[float | None, set[str]]:
        text = page_of([collector])
        return value(text, "headrace_gpus"), {dict(k)["UUID"] for k in values(text, "headrace_gpu_power_watts")}

    assert seen() == (2, {"GPU-0a", "GPU-1b"})
    gpus[0]["lost"] = True
    assert seen() == (1, {"GPU-1b"})
    gpus[0]["lost"] = False
    assert seen() == (2, {"GPU-0a", "GPU-1b"})


def test_instances_of_a_divided_gpu_have_memory_and_their_own_uuid() -> None:
    parts = [{"uuid": f"MIG-{n}", "id": n + 1, "used": n, "total": 10} for n in range(2)]
    divided = {name: value for name, value in GPU.items() if name not in ("busy", "memory_busy")} | {"mig": parts}
    text = page(divided)
    used = {
        (dict(k)["UUID"], dict(k).get("GPU_I_ID")): v for k, v in values(text, "headrace_gpu_memory_used_bytes").items()
    }
    assert used == {("GPU-0a", None): 60 << 30, ("MIG-0", "1"): 0, ("MIG-1", "2"): 1}
    assert value(text, "headrace_gpus") == 1


def test_without_a_driver_there_are_no_gpus_and_a_reason() -> None:
    collector = GpuCollector({}, FakeNvml(lambda: [GPU], driver=False))
    assert collector.missing == "NVML Shared Library Not Found"
    assert page_of([collector]) == ""


def test_the_real_library_has_all_that_is_used() -> None:
    import pynvml

    names = [name for name in dir(FakeNvml) if name.startswith(("nvml", "NVML"))]
    assert [name for name in names if not hasattr(pynvml, name)] == []
    for name in ("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", "NVML_PCIE_UTIL_RX_BYTES", "NVML_CLOCK_SM"):
        assert getattr(FakeNvml, name) == getattr(pynvml, name)
    reasons = {"SwPowerCap": 0x4, "HwSlowdown": 0x8, "SyncBoost": 0x10, "SwThermalSlowdown": 0x20,
               "HwThermalSlowdown": 0x40, "HwPowerBrakeSlowdown": 0x80}  # fmt: skip
    assert reasons == {name: getattr(pynvml, f"nvmlClocksEventReason{name}") for name in reasons}
