"""Tell apart the readings of words whose meaning decides, not their part of speech, by the words around them.

A row of `senses.txt` names a word, a reading that is not the usual one, and what calls for it: `near` words anywhere in
the sentence, `before` or `after` words next to it. All of its conditions hold. `verb` or `noun` restricts the row to
a part of speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from headrace.featurize.text.languages.english import word_class


@dataclass(frozen=True, slots=True)
class _Sense:
    """A reading and what calls for it."""

    phones: tuple[str, ...]
    part: str
    conditions: dict[str, frozenset[str]] = field(default_factory=dict)


def read(words: Sequence[str], place: int) -> tuple[str, ...] | None:
    """Return the reading of a word that its neighbours call for; None if they call for none."""
    senses = _senses().get(words[place].lower())
    if senses is None:
        return None
    before = words[place - 1].lower() if place else "^"
    after = words[place + 1].lower() if place + 1 < len(words) else "$"
    for sense in senses:
        seen = sense.conditions
        if "before" in seen and before not in seen["before"]:
            continue
        if "after" in seen and after not in seen["after"]:
            continue
        if "near" in seen and seen["near"].isdisjoint(word.lower() for word in words):
            continue
        if not sense.part or (word_class.verb_score(words, place) > 0) == (sense.part == "verb"):
            return sense.phones
    return None


@cache
def _senses() -> dict[str, list[_Sense]]:
    found: dict[str, list[_Sense]] = {}
    for row in resources.files(__package__).joinpath("senses.txt").read_text(encoding="utf-8").splitlines():
        head, part, *conditions = (cell.strip() for cell in row.split("|"))
        word, _, phones = head.partition(" = ")
        named = {kind: frozenset(words.split()) for kind, _, words in (text.partition(" ") for text in conditions)}
        found.setdefault(word, []).append(_Sense(tuple(phones.split()), part, named))
    return found


def words() -> frozenset[str]:
    """Return the words that have such readings."""
    return frozenset(_senses())
