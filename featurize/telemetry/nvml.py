"""Figures of this machine's GPUs, read from NVML when they are asked for.

NVML is the library of the driver that nvidia-smi reads too. It does not wait for what a GPU computes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from prometheus_client.core import Metric

from headrace.featurize.telemetry.metric_set import MetricSet

T = TypeVar("T")
Nvml = Any
"""The module pynvml, or what stands in for it."""

_ALL_LINKS = 0xFFFFFFFF
"""Scope of a field of NVLink that stands for the sum over all links."""
_REASONS = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
"""Reasons why clocks are lower than they could be, as bits. An idle GPU and clocks that a person has set are none."""


class GpuCollector:
    """Reads NVML at each scrape. A figure that a GPU does not have is left out, and so is a GPU that was lost."""

    def __init__(self, labels: Mapping[str, str], nvml: Nvml) -> None:
        """
        Args:
            labels: are those of all metrics of this process.
        """
        self._labels, self._nvml, self._host = labels, nvml, socket.gethostname()
        self.missing = ""
        """Why NVML cannot be read; empty if it can."""
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self.missing = str(error)

    def collect(self) -> Iterator[Metric]:
        """Return the figures of all GPUs."""
        if self.missing:
            return
        metrics, nvml, answered = MetricSet(self._labels), self._nvml, 0
        for index in range(self._read(nvml.nvmlDeviceGetCount) or 0):
            gpu = self._read(nvml.nvmlDeviceGetHandleByIndex, index)
            name = None if gpu is None else self._read(nvml.nvmlDeviceGetName, gpu)
            if name is None:
                continue
            labels = {"gpu": str(index), "model_name": name, "Hostname": self._host}
            self._add_gpu(metrics, gpu, labels | {"UUID": self._read(nvml.nvmlDeviceGetUUID, gpu) or ""})
            self._add_instances(metrics, gpu, labels)
            answered += 1
        metrics.gauge("headrace_gpus", "GPUs of this machine that answer.", answered, Hostname=self._host)
        yield from metrics

    def _read(self, function: Callable[..., T], *arguments: Any) -> T | None:
        """Return what a function of NVML returns; None if it has nothing to say."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _add_gpu(self, metrics: MetricSet, gpu: Any, labels: Mapping[str, str]) -> None:
        """Add all figures of a GPU."""
        nvml, read = self._nvml, self._read
        busy = read(nvml.nvmlDeviceGetUtilizationRates, gpu)
        if busy is not None:
            meaning = "Share of the last moments in which a kernel ran, 0 to 1."
            metrics.gauge("headrace_gpu_utilization_ratio", meaning, busy.gpu / 100, **labels)
            meaning = "Share of the last moments in which memory was read or written, 0 to 1."
            metrics.gauge("headrace_gpu_memory_utilization_ratio", meaning, busy.memory / 100, **labels)
        self._add_memory(metrics, gpu, labels)
        degrees = read(nvml.nvmlDeviceGetTemperature, gpu, nvml.NVML_TEMPERATURE_GPU)
        metrics.gauge("headrace_gpu_temperature_celsius", "Temperature of the chip.", degrees, **labels)
        milliwatts = read(nvml.nvmlDeviceGetPowerUsage, gpu)
        watts = None if milliwatts is None else milliwatts / 1000
        metrics.gauge("headrace_gpu_power_watts", "Power that the card draws.", watts, **labels)
        megahertz = read(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM)
        hertz = None if megahertz is None else megahertz * 1e6
        metrics.gauge("headrace_gpu_sm_clock_hertz", "Clock of the multiprocessors.", hertz, **labels)
        self._add_transfers(metrics, gpu, labels)
        self._add_faults(metrics, gpu, labels)

    def _add_memory(self, metrics: MetricSet, gpu: Any, labels: Mapping[str, str]) -> None:
        memory = self._read(self._nvml.nvmlDeviceGetMemoryInfo, gpu)
        if memory is not None:
            metrics.gauge("headrace_gpu_memory_used_bytes", "Memory in use, by all processes.", memory.used, **labels)
            metrics.gauge("headrace_gpu_memory_total_bytes", "Memory of the GPU.", memory.total, **labels)

    def _add_transfers(self, metrics: MetricSet, gpu: Any, labels: Mapping[str, str]) -> None:
        """Add what goes over PCIe and NVLink. NVML counts in units of 1000 bytes there, and of 1024 here."""
        nvml = self._nvml
        fields = nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX
        pcie = nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES
        for way, field, counter in zip(("tx", "rx"), fields, pcie, strict=True):
            rate = self._read(nvml.nvmlDeviceGetPcieThroughput, gpu, counter)
            name, verb = f"headrace_gpu_pcie_{way}_bytes_per_second", "sent" if way == "tx" else "received"
            metrics.gauge(name, f"Data {verb} over PCIe.", None if rate is None else rate * 1000, **labels)
            for value in self._read(nvml.nvmlDeviceGetFieldValues, gpu, [(field, _ALL_LINKS)]) or ():
                if value.nvmlReturn == nvml.NVML_SUCCESS:
                    name = f"headrace_gpu_nvlink_{way}_bytes_total"
                    metrics.counter(name, f"Data {verb} over all NVLinks.", value.value.ullVal * 1024, **labels)

    def _add_faults(self, metrics: MetricSet, gpu: Any, labels: Mapping[str, str]) -> None:
        nvml = self._nvml
        bits = self._read(nvml.nvmlDeviceGetCurrentClocksEventReasons, gpu)
        if bits is None:  # a driver before 535
            bits = self._read(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
        for reason, bit in _REASONS.items():
            meaning, found = "1 if clocks are lower than they could be for this reason.", None
            if bits is not None:
                found = float(bool(bits & bit))
            metrics.gauge("headrace_gpu_throttled", meaning, found, reason=reason, **labels)
        for kind in ("corrected", "uncorrected"):
            code = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind.upper()}")
            errors = self._read(nvml.nvmlDeviceGetTotalEccErrors, gpu, code, nvml.NVML_VOLATILE_ECC)
            meaning = "Memory errors since the driver was loaded."
            metrics.counter("headrace_gpu_ecc_errors_total", meaning, errors, type=kind, **labels)

    def _add_instances(self, metrics: MetricSet, gpu: Any, labels: Mapping[str, str]) -> None:
        """Add the memory of the instances that a GPU is divided into (MIG)."""
        nvml = self._nvml
        if not (self._read(nvml.nvmlDeviceGetMigMode, gpu) or (0,))[0]:
            return
        for number in range(self._read(nvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0):
            instance = self._read(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, number)
            uuid = None if instance is None else self._read(nvml.nvmlDeviceGetUUID, instance)
            if uuid is not None:
                instance_id = str(self._read(nvml.nvmlDeviceGetGpuInstanceId, instance))
                self._add_memory(metrics, instance, {**labels, "UUID": uuid, "GPU_I_ID": instance_id})
