"""How the source is laid out. Who may import whom is said in pyproject.toml, and checked by `make lint`."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.conftest import SLOW

ROOT = Path(__file__).parent.parent
PACKAGES = ("store", "featurize", "train", "cli")

MOST_MODULES = 25
"""Modules of a folder."""
LONGEST_FUNCTION = 50
"""Lines of a function."""
SAME_NAME = {
    "observer": "what is told of a build, and what is told of a run",
    "presets": "what --preset chooses from: recipes of features, and sizes of models",
}
"""Names that modules of several packages have, each with the reason."""
STORE_NEEDS = {"headrace", "filelock", "numpy", "numba", "zarr", "numcodecs", "google_crc32c", "obstore"}


FOLDERS = {".ci", "benchmarks", "cli", "deploy", "docs", "featurize", "store", "tests", "train"}
"""Folders of the checkout."""


def imports(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    """List the Python files of a package, or of another folder of the checkout."""
    return sorted((ROOT / package).rglob("*.py"))


def test_the_store_needs_few_libraries() -> None:
    for path in files("store"):
        foreign = {name.split(".")[0] for name in imports(path)} - {*sys.stdlib_module_names}
        assert foreign <= STORE_NEEDS, path


@pytest.mark.parametrize(
    "modules, homes",
    [
        (
            {"dask", "distributed"},
            [f"featurize/scheduling/{name}.py" for name in ("dask_cluster", "private_cluster", "unix_sockets")],
        ),
        ({"nvidia"}, ["featurize/spectral/dali.py"]),
        ({"obstore"}, ["store/storage/s3_client.py"]),
        ({"soundfile"}, ["featurize/audio/libsndfile.py"]),
        ({"torchaudio"}, ["featurize/features/speaker_vector.py", "featurize/forced_alignment/ctc_path.py"]),
    ],
)
def test_few_files_know(modules: set[str], homes: list[str]) -> None:
    knowing = [
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in files(package)
        if {name.split(".")[0] for name in imports(path)} & modules
    ]
    assert knowing == homes


def module_imports(path: Path, modules: Collection[str]) -> set[str]:
    """Return what is imported with the file: not inside functions, not for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    for node in top:
        if isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}": str(node.module) for alias in node.names}
            names |= {name if name in modules else module for name, module in whole.items()}
    return names


def test_there_are_no_import_cycles() -> None:
    modules = {
        ".".join(("headrace", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in files(package)
    }
    graph = {name: module_imports(path, modules) & set(modules) for name, path in modules.items()}
    while leaves := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in leaves:
            del graph[name]
    assert not graph, f"these import one another: {sorted(graph)}"


def test_nothing_is_kept_beside_the_known_folders() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.partition("/")[0] for name in listed.stdout.splitlines() if "/" in name} == FOLDERS


def test_no_folder_holds_too_many_modules() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for package in (*PACKAGES, "benchmarks", "tests"):
        for path in files(package):
            counts[path.parent.relative_to(ROOT)] += 1
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_modules_of_several_packages_have_different_names() -> None:
    packages: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in files(package):
            if not path.stem.startswith("__"):
                packages[path.stem].add(package)
    assert {name for name, within in packages.items() if len(within) > 1} == set(SAME_NAME)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions and methods of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_are_short() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        for package in (*PACKAGES, "benchmarks", "tests")
        for path in files(package)
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno >= LONGEST_FUNCTION
    }
    assert long == set()


def test_every_package_is_distributed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in files(package)}
    assert set(project["tool"]["setuptools"]["packages"]) == {".".join(("headrace", *f.parts)) for f in folders}


def test_slow_modules_exist() -> None:
    assert {name for name in SLOW if not (ROOT / "tests" / name).is_file()} == set()


def test_test_modules_do_not_import_one_another() -> None:
    """What several of them use is in tests/helpers."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files("tests")
        for name in imports(path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    }
    assert found == set()


def test_what_is_public_has_a_docstring() -> None:
    """Its first line says what it does or is, in words that stand on their own."""
    found = {}
    for package in PACKAGES:
        for path in files(package):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    docstring = ast.get_docstring(node) or ""
                    if not docstring or docstring.startswith("Of "):
                        found[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = docstring
    assert found == {}
