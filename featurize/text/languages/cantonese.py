"""Read Cantonese: ToJyutping for the characters, Mandarin's rules for numbers. Two phones per character.

The phones are an initial and a final with its tone, both prefixed with Y to tell them from Mandarin's. Characters are
read as written: a simplified one may stand for several (只 also for 隻) and then gets the reading of another.
"""

from __future__ import annotations

import re

from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    optional_dependencies,
    token,
)
from headrace.featurize.text.languages.sinitic import figures, signs
from headrace.store.errors import Rejected

_SYLLABLE = re.compile(
    r"(aa|ai|au|ap|at|ak|a|e|ong|on|ou|oi|ok|o|uk|ung|ng|gw|kw|[pbtdkgfhlmnswczj])([a-z]*)([1-6])", re.ASCII
)
"""A syllable of Jyutping: initial, final, tone. Without an initial, the symbol table takes the start of the final."""
_SAID = re.compile(r"[^\W\dA-Za-z_]|[,.!?…]")


def normalise(text: str) -> str:
    """Write figures and signs in Chinese characters."""
    return signs.write_out(figures.verbalise(text, one="一", dollar="元"))


def read(text: str) -> Reading:
    """Convert normalised Cantonese to phones."""
    with optional_dependencies("yue"):
        import ToJyutping
    text = normalise_marks(signs.keep_said(normalise_marks(text), _SAID, "Cantonese"))
    return concatenate(token(char, _phones(char, syllables)) for char, syllables in ToJyutping.get_jyutping_list(text))


def _phones(char: str, syllables: str | None) -> list[str]:
    """Return the phones of a character whose Jyutping is `syllables`."""
    if char in PUNCTUATION:
        return [char]
    phones: list[str] = []
    for syllable in (syllables or "?").split():
        match = _SYLLABLE.fullmatch(syllable)
        if match is None:
            raise Rejected("text", f"{excerpt(char)} has no Cantonese reading")
        initial, final, tone = match.groups()
        phones += [f"Y{initial}", f"Y{final or initial[-1]}{tone}"]
    return phones


def syllable_phones(syllable: str) -> tuple[str, ...]:
    """Return the phones of a syllable in jyutping. Raises Rejected if it is none."""
    return tuple(_phones(syllable, syllable))


FRONTEND = Frontend(
    language="yue",
    scripts=frozenset({"Han"}),
    libraries=("ToJyutping",),
    version=4,
    normalise=normalise,
    read=read,
)
