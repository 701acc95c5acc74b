"""Commands of Headrace that a Prometheus watches: with GPUs that a file describes, and with faults on demand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.helpers.documentation import ROOT
from tests.helpers.metrics.fake_nvml import GPU

FASTER = 15
"""Times by which all durations of the rules are shortened."""
SCRAPE_S, EVALUATE_S = 2, 1

_HOOKS = """
import os, shutil, sys, time
from pathlib import Path
sys.path.insert(0, os.environ["CHECKOUT"])
from tests.helpers.metrics.fake_nvml import FakeNvml
faults = Path(os.environ["FAULTS"])
sys.modules["pynvml"] = FakeNvml.from_file(faults / "gpus.json")
disk_usage = shutil.disk_usage

def read_with_faults(self, numbers):
    time.sleep(4.0 * (faults / "slow").exists())
    while (faults / "stop").exists():
        time.sleep(0.1)
    return read(self, numbers)

def disk_with_faults(path):
    usage = disk_usage(path)
    return usage._replace(free=usage.total // 50) if (faults / "full").exists() else usage

shutil.disk_usage = disk_with_faults
if "headrace.train" in sys.orig_argv:
    from headrace.train.data.stream import Stream
    read, Stream.read = Stream.read, read_with_faults
"""
_DCGM = {
    "GPU_UTIL": 93, "FB_USED": 61000, "MEM_COPY_UTIL": 40, "GPU_TEMP": 61, "POWER_USAGE": 500.5, "SM_CLOCK": 1755,
    "NVLINK_BANDWIDTH_TOTAL": 900, "XID_ERRORS": 0, "ECC_DBE_VOL_TOTAL": 0,
}  # fmt: skip
_DCGM_PROFILING = {"PCIE_TX_BYTES": 5e9, "PCIE_RX_BYTES": 6e9, "SM_ACTIVE": 0.9, "PIPE_TENSOR_ACTIVE": 0.5}


class Commands:
    """Starts commands, and kills those that are left at the end of a `with` statement."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: for GPUs, faults and what the commands say.
        """
        self.folder = folder
        self.gpus([GPU, {**GPU, "uuid": "GPU-1b"}])
        self._started: list[subprocess.Popen[bytes]] = []
        # What has metrics imports pynvml before it begins its work, also each process of --gpus.
        (folder / "pynvml.py").write_text(_HOOKS, encoding="utf-8")

    def gpus(self, gpus: Sequence[Mapping[str, Any]]) -> None:
        """Let the machine have these GPUs from now on."""
        draft = self.folder / "gpus.draft"
        draft.write_text(json.dumps(gpus))
        draft.replace(self.folder / "gpus.json")

    def fault(self, name: str) -> Path:
        """Begin a fault: `slow` or `stop` for readers, `full` for the disk. It lasts until the file is deleted."""
        (self.folder / name).touch()
        return self.folder / name

    def start(self, module: str, *words: object, faults: bool = True) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own."""
        paths = [str(self.folder)] * faults + [os.environ.get("PYTHONPATH", str(ROOT))]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "FAULTS": str(self.folder),
            "CHECKOUT": str(ROOT),
        }
        log = (self.folder / f"command-{len(self._started)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            for one in family(process):
                one.kill()
            process.wait()

    def said(self) -> str:
        """Return what all commands have said."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("command-*.log")))


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a process and all below it, as far as they run."""
    try:
        one = psutil.Process(process.pid)
        return [*one.children(recursive=True), one]
    except psutil.NoSuchProcess:
        return []


def stop_workers(process: subprocess.Popen[bytes]) -> None:
    """Send SIGSTOP to all processes below a command."""
    for one in family(process)[:-1]:
        one.send_signal(signal.SIGSTOP)


def faster(text: str) -> str:
    """Return rules whose durations, and thresholds of seconds, are shortened by `FASTER`."""

    def shorten(found: re.Match[str]) -> str:
        seconds = int(found[2]) * {"m": 60, "h": 3600}[found[3]]
        return f"{found[1]}{max(SCRAPE_S * 3, seconds // FASTER)}s"

    rules = re.sub(r"(\[|for: )(\d+)([mh])", shorten, text)
    # Seconds that are compared: the age of a checkpoint is shortened as durations are, the others as scrapes are.
    scraped = SCRAPE_S / 15
    for quantity, limit, factor in (
        ("timestamp_seconds", 3600, 1 / FASTER),
        (r"remaining_seconds\[\d+s\]\)", 120, scraped),
        (r"scrape_duration_seconds\S+", 5, 0.5 * SCRAPE_S / 5),
    ):
        rules, count = re.subn(rf"({quantity}) > {limit}\b", rf"\1 > {limit * factor:g}", rules)
        assert count == 1, quantity
    return rules


def prometheus_config(folder: Path, ports: Sequence[int], dcgm: int) -> Path:
    """Write the config of the checkout, with these targets and faster, and return its path."""
    source = ROOT / "deploy" / "prometheus"
    config = yaml.safe_load((source / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "scrape_timeout"), f"{SCRAPE_S}s")
    config["global"]["evaluation_interval"] = f"{EVALUATE_S}s"
    targets = {"headrace": ports, "dcgm": [dcgm], "node": []}
    for job in config["scrape_configs"]:
        file = folder / f"{job['job_name']}.yml"
        addresses = [f"127.0.0.1:{port}" for port in targets[job["job_name"]]]
        file.write_text(yaml.safe_dump([{"targets": addresses}]))
        job["file_sd_configs"] = [{"files": [str(file)]}]
    (folder / "rules.yml").write_text(faster((source / "rules.yml").read_text()))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


class DcgmExporter:
    """Serves a page with the names of dcgm-exporter for the duration of a `with` statement."""

    def __init__(self) -> None:
        labels = 'gpu="0",UUID="GPU-0a",modelName="NVIDIA H100 80GB HBM3",Hostname="farm-1"'
        values = {f"DCGM_FI_DEV_{name}": value for name, value in _DCGM.items()}
        values |= {f"DCGM_FI_PROF_{name}": value for name, value in _DCGM_PROFILING.items()}
        page = "".join(f"{name}{{{labels}}} {value}\n" for name, value in values.items()).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self) -> DcgmExporter:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
