"""The wheel: what it holds, and that it works away from the checkout, beside a user's own files of the same names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.corpora import make_tree

ROOT = Path(__file__).parent.parent
PACKAGES = ("store", "featurize", "train", "cli")
COMMANDS = ("featurize", "store", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, since setuptools leaves a build folder behind."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run_python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", out, copy)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a folder of its own; what it depends on comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    run_python("-m", "pip", "install", "--no-deps", "--quiet", "--target", target, wheel)
    return target


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder that holds modules and folders with the names of our packages. None of them may be imported."""
    folder = tmp_path_factory.mktemp("user")
    for package in PACKAGES:
        (folder / f"{package}.py").write_text("raise RuntimeError('a module of the user was imported')\n")
    for package in ("store", "train"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise RuntimeError('a folder of the user was imported')\n")
    return folder


def run_python(*arguments: object, cwd: Path | None = None, path: Path | None = None) -> str:
    """Run Python, with `path` as the only addition to the import path, and return what it prints on stdout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_headrace_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0].split("-")[0] for name in names} == {"headrace"}
    ours = {name for name in names if name.startswith("headrace/")}
    kept = {".py", ".html", ".txt", ".typed", ".gz"}
    checkout = {
        f"headrace/{path.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in kept
    }
    assert ours == checkout
    assert {f"headrace/{package}/py.typed" for package in PACKAGES} <= ours


def test_the_installed_package_is_what_is_imported(installed: Path, workplace: Path) -> None:
    script = "import headrace.store, headrace.train.config; print(headrace.store.__file__)"
    imported = run_python("-c", script, cwd=workplace, path=installed)
    assert Path(imported.strip()) == installed / "headrace" / "store" / "__init__.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_modules_and_console_scripts_are_the_same_command(command: str, installed: Path, workplace: Path) -> None:
    as_module = run_python("-m", f"headrace.{command}", "--help", cwd=workplace, path=installed)
    assert run_python("-m", f"headrace.cli.{command}", "--help", cwd=workplace, path=installed) == as_module
    (script,) = (installed / "bin").glob(f"{command}*")
    as_script = run_python(script, "--help", cwd=workplace, path=installed)
    assert as_module.startswith(f"Usage: {command} [OPTIONS]")
    assert as_module == as_script


def test_an_installed_package_builds_a_store_and_tells_what_is_in_it(installed: Path, workplace: Path) -> None:
    make_tree(workplace / "corpus", count=4)
    words = ("build", "corpus", "--out", "STORE", "--features", "wave,mel,phones", "--workers", 1)
    run_python("-m", "headrace.featurize", *words, cwd=workplace, path=installed)
    info = json.loads(run_python("-m", "headrace.store", "info", "STORE", "--json", cwd=workplace, path=installed))
    assert info["utterances"] == 4 and info["complete"]
