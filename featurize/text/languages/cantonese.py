"""Cantonese: ToJyutping for the characters, Mandarin's rules for figures. Two phones a character.

An initial and a final with its tone, both with a Y in front, so that they are not Mandarin's. Characters are read as
they are written: simplified ones stand for several (只 for 隻 too), and then the reading of another is found.
"""

from __future__ import annotations

import re

from headrace.featurize.text.languages import chinese_numbers
from headrace.featurize.text.languages.frontend import (
    MARKS,
    Frontend,
    Reading,
    excerpt,
    extra,
    first_marks,
    joined,
    unit,
)
from headrace.store.errors import Rejected

_SYLLABLE = re.compile(
    r"(aa|ai|au|ap|at|ak|a|e|ong|on|ou|oi|ok|o|uk|ung|ng|gw|kw|[pbtdkgfhlmnswczj])([a-z]*)([1-6])", re.ASCII
)
"""What counts as an initial in the symbol table: of a syllable without one, the beginning of its final."""
_UNREAD = re.compile(r"[^\w,.!?…]|[\dA-Za-z_]")  # a dash is no pause here


def normalise(text: str) -> str:
    """Figures in Chinese characters."""
    return chinese_numbers.in_words(text)


def read(text: str) -> Reading:
    with extra("yue"):
        import ToJyutping
    text = _UNREAD.sub("", first_marks(text))
    return joined(unit(char, _phones(char, syllables)) for char, syllables in ToJyutping.get_jyutping_list(text))


def _phones(char: str, syllables: str | None) -> list[str]:
    if char in MARKS:
        return [char]
    phones: list[str] = []
    for syllable in (syllables or "?").split():
        match = _SYLLABLE.fullmatch(syllable)
        if match is None:
            raise Rejected("text", f"{excerpt(char)} has no Cantonese reading")
        initial, final, tone = match.groups()
        phones += [f"Y{initial}", f"Y{final or initial[-1]}{tone}"]
    return phones


FRONTEND = Frontend(
    language="yue",
    scripts=frozenset({"Han"}),
    libraries=("ToJyutping", "cn2an"),
    version=1,
    normalise=normalise,
    read=read,
)
