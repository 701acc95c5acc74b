"""What the options of metrics refuse, before any work is done."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from headrace.cli.featurize import main as featurize
from headrace.cli.train import main as train

COMMANDS = ((train, ("run", "STORE", "--out")), (featurize, ("build", "corpus", "--out")))


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refused(command: click.Command, words: tuple[object, ...]) -> str:
    """Return the one line that a command says, which neither store nor corpus is there for."""
    result = CliRunner().invoke(command, [*map(str, words)])
    assert result.exit_code == 2, result.output
    line, *rest = result.stderr.strip().splitlines()
    assert rest == [] and line.startswith("Error: ")
    return line.removeprefix("Error: ")


@pytest.mark.parametrize("command, words", COMMANDS)
class TestBothCommands:
    def test_a_port_that_is_taken(
        self, command: click.Command, words: tuple[str, ...], taken: int, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert f"--metrics-port {taken} at 127.0.0.1" in refused(command, (*words, out, "--metrics-port", taken))
        assert not out.exists()

    def test_an_address_without_a_port(self, command: click.Command, words: tuple[str, ...], tmp_path: Path) -> None:
        said = refused(command, (*words, tmp_path / "out", "--metrics-address", "0.0.0.0"))
        assert said == "--metrics-address 0.0.0.0: give --metrics-port too."

    def test_a_missing_extra(
        self, command: click.Command, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        said = refused(command, (*words, tmp_path / "out", "--metrics-file", tmp_path / "a.prom"))
        assert said.endswith("pip install 'headrace[metrics]'.")


def test_a_rank_binds_the_port_above_by_its_rank(taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = refused(train, ("run", "STORE", "--out", tmp_path / "out", "--metrics-port", taken - 2))
    assert f"--metrics-port {taken} at" in said
