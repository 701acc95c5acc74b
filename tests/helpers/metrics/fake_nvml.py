"""A stand-in for pynvml, the interface to the driver's library, with GPUs as a test describes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GPU: dict[str, Any] = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-0a",
    "busy": 97,
    "memory_busy": 41,
    "used": 60 << 30,
    "total": 80 << 30,
    "celsius": 66,
    "milliwatts": 512_300,
    "megahertz": 1755,
    "pcie": [1500, 2500],
    "nvlink": [3, 5],
    "reasons": 0,
    "ecc": [7, 0],
}
"""A GPU as NVML describes it: percent, bytes, degrees, mW, MHz, thousands of bytes a second, KiB, bits, and counts."""


class NVMLError(Exception):
    """What every function of pynvml raises."""


class FakeNvml:
    """The functions of pynvml that are used. A figure that a GPU lacks is not supported; a lost one answers nothing."""

    NVMLError = NVMLError
    NVML_SUCCESS, NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_VOLATILE_ECC = 0, 0, 1, 0
    NVML_PCIE_UTIL_TX_BYTES, NVML_PCIE_UTIL_RX_BYTES = 0, 1
    NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 138, 139
    NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1

    def __init__(
        self, gpus: Callable[[], list[dict[str, Any]]], *, driver: bool = True, old_driver: bool = False
    ) -> None:
        """
        Args:
            gpus: returns the GPUs as they are now.
            driver: whether there is one at all.
            old_driver: whether it is one that calls the reasons of clocks by their former name.
        """
        self._gpus, self._driver, self._old = gpus, driver, old_driver

    @classmethod
    def from_file(cls, path: Path) -> FakeNvml:
        """Return one whose GPUs are those that a JSON file lists at the time."""
        return cls(lambda: list(json.loads(path.read_text())))

    def nvmlInit(self) -> None:
        if not self._driver:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        return len(self._gpus())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, int | None]:
        self._of((index, None), "name")
        return index, None

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(self._of(handle, "name"))

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(self._of(handle, "uuid"))

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=self._of(handle, "busy"), memory=self._of(handle, "memory_busy"))

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(used=self._of(handle, "used"), total=self._of(handle, "total"))

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> Any:
        return self._of(handle, "celsius")

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> Any:
        return self._of(handle, "milliwatts")

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> Any:
        assert clock == self.NVML_CLOCK_SM
        return self._of(handle, "megahertz")

    def nvmlDeviceGetPcieThroughput(self, handle: Any, counter: int) -> Any:
        return self._of(handle, "pcie")[counter]

    def nvmlDeviceGetFieldValues(self, handle: Any, fields: list[tuple[int, int]]) -> list[Any]:
        assert all(scope == 0xFFFFFFFF for _, scope in fields)
        if "nvlink" not in self._gpus()[handle[0]]:
            return [SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(ullVal=0)) for _ in fields]
        kib = self._of(handle, "nvlink")
        return [SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(ullVal=kib[field - 138])) for field, _ in fields]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> Any:
        if self._old:
            raise NVMLError("Function Not Found")
        return self._of(handle, "reasons")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> Any:
        return self._of(handle, "reasons")

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> Any:
        return self._of(handle, "ecc")[kind]

    def nvmlDeviceGetMigMode(self, handle: Any) -> list[int]:
        mode = int("mig" in self._gpus()[handle[0]])
        return [mode, mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, number: int) -> tuple[int, int]:
        if number >= len(self._of(handle, "mig")):
            raise NVMLError("Not Found")
        return handle[0], number

    def nvmlDeviceGetGpuInstanceId(self, handle: Any) -> Any:
        return self._of(handle, "id")

    def _of(self, handle: tuple[int, int | None], name: str) -> Any:
        index, instance = handle
        gpus = self._gpus()
        if index >= len(gpus) or gpus[index].get("lost"):
            raise NVMLError("GPU is lost")
        found = gpus[index] if instance is None else gpus[index]["mig"][instance]
        if name not in found:
            raise NVMLError("Not Supported")
        return found[name]
