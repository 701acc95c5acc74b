"""Read characters of several readings by their context, where the dictionary of phrases does not tell.

The contexts are in `polyphone_contexts.txt`; 地 and 得 beside verbs are told by parts of speech.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

from headrace.featurize.text.languages.sinitic.segmentation import Word

_CLASSES = {
    "{N}": "[零一二两三四五六七八九十百千万亿几数半]",
    "{U}": "(?:公分|厘米|毫米|公里|千米|英里|海里|英尺|英寸|米|尺|寸|丈|里)",
    "{P}": "[我你您他她它咱们谁人]",
    "{E}": "(?=[,.!?…]|$)",
}
_DESCRIBING = frozenset("a ad an d i l v vn vi z b".split())
"""Parts of speech, as jieba tags them, of what says how something is done before 地."""


def readings(text: str, words: Sequence[Word]) -> dict[int, str]:
    """Return the syllables of those characters whose context tells them, by their index in the text.

    Args:
        text: up to a mark.
        words: of the text, in order, with their parts of speech.
    """
    found: dict[int, str] = {}
    contexts = _contexts()
    for char in contexts.keys() & set(text):
        pattern, syllables = contexts[char]
        for match in pattern.finditer(text):
            found[match.start()] = syllables[(match.lastindex or 1) - 1]
    if "地" in text:
        found |= dict.fromkeys(_particles(words), "de5")
    return found


def _particles(words: Sequence[Word]) -> Iterator[int]:
    """Yield the indices of 地 after what says how something is done: 高兴地笑, 慢慢地."""
    start, before = 0, Word("", "")
    for word in words:
        if word.text == "地" and before.pos in _DESCRIBING and len(before.text) > 1:
            yield start
        elif word.text[-1] == "地" and len(word.text) > 2 and word.pos in ("d", "z", "ad"):
            yield start + len(word.text) - 1
        start += len(word.text)
        before = word


@cache
def _contexts() -> dict[str, tuple[re.Pattern[str], list[str]]]:
    """Load the contexts: by character, a pattern with a group for each reading, and the readings."""
    lines = resources.files("headrace.featurize.text.languages.sinitic").joinpath("polyphone_contexts.txt")
    groups: dict[str, list[tuple[str, str]]] = {}
    for line in lines.read_text(encoding="utf-8").splitlines():
        if line and line[0] != "#":
            char, syllable, *contexts = line.split(" ")
            either = "|".join(context.replace("~", char) for context in contexts)
            for name, pattern in _CLASSES.items():
                either = either.replace(name, pattern)
            groups.setdefault(char, []).append((syllable, either))
    return {
        char: (re.compile("|".join(f"({either})" for _, either in given)), [syllable for syllable, _ in given])
        for char, given in groups.items()
    }
