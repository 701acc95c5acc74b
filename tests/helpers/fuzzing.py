"""Mutation fuzzing of readers: bytes that are nearly right must become a result, or an error that a person can act on.

    @pytest.mark.parametrize("count", FUZZ_COUNTS)
    def test_lists(tmp_path, count):
        folder = tmp_path / "corpus"
        seed = make_list(folder).read_bytes()

        def attempt(data: bytes) -> None:
            (folder / "train.list").write_bytes(data)
            list(scan(folder))

        fuzz(attempt, [seed], folder=folder, count=count, tokens=[b"|", b"EN"])

A mutation depends on the seeds, the tokens and its number only: `mutate(seeds, number, tokens)` makes it again.
Mutations are tried in forked processes, many in each. If one kills its process, the parent knows its number.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import random
import re
import resource
import signal
import struct
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import pytest

from headrace.store.errors import HeadraceError

FUZZ_COUNTS = [200, pytest.param(20_000, marks=pytest.mark.soak)]
"""Mutations of a format in `make test` and in `make soak`, for `pytest.mark.parametrize`."""
COMMAND_COUNTS = [5, pytest.param(1_000, marks=pytest.mark.soak)]
"""Mutations for a whole command, which takes a hundred times as long as the reader of a format."""
ALLOWED = (HeadraceError, click.ClickException, click.Abort, click.exceptions.Exit)
"""What an attempt may raise."""
BATCH = 250
"""Mutations that one process tries: a fork of a process with torch takes as long as some twenty of them."""
DONE = 42
"""Exit code of a process that tried all of its mutations."""
CHANGES = "it changes files beside its folder"
MAX_FAILURES = 10
"""Kinds of failures, or deaths of processes, after which a run ends."""

TOKENS = (
    *b"0 -0 -1 1 2 255 256 65536 2147483647 2147483648 -2147483649 4294967296 9223372036854775807 9223372036854775808 "
    b"-9223372036854775809 18446744073709551616 0.5 1e-320 1e18 1e308 1e999 -1e999 NaN nan -nan Infinity -Infinity inf "
    b"-inf 0x10 +1 1. .5 1e 01 null true false None [] {} [[]] [{}] [null] \"\" ''  \\ud800 \\udfff \\u0000 \\x "
    b"\\ \\n ' \" ` < > & | ; : , . .. ../ ../../../../evil / // ~ * ? % %s %n {0} $(id) - -- # [ ] { } ( ) =".split(),
    b"",
    b" ",
    b"\t",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\0",
    b"\x1b[2J",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # a surrogate, encoded as UTF-8 does not
    b"\xf4\x90\x80\x80",  # beyond Unicode
    "²".encode(),  # a digit to str.isdigit, not to int
    "٣".encode(),  # a digit to int as well
    "\u2028".encode(),
    "\u202e".encode(),
    "\U0001f600".encode(),
    b"9" * 5000,  # more digits than int converts
    b"0." + b"3" * 5000,
    b"a" * 300,  # longer than a file name may be
    b"../" * 1500,
    b"a/" * 2500,
    b"a" * 100_000,
    b" " * 100_000,
    b"\n" * 20_000,
    b"[" * 50_000,
    b"(" * 50_000,
    b'{"a":' * 20_000,
)
"""What any format may stumble over."""
_WORD = re.compile(rb"""[^\s"',:;|{}\[\]()<>=]+""")
_VALUE = re.compile(rb'"[^"]*"|[-\w.]+')
_INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 62) + 1, (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that neither returned nor raised an error for a person."""

    number: int
    """Of the mutation."""
    what: str
    """In one line; failures with equal lines are one."""
    details: str = ""


def fuzz(
    attempt: Callable[[bytes], object],
    seeds: Sequence[bytes],
    *,
    folder: Path,
    count: int,
    tokens: Sequence[bytes] = (),
    seconds: float = 10.0,
    memory: int = 1 << 30,
) -> None:
    """Try mutations of the seeds, and fail the test if one gets through: see `find_failures`."""
    failures = find_failures(attempt, seeds, folder=folder, count=count, tokens=tokens, seconds=seconds, memory=memory)
    if not failures:
        return
    lines = []
    for failure in failures:
        shown = repr(mutate(seeds, failure.number, tokens))
        shown = shown if len(shown) < 400 else f"{shown[:200]} ... {shown[-200:]}"
        lines.append(f"mutation {failure.number}: {failure.what}\n  {shown}\n{failure.details}")
    pytest.fail(f"{len(failures)} kinds of failures among {count} mutations\n" + "\n".join(lines), pytrace=False)


def find_failures(
    attempt: Callable[[bytes], object],
    seeds: Sequence[bytes],
    *,
    folder: Path,
    count: int,
    tokens: Sequence[bytes] = (),
    seconds: float = 10.0,
    memory: int = 1 << 30,
) -> list[Failure]:
    """Return the first of every kind of failure.

    A mutation fails if its attempt raises anything but ALLOWED, kills the process, needs too much time or memory, or
    changes a file beside `folder`, in which it runs. That memory was short counts also if an allowed error says so.

    Args:
        attempt: what is tried with the mutated bytes. With the seeds themselves it must succeed: so the processes to
            come start with everything loaded. Neither should depend on what an earlier attempt left.
        seeds: valid contents.
        folder: what an attempt may change. Everything else in the folder above is compared after each attempt, so
            there should be little.
        count: of the mutations, whose numbers count from 0.
        tokens: of the format, which are inserted besides TOKENS.
        seconds: of CPU time that an attempt may take; it may last five times that.
        memory: bytes that an attempt may allocate beyond what is loaded.
    """
    for seed in seeds:
        attempt(seed)
    found: dict[str, Failure] = {}
    watched = snapshot(folder.parent, folder)
    start = deaths = 0
    with tempfile.TemporaryFile() as stderr, mmap.mmap(-1, 8) as current:
        while start < count and len(found) < MAX_FAILURES and deaths < MAX_FAILURES:
            stop = min(start + BATCH, count)
            child = _Child(attempt, seeds, tokens, folder, watched, seconds, memory, stderr.fileno(), current)
            failures, ended_by = child.run(range(start, stop))
            if ended_by:
                (stop,) = struct.unpack("<q", current[:])
                stderr.seek(0)
                failures.append(Failure(stop, ended_by, stderr.read().decode(errors="replace")[-2000:]))
                now = snapshot(folder.parent, folder)
                if now != watched and not any(failure.what.startswith(CHANGES) for failure in failures):
                    failures.append(Failure(stop, _changes(watched, now)))
                stop, deaths = stop + 1, deaths + 1
            for failure in failures:
                found.setdefault(failure.what, failure)
            watched, start = snapshot(folder.parent, folder), stop
    return list(found.values())


@dataclass(frozen=True, slots=True)
class _Child:
    """A process that tries mutations one after the other."""

    attempt: Callable[[bytes], object]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    folder: Path
    watched: dict[str, object]
    seconds: float
    memory: int
    stderr: int
    current: mmap.mmap
    """Shared with the parent: the number of the mutation that is being tried."""

    def run(self, numbers: range) -> tuple[list[Failure], str]:
        """Return the failures that the process survived, and why it ended, empty if it was done."""
        os.ftruncate(self.stderr, 0)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            process = os.fork()
        if not process:
            os.close(reading)
            self._try_all(numbers, writing)
        os.close(writing)
        try:
            with open(reading, encoding="utf-8") as lines:
                failures = [Failure(*json.loads(line)) for line in lines if line.endswith("\n")]
            status = os.waitpid(process, 0)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # with what an attempt started
        return failures, self._reason(status)

    def _reason(self, status: int) -> str:
        if os.WIFEXITED(status):
            return "" if os.WEXITSTATUS(status) == DONE else "it ends the process"
        death = signal.Signals(os.WTERMSIG(status))
        if death == signal.SIGPROF:
            return f"it takes more than {self.seconds:g} s of CPU time"
        if death == signal.SIGALRM:
            return f"it is not done after {5 * self.seconds:g} s"
        return f"the process was killed by {death.name}"

    def _try_all(self, numbers: range, writing: int) -> NoReturn:
        code = 1
        try:
            self._confine()
            watched = self.watched
            for number in numbers:
                self.current[:] = struct.pack("<q", number)
                failure = self._try(number)
                if not failure and (now := snapshot(self.folder.parent, self.folder)) != watched:
                    failure, watched = Failure(number, _changes(watched, now)), now
                if failure:
                    os.write(writing, f"{json.dumps([failure.number, failure.what, failure.details])}\n".encode())
            code = DONE
        finally:
            os._exit(code)

    def _confine(self) -> None:
        """Bound the memory, and die of what takes too long."""
        os.setpgid(0, 0)
        os.chdir(self.folder)
        os.dup2(self.stderr, 2)
        faulthandler.enable(self.stderr)
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        used = int(re.search(r"VmData:\s*(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_DATA, (used + self.memory, used + self.memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def _try(self, number: int) -> Failure | None:
        data = mutate(self.seeds, number, self.tokens)
        _set_timers(self.seconds)
        try:
            self.attempt(data)
        except ALLOWED as error:
            is_short = any(isinstance(cause, MemoryError) for cause in _causes(error))
            return Failure(number, "it needs too much memory", _traceback(error)) if is_short else None
        except BaseException as error:  # noqa: BLE001
            return Failure(number, _describe(error), _traceback(error))
        finally:
            _set_timers(0)
        return None


def _set_timers(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 5 * seconds)


def _describe(error: BaseException) -> str:
    """Return the type of an error and the line that raised it: these make a kind of failure."""
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{type(error).__name__} at {Path(own.filename).name}:{own.lineno}"


def _traceback(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(f"    {line[:200]}" for line in lines[-24:])


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def snapshot(root: Path, without: Path | None = None) -> dict[str, object]:
    """Return what `stat` says of every file and folder below a folder; two of them are equal if nothing has changed.

    Args:
        root: the folder.
        without: a folder in it that is left out.
    """
    found: dict[str, object] = {}
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as listing:
            for item in listing:
                if without and item.path == os.fspath(without):
                    continue
                status = item.stat(follow_symlinks=False)
                is_folder = item.is_dir(follow_symlinks=False)
                content = () if is_folder else (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                found[item.path] = (status.st_mode, status.st_uid, *content)
                if is_folder:
                    pending.append(item.path)
    return found


def _changes(before: dict[str, object], after: dict[str, object]) -> str:
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return f"{CHANGES}: {', '.join(names[:5])}"


def mutate(seeds: Sequence[bytes], number: int, tokens: Sequence[bytes] = ()) -> bytes:
    """Return the mutation of some valid contents that has a number: one to four changes of one of them."""
    chance = random.Random(number)
    data = seeds[number % len(seeds)]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        if chance.random() < 0.05:
            data = _splice(data, chance.choice(seeds), chance)
        else:
            data = chance.choice(_MUTATIONS)(data, chance, tokens)
    return data


def named(files: Mapping[str, bytes]) -> list[bytes]:
    """Return files as seeds: each is its name, a NUL and its content."""
    return [name.encode() + b"\0" + content for name, content in files.items()]


def parted(data: bytes, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Return the name and the content of a mutation of what `named` returns. An unknown name is replaced by a known."""
    name, _, content = data.partition(b"\0")
    known = list(files)
    text = name.decode(errors="replace")
    return (text if text in files else known[len(data) % len(known)]), content


def _span(size: int, chance: random.Random) -> tuple[int, int]:
    """Return a random span of `size` bytes, short ones more often than long ones."""
    start = chance.randrange(size + 1)
    return start, min(size, start + int(size ** chance.random()))


def _splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _flip_bit(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _change_bytes(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    start, stop = _span(len(data), chance)
    stop = min(stop, start + 8)
    return data[:start] + chance.randbytes(stop - start) + data[stop:]


def _write_integer(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    size = chance.choice((1, 2, 4, 8))
    value = chance.choice(_INTEGERS) & (1 << 8 * size) - 1
    start = chance.randrange(len(data) + 1)
    return data[:start] + value.to_bytes(size, chance.choice(("little", "big"))) + data[start + size :]


def _truncate(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[place:] if chance.random() < 0.2 else data[:place]


def _delete(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    start, stop = _span(len(data), chance)
    return data[:start] + data[stop:]


def _duplicate(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    start, stop = _span(len(data), chance)
    times = chance.choice((1, 1, 1, 2, 10, 100)) if stop - start < 1000 else 1
    return data[:stop] + times * data[start:stop] + data[stop:]


def _swap(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    (a, b), (c, d) = sorted((_span(len(data), chance), _span(len(data), chance)))
    c = max(b, c)
    d = max(c, d)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _insert_token(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + _token(chance, tokens) + data[place:]


def _replace_word(data: bytes, chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    """Replace a word, a number or a quoted text by a token."""
    window = max(0, chance.randrange(len(data) + 1) - 20)
    match = chance.choice((_WORD, _VALUE)).search(data, window, window + 2000)
    if not match:
        return _insert_token(data, chance, tokens)
    return data[: match.start()] + _token(chance, tokens) + data[match.end() :]


def _token(chance: random.Random, tokens: Sequence[bytes]) -> bytes:
    return chance.choice(tokens) if tokens and chance.random() < 0.5 else chance.choice(TOKENS)


_MUTATIONS = (
    _flip_bit,
    _change_bytes,
    _write_integer,
    _truncate,
    _delete,
    _duplicate,
    _swap,
    _insert_token,
    _replace_word,
    _replace_word,
)
