"""Sentences with figures and signs, and how they are said: tables beside this module, one a language."""

from __future__ import annotations

from pathlib import Path

from headrace.featurize.text import g2p
from headrace.store.errors import Rejected

TABLES = Path(__file__).parent / "spoken"
REFUSED = "refused: "


def misread(table: str) -> list[str]:
    """Return the lines of a table that are read otherwise than it says, each with what is read.

    A line holds a kind, a text, and the normalised text, or what is refused in it and named in the reason. In the table
    of all other languages the language stands in place of the kind.
    """
    wrong = []
    for line in (TABLES / f"{table}.tsv").read_text(encoding="utf-8").splitlines():
        kind, written, right = line.split("\t")
        try:
            said = g2p.phonemise(written, kind if table == "languages" else table).text
        except Rejected as error:
            said = (
                f"{REFUSED}{right.removeprefix(REFUSED)}" if right.removeprefix(REFUSED) in str(error) else str(error)
            )
        if said != right:
            wrong.append(f"{line}\t{said}")
    return wrong
