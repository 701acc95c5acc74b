"""What README, docs and --help name exists: options, modules, files, pages, anchors and messages."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache

import click
import pytest

from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store
from headrace.cli.train import main as train
from tests.helpers import documentation
from tests.helpers.documentation import ROOT

COMMANDS = {"featurize": featurize, "store": store, "train": train}
PAGES = [*documentation.pages(), "CHANGELOG.md", "benchmarks/results/*.md", "tests/cli/help.txt"]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for page in PAGES for path in ROOT.glob(page)
}
NOT_OURS = {
    "--nproc-per-node", "--hostfile", "--nthreads", "--nworkers", "--resources", "--scheduler-file", "--wrap",
    "--logdir", "--no-deps", "--format", "--strict", "--dashboard-address", "--local-directory", "--no-dashboard",
    "--protocol", "--tls-ca-file", "--tls-cert", "--tls-key", "--nnodes", "--max-restarts", "--rdzv-backend",
    "--rdzv-endpoint", "--rdzv-id", "--rdzv-conf", "--nodes", "--ntasks-per-node", "--gpus-per-task", "--signal",
    "--requeue", "--time", "--file", "--tag", "--build-arg", "--secret", "--rm", "--init", "--user", "--volume",
    "--shm-size", "--ipc", "--stop-timeout", "--for", "--timeout", "--env",
    "--config", "--only-binary", "--no-binary",
}  # fmt: skip
"""Options of torchrun, dask, srun, sbatch, tensorboard, pip, docker, kubectl, sky, aws, mkdocs and prometheus."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])")
MODULE = re.compile(r"\bheadrace(?:\.\w+)+")
BENCHMARK = re.compile(r"\bbenchmarks\.(?!md\b)([a-z_0-9]+(?:\.[a-z_0-9]+)?)")
FILE = re.compile(r"(?<![\w/.:])(?:store|featurize|train|cli|tests|benchmarks|docs|deploy)/[\w./-]*[\w/]")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROOMS = re.compile(r"^\| `((?:store|featurize|train|cli)/[\w/]*)` \|", re.MULTILINE)


@cache
def options() -> set[str]:
    """Return every option of the commands."""
    return {name for group in COMMANDS.values() for c in group.commands.values() for name in options_of(c)}


@cache
def benchmark_options() -> set[str]:
    """Return every option that a benchmark declares."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py")]
    return {name for source in sources for name in re.findall(r"\"(--[a-z-]+)\"", source)}


def options_of(command: click.Command) -> set[str]:
    names = {name for p in command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}
    return names | {"--help"}


@pytest.mark.parametrize("page", TEXTS)
def test_options_exist(page: str) -> None:
    unknown = set(OPTION.findall(TEXTS[page])) - options() - benchmark_options() - NOT_OURS
    assert not unknown, f"{page} names {sorted(unknown)}"


@pytest.mark.parametrize("page", documentation.pages())
def test_options_belong_to_the_command_they_are_given_to(page: str) -> None:
    for line, command, words in commands(page):
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options_of(command)
        assert not unknown, f"{page}: {line!r} gives {sorted(unknown)}"


def commands(page: str) -> Iterator[tuple[str, click.Command, list[str]]]:
    """Yield the commands of Headrace in the sh blocks and in the inline code of a page."""
    lines = [line for b in documentation.blocks(page) if b.language == "sh" for line in b.text.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", documentation.prose(page))
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quotation mark in a message
        for at, word in enumerate(words[:-1]):
            name = word.removeprefix("headrace.")
            if name in COMMANDS and (at == 0 or words[at - 1] == "-m") and words[at + 1] in COMMANDS[name].commands:
                yield line, COMMANDS[name].commands[words[at + 1]], words[at + 2 :]


@pytest.mark.parametrize("page", TEXTS)
def test_modules_classes_and_functions_exist(page: str) -> None:
    for name in sorted(set(MODULE.findall(TEXTS[page]))):
        assert resolve(name), f"{page} names {name}"
    for name in sorted(set(BENCHMARK.findall(TEXTS[page]))):
        file = name.replace(".", "/")
        places = (f"{file}.py", f"{file}/__main__.py")
        assert any((ROOT / "benchmarks" / place).exists() for place in places), f"{page} names benchmarks.{name}"


def resolve(name: str) -> bool:
    """Whether a dotted name leads to a module, or to an attribute of one."""
    module, attributes = name, list[str]()
    while True:
        try:
            found: object = importlib.import_module(module)
            break
        except ModuleNotFoundError:
            module, _, last = module.rpartition(".")
            attributes.insert(0, last)
            if not module:
                return False
    for attribute in attributes:
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return True


@pytest.mark.parametrize("page", TEXTS)
def test_files_of_the_checkout_exist(page: str) -> None:
    for name in sorted(set(FILE.findall(TEXTS[page]))):
        assert (ROOT / name).exists(), f"{page} names {name}"


def test_the_architecture_names_every_package() -> None:
    named = {name.rstrip("/") for name in ROOMS.findall(TEXTS["ARCHITECTURE.md"])}
    there = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("store", "featurize", "train", "cli")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert named == there - {"featurize/text/languages"}


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_anchors_resolve(page: str) -> None:
    for link in LINK.findall(TEXTS[page]):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}"


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    page = TEXTS["docs/troubleshooting.md"]
    quoted = re.findall(r"^\| `([^`]+)` \|", page[page.index("## Messages") :], re.MULTILINE)
    assert len(quoted) > 20
    said = messages()
    for message in quoted:
        pattern = re.compile(".*".join(re.escape(part) for part in message.split("...")))
        assert any(pattern.search(text) for text in said), f"no code says {message!r}"


def messages() -> list[str]:
    """Return every string of the packages, with `...` for what varies."""
    found = []
    for top in ("store", "featurize", "train", "cli"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "..." for p in node.values]
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def test_the_table_of_environment_variables_is_complete() -> None:
    ours = {name for text in TEXTS.values() for name in re.findall(r"\bHEADRACE_[A-Z_]+", text)}
    assert ours == {"HEADRACE_GOLDEN", "HEADRACE_CHROMIUM", "HEADRACE_PROMETHEUS"}


@pytest.mark.parametrize("page", documentation.pages())
def test_constants_and_fields_in_inline_code_exist(page: str) -> None:
    sources = "\n".join(
        p.read_text(encoding="utf-8") for t in COMMANDS | {"cli": None} for p in (ROOT / t).rglob("*.py")
    )
    code = re.findall(r"`([^`\n]+)`", documentation.prose(page))
    # Trainer is Lightning's
    fields = [(name, field) for text in code for name, field in re.findall(r"\b(?!Trainer)([A-Z]\w+)\((\w+)=", text)]
    for name, field in fields:
        assert re.search(rf"\b{field}\b", sources), f"{page}: {name} has no {field}"
    for name in {text for text in code if re.fullmatch(r"[A-Z]+_[A-Z_]+", text)} - {
        "HEADRACE_GOLDEN",
        "HEADRACE_CHROMIUM",
        "HEADRACE_PROMETHEUS",
    }:
        assert re.search(rf"\b{name}\b", sources), f"{page} names {name}"
