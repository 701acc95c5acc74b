"""Commands of the documentation that no test can run, for they need several machines: a launcher reads them as it would
there."""

from __future__ import annotations

import shlex
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from unittest import mock

import click
import pytest
import yaml
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config
from torch.distributed.run import get_args_parser, parse_min_max_nnodes

from benchmarks import elastic
from headrace.cli.train import main as train
from tests.helpers import documentation

PAGE = "docs/many-gpus.md"
BLOCKS = documentation.blocks(PAGE)
MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/train-job.yaml"


def launched() -> list[list[str]]:
    """The words of each torchrun of the page."""
    lines = [line for b in BLOCKS if b.language == "sh" for line in b.text.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command[:1] == ["torchrun"]]


def read(command: list[str]) -> Namespace:
    """A command as torchrun reads it, which exits at what it does not know."""
    return get_args_parser().parse_args(command[1:])


COMMANDS = launched()


def test_all_launchers_of_the_page_are_found() -> None:
    assert len(COMMANDS) == sum(b.text.count("torchrun") for b in BLOCKS) >= 3


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_torchrun_and_train_run_take_the_options(command: list[str]) -> None:
    given = read(command)
    assert given.module and given.training_script == "headrace.train"
    assert parse_min_max_nnodes(given.nnodes)[1] >= 1 and given.rdzv_backend in ("static", "c10d")
    name, *words = given.training_script_args
    chosen = train.commands[name]
    with mock.patch.object(click.Path, "convert", lambda self, value, *_: value):  # none of the files is there
        # click keeps the first names of its help option that it is asked with
        context = chosen.make_context("run", [word.replace("$PORT", "1") for word in words], **train.context_settings)
    assert context.params["out"]


def test_a_job_of_changing_machines_is_started_as_the_benchmark_and_the_soak_start_it() -> None:
    (command,) = [c for c in COMMANDS if "--rdzv-conf" in c]
    given = read(command)
    assert given.rdzv_conf == elastic.RENDEZVOUS
    lines = [line for b in BLOCKS if "--rdzv-conf" in b.text for line in b.text.splitlines()]
    for name, value in elastic.ENVIRONMENT.items():
        assert f"export {name}={value}" in lines
    parameters = RendezvousParameters(
        given.rdzv_backend,
        given.rdzv_endpoint,
        given.rdzv_id,
        *parse_min_max_nnodes(given.nnodes),
        **_parse_rendezvous_config(given.rdzv_conf),
    )
    settings = create_handler(mock.Mock(), mock.Mock(), parameters).settings
    assert settings.timeout.last_call == timedelta(seconds=3)
    assert (settings.keep_alive_interval, settings.keep_alive_max_attempt) == (timedelta(seconds=2), 2)


def test_pods_of_the_manifest_find_the_first_one() -> None:
    service, job = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    name, pod = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None" and list(service["spec"]["selector"].values()) == [name]
    assert pod["subdomain"] == service["metadata"]["name"] and job["spec"]["completionMode"] == "Indexed"
    container = pod["containers"][0]
    given = read(container["command"][2:])  # of `python -m torch.distributed.run`
    assert given.rdzv_endpoint.partition(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert parse_min_max_nnodes(given.nnodes)[1] == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(given.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
