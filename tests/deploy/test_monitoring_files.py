"""Files in deploy/ for Prometheus and Grafana: valid, and made of metrics that exist."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.helpers.documentation import ROOT
from tests.helpers.metrics.prometheus import promtool
from tests.helpers.metrics.table import documented

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
METRIC = re.compile(r"\bheadrace_[a-z_]+")


def run_promtool(*words: object) -> str:
    found = promtool()
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus, or set HEADRACE_PROMETHEUS to its folder")
    done = subprocess.run([found, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_config() -> None:
    assert "SUCCESS" in run_promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_promtool_accepts_the_rules() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    count = sum(len(group["rules"]) for group in rules["groups"])
    assert f"{count} rules found" in run_promtool("check", "rules", DEPLOY / "prometheus" / "rules.yml")


def test_each_alert_fires_by_its_cause_and_by_nothing_else() -> None:
    tests = ROOT / "tests" / "deploy" / "rules_test.yml"
    assert "SUCCESS" in run_promtool("test", "rules", tests)
    tried = yaml.safe_load(tests.read_text())["tests"]
    fired, silent = set[str](), set[str]()
    for case in tried:
        for expectation in case["alert_rule_test"]:
            (fired if expectation.get("exp_alerts") else silent).add(expectation["alertname"])
    assert alerts() == fired == silent


def alerts() -> set[str]:
    """Return the names of all alerts."""
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    return {rule["alert"] for group in rules["groups"] for rule in group["rules"]}


def test_the_page_says_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(Headrace\w+)` \|", page, re.MULTILINE)) == alerts()


def test_the_targets_are_lists_of_addresses() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        for name in job["file_sd_configs"][0]["files"]:
            (group,) = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
            assert all(re.fullmatch(r"[\w.-]+:\d+", target) for target in group["targets"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
class TestDashboard:
    def test_it_is_what_its_source_makes(self, path: Path) -> None:
        made = runpy.run_path(str(DEPLOY / "grafana" / "dashboards.py"))["boards"]()
        assert set(made) == {other.name for other in DASHBOARDS}
        assert path.read_text() == made[path.name], "run: python deploy/grafana/dashboards.py"

    def test_grafanas_schema_knows_every_field(self, path: Path) -> None:
        """What the schema does not know is lost on the way through its types."""
        register_default_plugins()
        raw = json.loads(path.read_text())
        assert json.loads(JSONEncoder().encode(Dashboard.from_json(raw))) == raw

    def test_panels_have_numbers_places_and_queries_of_their_own(self, path: Path) -> None:
        panels = json.loads(path.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels if panel["type"] != "row"}
        assert len(places) == sum(panel["type"] != "row" for panel in panels)
        for panel in panels:
            names = [target["refId"] for target in panel.get("targets", ())]
            assert len(set(names)) == len(names) and (names or panel["type"] == "row"), panel["title"]

    def test_its_metrics_exist(self, path: Path) -> None:
        unknown = set(METRIC.findall(path.read_text())) - sample_names()
        assert not unknown


def test_the_metrics_of_rules_exist() -> None:
    assert set(METRIC.findall((DEPLOY / "prometheus" / "rules.yml").read_text())) <= sample_names()


def sample_names() -> set[str]:
    """Return the names that samples have, by the table of the page."""
    names = set()
    for row in documented():
        suffixes = ("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",)
        names |= {row.name + suffix for suffix in suffixes}
    return names


def test_the_provisioned_folder_and_source_are_those_of_the_dashboards() -> None:
    provisioning: dict[str, Any] = {
        name: yaml.safe_load((DEPLOY / "grafana" / "provisioning" / name).read_text())
        for name in ("datasources/prometheus.yml", "dashboards/headrace.yml")
    }
    (source,) = provisioning["datasources/prometheus.yml"]["datasources"]
    assert source["type"] == "prometheus" and source["url"].startswith("http://")
    (provider,) = provisioning["dashboards/headrace.yml"]["providers"]
    assert provider["type"] == "file" and provider["options"]["path"] == "/etc/grafana/dashboards"


def test_the_source_of_the_dashboards_runs_by_itself(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "grafana" / "dashboards.py", tmp_path)
    (tmp_path / "dashboards").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "dashboards.py"], cwd=tmp_path, env=environment, check=True)
    assert {path.name for path in (tmp_path / "dashboards").iterdir()} == {path.name for path in DASHBOARDS}
