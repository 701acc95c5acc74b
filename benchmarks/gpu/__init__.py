"""All that needs a CUDA device to be measured, in pieces of a few minutes, on one page.

`python -m benchmarks.gpu` runs them, `python -m benchmarks.gpu.pack` brings what a machine without a network lacks.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of figures."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        return f"{self.title}\n\n{report.table(self.head, self.rows)}"

    def to_json(self) -> dict[str, Any]:
        return {"title": self.title, "head": list(self.head), "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and on what is measured."""

    device: str
    """cuda, or cpu to run the same code on a machine without a GPU."""
    small: bool
    """Small inputs and networks, to see that everything runs: the figures mean nothing."""
    folder: Path
    """For files that are needed meanwhile."""
    upstream: str = ""
    """A copy of GPT-SoVITS; empty to leave it out."""
    site: str = ""
    """Folder of packages that it needs and that are not installed."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Something that is measured in one go."""

    name: str
    measures: str
    """What, in words."""
    run: Callable[[Bench], Iterable[Table]]
    """Gives a table as soon as it is measured, and again, with the same title, when there are more rows."""


class OutOfTime(BaseException):
    """A piece took as long as it may. No handler of other errors catches it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in this context when so many seconds have passed. For the main thread of a POSIX system."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Page:
    """The results of one card, as JSON and as one Markdown page. Every piece replaces its own part."""

    def __init__(self, card: str, small: bool, folder: Path = report.RESULTS) -> None:
        name = "gpu-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") + ("-small" if small else "")
        self.card, self.small = card, small
        self.json, self.markdown = folder / f"{name}.json", folder / f"{name}.md"

    def read(self) -> dict[str, Any]:
        """Return the parts that are there, by piece."""
        found: dict[str, Any] = json.loads(self.json.read_text())["pieces"] if self.json.exists() else {}
        return found

    def add(self, piece: Piece, tables: Sequence[Table], seconds: float, ended: str = "") -> None:
        """Replace the part of a piece, and write both files.

        Args:
            ended: why there are no more tables; empty if there are all.
        """
        of_piece = {"seconds": seconds, "ended": ended, "tables": [table.to_json() for table in tables]}
        self._write({**self.read(), piece.name: of_piece})

    def _write(self, parts: Mapping[str, Any]) -> None:
        from benchmarks.gpu.pieces import PIECES

        where = report.machine()
        lines = [f"# {self.card}", ", ".join(f"{key} {value}" for key, value in where.items())]
        if self.small:
            lines.append("Small inputs, to see that everything runs: these figures mean nothing.")
        for piece in PIECES:
            part = parts.get(piece.name)
            lines.append(f"## {piece.measures[0].upper()}{piece.measures[1:]}")
            lines += [Table(**table).markdown() for table in part["tables"]] if part else ["Not measured."]
            lines += [f"Not all: {part['ended']}."] if part and part["ended"] else []
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps({"card": self.card, "machine": where, "pieces": parts}, indent=2) + "\n")
        self.markdown.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
