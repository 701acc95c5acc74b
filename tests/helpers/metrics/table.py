"""The table of all metrics in docs/watching.md."""

from __future__ import annotations

import re
from typing import NamedTuple

from tests.helpers.documentation import ROOT

_ROW = re.compile(r"^\| `(headrace_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
_LABEL = re.compile(r"`(\w+)`")


class Row(NamedTuple):
    """A metric as the page describes it."""

    name: str
    """As its samples are called; of a histogram, without suffix."""
    kind: str
    """gauge, counter or histogram."""
    unit: str
    labels: frozenset[str]
    """Beside `out`."""
    meaning: str


def documented() -> list[Row]:
    """Return the rows of the table."""
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    return [
        Row(name, kind, unit.strip(), frozenset(_LABEL.findall(labels)), meaning.strip())
        for name, kind, unit, labels, meaning in _ROW.findall(page)
    ]
