"""Who may import whom, what a command line promises, and how fast it answers."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("store", "featurize", "train", "cli")
COMMANDS = ("featurize", "store", "train")

STORE_NEEDS = {"headrace", "numpy", "numba", "zarr", "numcodecs", "google_crc32c", "obstore"}


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_the_store_needs_few_libraries() -> None:
    for path in files("store"):
        foreign = {name.split(".")[0] for name in imports(path)} - {*sys.stdlib_module_names}
        assert foreign <= STORE_NEEDS, path


@pytest.mark.parametrize(
    "modules, home",
    [
        ({"dask", "distributed"}, "featurize/scheduling/dask_cluster.py"),
        ({"nvidia"}, "featurize/spectral/dali.py"),
        ({"obstore"}, "store/storage/s3.py"),
    ],
)
def test_one_file_knows(modules: set[str], home: str) -> None:
    knowing = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in files(package)
        if {name.split(".")[0] for name in imports(path)} & modules
    ]
    assert knowing == [home]


def module_imports(path: Path) -> set[str]:
    """What is imported with the file: not inside functions, not for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in top if isinstance(node, ast.ImportFrom)}
    return names | {f"{n.module}.{a.name}" for n in top if isinstance(n, ast.ImportFrom) for a in n.names}


def test_there_are_no_import_cycles() -> None:
    modules = {
        ".".join(("headrace", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in files(package)
    }
    graph = {name: module_imports(path) & set(modules) for name, path in modules.items()}
    while leaves := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these import one another: {sorted(graph)}"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light_and_quick(command: str) -> None:
    script = f"""
import sys
from headrace.cli.{command} import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = {{"torch", "dask", "distributed", "nvidia", "zarr", "numpy", "matplotlib", "rich"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    timings = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
        timings.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    assert min(timings) < 2.0, "0.1 s on an idle machine; torch alone takes 2"


def help_text() -> str:
    """`--help` of every command and subcommand, as a person sees it 100 columns wide."""
    import importlib

    import click

    wide: dict[str, Any] = {"terminal_width": 100, "max_content_width": 100}
    pages = []
    for name in COMMANDS:
        group = importlib.import_module(f"headrace.cli.{name}").main
        context = click.Context(group, info_name=name, **group.context_settings, **wide)
        pages.append(group.get_help(context))
        for sub in group.list_commands(context):
            inner = group.get_command(context, sub)
            pages.append(inner.get_help(click.Context(inner, info_name=sub, parent=context, **wide)))
    return "\n\n".join(pages) + "\n"


def test_the_command_line_is_what_was_promised() -> None:
    """A changed option changes tests/cli/help.txt in the same commit: `python -m tests.test_structure` writes it."""
    assert help_text() == (ROOT / "tests" / "cli" / "help.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    (ROOT / "tests" / "cli" / "help.txt").write_text(help_text(), encoding="utf-8")
