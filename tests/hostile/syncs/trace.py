"""What a command did to files, as strace saw it: the log of strace becomes events in the order of time."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MARK = "/mark/"
"""Removing a folder below it fails, and leaves a mark in the log."""
SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "ftruncate", "fallocate")
OPENS = ("open", "openat", "creat")
RENAMES = ("rename", "renameat", "renameat2")
CREATES = ("mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat")
REMOVES = ("unlink", "unlinkat", "rmdir")

_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+)\b.*")
_ARGUMENT = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\.\.\.)?|(?:-?\d+|AT_FDCWD)<([^>]*)>(?:\(deleted\))?|[^," ][^,]*')
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)")


@dataclass(frozen=True)
class Event:
    """Something that happened to a file or a folder. Paths are absolute."""

    kind: str
    """create, write, sync, rename, remove or mark."""
    path: str
    target: str = ""
    """Of a rename: the new path."""
    begun: int = 0
    """How many events there were when it began: a sync flushes what was written before that."""


@cache
def cannot_trace() -> str:
    """Return why strace cannot be used here; empty if it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"strace is not permitted here: {tried.stderr.strip()}"


def traced(log: Path, folder: Path, *command: object) -> list[Event]:
    """Run a command in a folder, and return what all its processes and threads did."""
    calls = ",".join((*SYNCS, *WRITES, *OPENS, *RENAMES, *CREATES, *REMOVES, "truncate", "mmap"))
    program = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-qq",
        "-s",
        "0",
        "-e",
        f"trace={calls}",
        "-e",
        "signal=none",
        "-o",
        str(log),
    ]
    words = [*program, *map(str, command)]
    modules = os.pathsep.join((os.getcwd(), os.environ.get("PYTHONPATH", "")))
    environment = os.environ | {"PYTHONPATH": modules}
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stdout}\n{ended.stderr}"
    return list(events(log.read_text(errors="replace"), str(folder)))


def events(log: str, folder: str) -> Iterator[Event]:
    """Yield the events of a log. A call counts when it returns.

    Args:
        folder: that the processes worked in.
    """
    begun: dict[str, tuple[int, str]] = {}
    count = 0
    for line in log.splitlines():
        process, _, call = line.partition(" ")
        call, at = call.strip(), count
        if call.endswith("<unfinished ...>"):
            begun[process] = count, call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<... ") and process in begun:
            at, first = begun.pop(process)
            call = first + call.partition(" resumed>")[2]
        for event in _parse(call, folder, at):
            count += 1
            yield event


def _parse(call: str, folder: str, begun: int) -> Iterator[Event]:
    """Yield what one call did."""
    if not (found := _CALL.fullmatch(call)):
        return
    name, arguments, result = found.groups()
    paths = _paths(arguments, folder)
    if paths and paths[0].startswith(MARK):
        yield Event("mark", paths[0].removeprefix(MARK))
    if result.startswith("-") or not paths:
        return
    if name in SYNCS:
        yield Event("sync", paths[0], begun=begun)
    elif name in (*WRITES, "truncate") or (name == "mmap" and {"PROT_WRITE", "MAP_SHARED"} <= _flags(arguments)):
        yield Event("write", paths[-1])
    elif name in OPENS:
        if name == "creat" or "O_CREAT" in _flags(arguments):
            yield Event("create", paths[0])
        if name == "creat" or "O_TRUNC" in _flags(arguments):
            yield Event("write", paths[0])
    elif name in RENAMES:
        yield Event("rename", paths[0], paths[1])
    elif name in CREATES:
        yield Event("create", paths[-1])
    elif name in REMOVES:
        yield Event("remove", paths[0])


def _flags(arguments: str) -> set[str]:
    return set(re.findall(r"\b[A-Z_]+\b", re.sub(r'"(?:[^"\\]|\\.)*"|<[^>]*>', "", arguments)))


def _paths(arguments: str, folder: str) -> list[str]:
    """Return the paths in the arguments of a call: names relative to the handle before them, and other handles."""
    found: list[str] = []
    handle = ""
    for match in _ARGUMENT.finditer(arguments):
        name, opened = match.groups()
        if name is not None:
            found.append(os.path.normpath(os.path.join(handle or folder, _unescape(name))))
            handle = ""
        elif opened is not None:
            if handle:
                found.append(handle)
            handle = _unescape(opened)
    return [path for path in [*found, handle] if path.startswith("/")]


def _unescape(text: str) -> str:
    """Return a name without the escapes of strace, which stand for quotes and for bytes that are not ASCII."""
    letters = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f"}

    def plain(match: re.Match[bytes]) -> bytes:
        found = match[1]
        return bytes([int(found, 8)]) if found.isdigit() else letters.get(found, found)

    return os.fsdecode(_ESCAPE.sub(plain, text.encode()))


def mark(name: str) -> None:
    """Leave a mark in the log of this process."""
    try:
        os.rmdir(MARK + name)
    except FileNotFoundError:
        return
    raise AssertionError(f"{MARK} is not expected to exist")


def between(found: Sequence[Event], first: str, last: str) -> tuple[int, list[Event]]:
    """Return the events between two marks, and the number of the first one."""
    marks = [event.path if event.kind == "mark" else "" for event in found]
    start, stop = marks.index(first) + 1, marks.index(last)
    return start, list(found[start:stop])
