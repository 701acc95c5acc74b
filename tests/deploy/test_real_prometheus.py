"""A real Prometheus scrapes real runs and builds: every panel has data, and each alert fires by its cause alone.

Durations of the rules are shortened, all by the same factor; their expressions are those of the checkout.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.helpers import browser
from tests.helpers.corpora import make_tree
from tests.helpers.documentation import ROOT
from tests.helpers.metrics import prometheus
from tests.helpers.metrics.fake_nvml import GPU
from tests.helpers.metrics.prometheus import Prometheus
from tests.helpers.metrics.scrapes import fetch, free_port, parse
from tests.helpers.metrics.table import documented
from tests.helpers.metrics.watched_commands import Commands, DcgmExporter, faster, prometheus_config, stop_workers
from tests.helpers.training_store import build

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        prometheus.server() is None,
        reason="no Prometheus: apt-get install prometheus, or HEADRACE_PROMETHEUS names its folder",
    ),
]

TINY = ("--preset", "tiny", "--batch-frames", 200)
LONG_S = 900
"""Seconds that are waited for what takes a minute on two idle cores."""
SPECIAL = {"headrace_train_accuracy_ratio": "of gpt", "headrace_train_opinion_score": "of samples that are scored"}
"""Metrics that a run of sovits without samples does not have."""


class Farm(NamedTuple):
    """What the tests share."""

    server: Prometheus
    commands: Commands
    ports: list[int]
    folder: Path

    def up(self, port: int) -> bool:
        return bool(self.server.query(f'up{{instance="127.0.0.1:{port}"}} == 1'))


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    build(folder / "STORE", frames=range(30, 60))
    build(folder / "POISONED", frames=range(30, 60), poisoned=range(0, 30, 2))
    make_tree(folder / "corpus", 24)
    first = free_port()
    ports = [first, first + 1, *(free_port() for _ in range(5))]
    with DcgmExporter() as dcgm, Commands(folder) as commands:
        config = prometheus_config(folder, ports, dcgm.port)
        with Prometheus(config, folder / "data") as server:
            yield Farm(server, commands, ports, folder)


def picture(farm: Farm, page: str, name: str) -> None:
    """Take a picture of a page of Prometheus, if there is a browser."""
    program = browser.found()
    if program is not None:
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        words += [f"--user-data-dir={farm.folder / 'browser'}", f"--screenshot={farm.folder / name}"]
        subprocess.run([program, *words, "--window-size=1200,900", farm.server.url + page], check=False, timeout=300)


def panels() -> dict[str, str]:
    """Return the query of every panel, by dashboard, title and letter, for all runs and machines."""
    found = {}
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                query = re.sub(r"\$(out|host)", ".*", target["expr"]).replace("$__rate_interval", "20s")
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = query
    return found


def selectors() -> set[str]:
    """Return all that rules select: names of metrics with their conditions on labels."""
    rules = yaml.safe_load(faster((ROOT / "deploy" / "prometheus" / "rules.yml").read_text()))
    text = "\n".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    return set(re.findall(r"(?:headrace_|DCGM_|up|scrape_duration_)\w*(?:\{[^}]*\})?", text))


def test_an_undisturbed_run_and_build_give_data_to_all_and_fire_nothing(farm: Farm) -> None:
    server, ports = farm.server, farm.ports
    store, corpus, run = farm.folder / "STORE", farm.folder / "corpus", farm.folder / "RUN"
    words = [store, "--out", run, *TINY, "--max-steps", 40, "--validate-every", 10, "--checkpoint-every", 10]
    training = farm.commands.start(
        "headrace.train", "run", *words, "--gpus", 2, "--device", "cpu", "--metrics-port", ports[0]
    )
    words = [corpus, "--out", farm.folder / "BUILT", "--features", "wave,mel,phones,content,semantic", "--codes", 16]
    words += ["--workers", 1, "--part-hours", 0.001]
    building = farm.commands.start("headrace.featurize", "build", *words, "--metrics-port", ports[2])
    server.wait_for(lambda: farm.up(ports[0]) and farm.up(ports[1]) and farm.up(ports[2]), LONG_S, "three targets")
    server.wait_for(lambda: server.query("headrace_train_checkpoint_step >= 20"), LONG_S, "a checkpoint")
    check_pages(fetch(ports[0]), fetch(ports[1]))
    picture(farm, "/classic/graph?g0.expr=headrace_train_loss&g0.range_input=5m&g0.tab=0", "graph.png")
    for process in (training, building):
        assert process.wait(LONG_S) == 0, farm.commands.said()
    for _ in range(10):  # what has ended must not be reported either
        assert server.firing() == set()
        server.wait_for(lambda: True, 5, "nothing")
    assert server.ever_fired() == set()
    empty = [name for name, query in panels().items() if not server.query_range(query)]
    assert empty == []
    assert [name for name in sorted(selectors()) if not server.query_range(name)] == []
    missing = {row.name for row in documented() if not server.query_range(sample(row.name, row.kind))}
    assert missing == set(SPECIAL)


def sample(name: str, kind: str) -> str:
    return f"{name}_count" if kind == "histogram" else name


def check_pages(first: str, second: str) -> None:
    """Check the pages of two ranks: promtool accepts them, and the second has only what is its own."""
    for page in (first, second):
        tool = prometheus.promtool()
        if tool is not None:
            done = subprocess.run([tool, "check", "metrics"], input=page, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    names = set(parse(second))
    assert "headrace_train_phase_seconds" in names and names < set(parse(first))
    assert not any(name.startswith("headrace_gpu") or name.endswith("frames") for name in names)
    ranks = {s.labels["rank"] for m in parse(second).values() for s in m.samples}
    assert ranks == {"1"}


def test_each_alert_is_fired_by_its_cause(farm: Farm) -> None:
    server, commands, ports = farm.server, farm.commands, farm.ports[3:]
    watched = start_disturbed(farm, ports)
    server.wait_for(lambda: all(map(farm.up, ports)), LONG_S, "all targets")
    server.wait_for(lambda: server.query('headrace_train_step{out=~".*/LONG"} > 3'), LONG_S, "steps")

    def wait_for(*names: str) -> None:
        server.wait_for(lambda: set(names) <= server.ever_fired(), LONG_S, f"{names}, after {server.ever_fired()}")

    hot: dict[str, Any] = {**GPU, "celsius": 91, "ecc": [7, 2]}
    commands.gpus([hot])
    full, slow = commands.fault("full"), commands.fault("slow")
    stop_workers(watched["build"])
    wait_for("HeadraceGpuHot", "HeadraceGpuMemoryErrors", "HeadraceGpuGone", "HeadraceDiskNearlyFull")
    wait_for("HeadraceTrainDataBound", "HeadraceTrainNotFinite")
    picture(farm, "/classic/alerts", "alerts.png")
    picture(farm, "/classic/targets", "targets.png")
    full.unlink()
    slow.unlink()
    wait_for("HeadraceCheckpointOld", "HeadraceBuildWithoutWorkers", "HeadraceBuildStuck")
    stop = commands.fault("stop")
    wait_for("HeadraceTrainStalled")
    stop.unlink()
    assert not {"HeadraceUnreachable", "HeadraceTrainLost"} & server.ever_fired(), "no process was stopped yet"
    watched["train"].send_signal(signal.SIGSTOP)
    wait_for("HeadraceUnreachable")
    watched["train"].kill()
    wait_for("HeadraceTrainLost")
    watched["build"].kill()
    for process, port in ((watched["train"], ports[0]), (watched["build"], ports[2])):
        process.wait()
        socket.create_server(("127.0.0.1", port)).close()  # a process that is killed leaves its port free
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert server.ever_fired() == {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def start_disturbed(farm: Farm, ports: list[int]) -> dict[str, subprocess.Popen[bytes]]:
    """Start a run without checkpoints, one of data that are not finite, a build, and one without workers."""
    never = ("--checkpoint-every", 10**6, "--validate-every", 0, "--max-steps", 10**6)
    start, folder = farm.commands.start, farm.folder
    long = start("headrace.train", "run", folder / "STORE", "--out", folder / "LONG", *TINY, *never,
                 "--metrics-port", ports[0])  # fmt: skip
    start("headrace.train", "run", folder / "POISONED", "--out", folder / "NAN", *TINY, *never,
          "--metrics-port", ports[1])  # fmt: skip
    parts = ("--features", "wave,mel", "--part-hours", 0.001)
    built = start("headrace.featurize", "build", folder / "corpus", "--out", folder / "STUCK", *parts, "--workers", 1,
                  "--metrics-port", ports[2])  # fmt: skip
    address = folder / "scheduler.json"
    start("distributed.cli.dask_scheduler", "--scheduler-file", address, "--port", 0, "--no-dashboard", faults=False)
    farm.server.wait_for(address.exists, LONG_S, "a scheduler")
    at = json.loads(address.read_text())["address"]
    start("headrace.featurize", "build", folder / "corpus", "--out", folder / "ALONE", *parts, "--scheduler", at,
          "--metrics-port", ports[3])  # fmt: skip
    return {"train": long, "build": built}
