"""Tell from its context whether a word is a verb, and whether a verb is in the past.

Two linear classifiers over the words around: their forms, their endings, and the class of those that only join others
(articles, pronouns, prepositions, auxiliaries). `benchmarks.text.word_class` learns their weights and says from what.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

_CLASSES = {
    "determiner": "a an the this that these those some any no every each another either neither such what which whose",
    "possessive": "my your his her its our their one's",
    "subject": "i you he she it we they who there",
    "object": "me him them us myself yourself himself herself itself ourselves themselves",
    "third": "he she it this that",
    "plural": "i you we they these those people",
    "modal": "can could will would shall should may might must can't couldn't won't wouldn't shouldn't mustn't cannot "
    "i'll you'll he'll she'll it'll we'll they'll i'd you'd he'd she'd we'd they'd let's gonna",
    "be": "am is are was were be been being isn't aren't wasn't weren't i'm you're he's she's it's we're they're",
    "have": "have has had having haven't hasn't hadn't i've you've we've they've",
    "do": "do does did don't doesn't didn't",
    "to": "to",
    "preposition": "of in on at by for from with without into onto upon over under between among through during after "
    "before against about like as than per via across along behind beyond near off out since until within toward "
    "towards despite except",
    "conjunction": "and or but nor so because if when while although though unless whether where",
    "adverb": "not never always often usually also just only still soon then now ever rarely seldom sometimes even "
    "already really simply please n't together almost again",
    "degree": "very too so more most less as quite rather",
    "number": "one two three four five six seven eight nine ten hundred thousand million many few several both all",
    "past": "yesterday ago last earlier once was were had did said went came took got made told saw gave",
    "present": "today now every usually often always tomorrow will daily sometimes",
}
_SKIPPED = frozenset(_CLASSES["adverb"].split())
_SAME_IN_PAST = frozenset("read put let set cut hit hurt cost shut quit spread split".split())
"""Verbs that are written alike in the present and in the past."""
SCALE = 16
"""Weights are written as integers of so many to 1."""


@cache
def _word_classes() -> dict[str, tuple[str, ...]]:
    classes: dict[str, tuple[str, ...]] = {}
    for name, words in _CLASSES.items():
        for word in words.split():
            classes[word] = (*classes.get(word, ()), name)
    return classes


def features(words: Sequence[str], place: int) -> Iterator[str]:
    """Yield the names of what is seen around a word.

    Args:
        words: words and marks of a text, in small letters but for names.
        place: index of the word among them.
    """
    classes = _word_classes()
    at = words[place].lower()
    flag = "s" if at.endswith("s") else "-"
    before = [words[place - back] if place >= back else "^" for back in (1, 2, 3)]
    after = [words[place + ahead] if place + ahead < len(words) else "$" for ahead in (1, 2)]
    left, right = before[0].lower(), after[0].lower()
    yield f"w {at}"
    yield f"{flag}"
    yield f"w {at} l {left}"
    yield f"w {at} r {right}"
    for side, word in (("l", before[0]), ("r", after[0]), ("ll", before[1]), ("rr", after[1])):
        lower = word.lower()
        yield f"{flag}{side} {lower}"
        yield f"{flag}{side}* {lower[-3:]}"
        yield f"{flag}{side}* {lower[-2:]}"
        yield from (f"{flag}{side}: {name}" for name in classes.get(lower, ("name",) if word[:1].isupper() else ()))
    yield f"{flag}lr {_first(classes, before[0])} {_first(classes, after[0])}"
    yield f"{flag}ll {_first(classes, before[1])} {_first(classes, before[0])}"
    yield f"{flag}rr {_first(classes, after[0])} {_first(classes, after[1])}"
    near = next((word for word in before if word.lower() not in _SKIPPED and not word.endswith("ly")), "^")
    yield f"{flag}near {near.lower()}"
    yield f"{flag}near: {_first(classes, near)}"


def _first(classes: dict[str, tuple[str, ...]], word: str) -> str:
    lower = word.lower()
    if lower in classes:
        return classes[lower][0]
    return lower if not lower.isalpha() else "name" if word[:1].isupper() else lower[-2:]


def time_features(words: Sequence[str], place: int) -> Iterator[str]:
    """Yield what is seen of a verb, and the words of its whole sentence that tell a time."""
    own = words[place].lower() in _SAME_IN_PAST
    yield from (name for name in features(words, place) if own or not name.startswith("w "))
    classes = _word_classes()
    for word in words:
        lower = word.lower()
        for name in classes.get(lower, ()):
            if name in ("past", "present"):
                yield f"any {lower}"
                yield f"any: {name}"
        if lower.endswith("ed"):
            yield "any: ed"


@cache
def _weights() -> tuple[dict[str, int], dict[str, int]]:
    """Load the weights of both classifiers: of being a verb, and of the past."""
    packed = resources.files(__package__).joinpath("word_class.txt.gz").read_bytes()
    verb: dict[str, int] = {}
    past: dict[str, int] = {}
    for line in gzip.decompress(packed).decode().splitlines():
        which, weight, name = line.split("\t")
        (verb if which == "verb" else past)[name] = int(weight)
    return verb, past


def verb_score(words: Sequence[str], place: int) -> int:
    """Return a number above zero if a word is a verb in its context, else one below."""
    weights = _weights()[0]
    return sum(weights.get(name, 0) for name in features(words, place))


def past_score(words: Sequence[str], place: int) -> int:
    """Return a number above zero if a verb is in the past or a participle of it, else one below."""
    weights = _weights()[1]
    return sum(weights.get(name, 0) for name in time_features(words, place))


def is_auxiliary(word: str) -> bool:
    """Return whether a word only joins others, as articles and auxiliaries do."""
    return word.lower() in _word_classes()
