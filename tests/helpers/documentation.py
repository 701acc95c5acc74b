"""The pages of the documentation, and the fenced blocks in them.

A block is tagged by its language. HTML comments directly before it, which no page shows, tell the tests what to do:

    <!-- not run: REASON -->       why this `sh` or `python` block is not run
    <!-- makes: PATH PATH -->      files or folders that are there, and not empty, after it
    <!-- prints: TEXT | TEXT -->   what it prints, on stdout or stderr
    <!-- file: NAME -->            the block is saved as this file, for the blocks that follow
    <!-- page starts without: NAME NAME -->    anywhere on a page: what its first block makes itself
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
LANGUAGES = (*RUN, "toml", "yaml", "text")

_FENCE = re.compile(r"^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_COMMENTS = re.compile(r"(?:^<!--[^\n]*-->\n)*\Z", re.MULTILINE)
_COMMENT = re.compile(r"<!-- *(?P<key>[a-z ]+): *(?P<value>.*?) *-->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    directives: dict[str, str]

    @property
    def reason(self) -> str | None:
        """Why it is not run; None if it is."""
        return self.directives.get("not run")

    @property
    def makes(self) -> list[str]:
        return self.directives.get("makes", "").split()

    @property
    def prints(self) -> list[str]:
        return [text.strip() for text in self.directives.get("prints", "").split("|") if text.strip()]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Return the pages of the documentation, as paths relative to the checkout."""
    top = [name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md") if (ROOT / name).exists()]
    return top + sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    text = read(page)
    return [
        Block(
            page=page,
            line=text.count("\n", 0, fence.start()) + 1,
            language=fence["language"],
            text=fence["text"],
            directives=_directives(text[: fence.start()]),
        )
        for fence in _FENCE.finditer(text)
    ]


def starts_without(page: str) -> list[str]:
    """Return the names in the prepared folder that this page makes itself."""
    found = re.search(r"<!-- page starts without: (.*?) -->", read(page))
    return found[1].split() if found else []


def prose(page: str) -> str:
    """Return the text of a page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def _directives(before: str) -> dict[str, str]:
    comments = _COMMENTS.search(before)
    assert comments is not None
    return {found["key"]: found["value"] for found in _COMMENT.finditer(comments[0])}
