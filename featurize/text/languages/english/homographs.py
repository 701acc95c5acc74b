"""Read homographs, words that are written alike and said otherwise, by their context.

`homographs.txt` has the words whose part of speech decides, each with its reading as a verb and its other one. Those
of upstream's list (g2p_en, 379 words) are among them where two readings exist; both are CMUdict's where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

from headrace.featurize.text.languages.english import senses, word_class

Phones = tuple[str, ...]

_USED, _USED_TO = ("Y", "UW1", "Z", "D"), ("Y", "UW1", "S", "T")
_USE_TO = ("Y", "UW1", "S")
_READ, _READ_PAST = ("R", "IY1", "D"), ("R", "EH1", "D")
_BE = frozenset(
    "am is are was were be been being isn't aren't wasn't weren't i'm you're he's she's it's we're they're".split()
)
_HAVE = frozenset("have has had having haven't hasn't hadn't i've you've we've they've".split())
_DO = frozenset("do does did don't doesn't didn't to please let's".split()) | frozenset(
    "can could will would shall should may might must can't couldn't won't wouldn't shouldn't mustn't cannot i'll "
    "you'll he'll she'll it'll we'll they'll i'd you'd he'd she'd we'd they'd".split()
)
_SKIPPED = frozenset(
    "not never always often already just also only still ever even really simply n't once recently both".split()
)
_SINGULAR = frozenset("he she it who nobody somebody everyone someone everybody anyone".split())
_PRONOUNS = frozenset("i you he she it we they".split())
_REPEATED = frozenset(
    "every always usually often sometimes daily tomorrow tonight rarely seldom nowadays whenever now".split()
)
_PAST_TIMES = frozenset(
    "yesterday ago last earlier once when after before then was were had did that in about somewhere".split()
)
_OBJECTS = frozenset("a an the this these those every each my your his her its our their me him them us it".split())
_PATTERN = 6 * word_class.SCALE
_PLACES_BEFORE = frozenset("in to from near at through of around outside".split())


def read(words: Sequence[str], place: int) -> Phones | None:
    """Return the phones of a homograph in its context; None if a word is none.

    Args:
        words: words and marks of a text.
        place: index of the word among them.
    """
    word = words[place]
    if not is_one(word):
        return None
    lower = word.lower()
    if lower == "read":
        return _READ_PAST if _is_past(words, place) else _READ
    if lower in ("used", "use"):
        return _use(words, place)
    if word[:1].isupper() and lower in _NAMES:
        return _name(words, place)
    called_for = senses.read(words, place)
    if called_for is not None:
        return called_for
    verb_and_other = _table().get(lower)
    if verb_and_other is None:
        return None
    return verb_and_other[0 if is_verb(words, place) else 1]


def is_one(word: str) -> bool:
    """Return whether a word is written as another one that is said otherwise."""
    return word.lower() in _known()


def is_verb(words: Sequence[str], place: int) -> bool:
    """Return whether a homograph is a verb: what the classifier finds, and two patterns that it knows too little of.

    A verb has an object, as in *the device records every sound*, or a plural before it, as in *ships transport grain*.
    """
    score = word_class.verb_score(words, place)
    before = words[place - 1].lower() if place else ""
    after = words[place + 1].lower() if place + 1 < len(words) else ""
    plural = before.endswith("s") and before.isalpha() and not before.endswith(("ss", "us", "is"))
    if after in _OBJECTS and before.isalpha() and not word_class.is_auxiliary(before):
        score += _PATTERN
    if plural and not word_class.is_auxiliary(before) and not words[place].endswith("s"):
        ahead = words[place - 2].lower() if place > 1 else ""
        score += _PATTERN if word_class.is_auxiliary(ahead) or not ahead[:1].isalpha() else _PATTERN // 2
    return score > 0


@cache
def _table() -> dict[str, tuple[Phones, Phones]]:
    """Load the words whose part of speech decides: their readings as a verb, and otherwise."""
    lines = resources.files(__package__).joinpath("homographs.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return {word: (tuple(verb.split()), tuple(other.split())) for word, verb, other in rows}


@cache
def _known() -> frozenset[str]:
    return frozenset({*_table(), *senses.words(), *_NAMES, "read", "use", "used"})


_NAMES = {
    "polish": (tuple("P OW1 L IH0 SH".split()), tuple("P AA1 L IH0 SH".split())),
    "nice": (tuple("N IY1 S".split()), tuple("N AY1 S".split())),
    "reading": (tuple("R EH1 D IH0 NG".split()), tuple("R IY1 D IH0 NG".split())),
    "august": (tuple("AA1 G AH0 S T".split()), tuple("AO0 G AH1 S T".split())),
    "job": (tuple("JH OW1 B".split()), tuple("JH AA1 B".split())),
}
"""Words that a capital makes names: as a name, and otherwise."""


def _name(words: Sequence[str], place: int) -> Phones:
    """Return the phones of a word with a capital that may be a name."""
    name, otherwise = _NAMES[words[place].lower()]
    before = words[place - 1] if place else ""
    after = words[place + 1].lower() if place + 1 < len(words) else ""
    if words[place].lower() == "august":
        return name
    if words[place].lower() == "polish":
        begins = not before[:1].isalnum()
        imperative = word_class.verb_score([*words[:place], "clean", *words[place + 1 :]], place) > 0
        return otherwise if begins and imperative and after not in ("is", "was", "people") else name
    if not before[:1].isalpha() or before.lower() not in _PLACES_BEFORE:
        return otherwise
    return otherwise if words[place].lower() == "job" and before != "of" else name


def _use(words: Sequence[str], place: int) -> Phones | None:
    """Return the phones of *used* and *use*, of which the habit *used to* has its own."""
    before = _before(words, place)
    to = words[place + 1 : place + 2] == ["to"]
    then = words[place + 2].lower() if place + 2 < len(words) else ""
    if words[place].lower() == "use":
        if (
            to
            and before in ("didn't", "did", "you", "he", "she", "they", "we", "it")
            and "did" in " ".join(words).lower()
        ):
            return _USE_TO
        return _table()["use"][0 if is_verb(words, place) else 1]
    if not to:
        return _USED
    if before in _BE or before == "be":
        verb = word_class.verb_score(words, place + 2) > 0 if then.isalpha() else False
        return _USED if verb and not then.endswith("ing") and not word_class.is_auxiliary(then) else _USED_TO
    return _USED_TO


def _before(words: Sequence[str], place: int) -> str:
    """Return the nearest word before a place that is no adverb, in small letters; empty at the beginning."""
    for word in reversed(words[:place]):
        lower = word.lower()
        if lower not in _SKIPPED and not (lower.endswith("ly") and len(lower) > 4):
            return lower
    return ""


def _is_past(words: Sequence[str], place: int) -> bool:
    """Return whether *read* is the past or its participle."""
    before = _before(words, place)
    lower = [word.lower() for word in words]
    if before in _HAVE or before in _BE or before.endswith(("'s", "'ve")):
        return True
    if before in _DO or not _DO.isdisjoint(lower[max(0, place - 2) : place]):
        return _inverted_have(lower, place)
    if _inverted_have(lower, place):
        return True
    if before in ("a", "the", "good", "great", "interesting", "quick", "easy", "must", "long"):
        return False
    if before in _SINGULAR or _is_singular_noun(words, place):
        return True
    if before in _PRONOUNS:
        if not _REPEATED.isdisjoint(lower):
            return False
        if not _PAST_TIMES.isdisjoint(lower):
            return True
    return word_class.past_score(words, place) > 0


def _inverted_have(lower: Sequence[str], place: int) -> bool:
    """Return whether an auxiliary stands before a subject, as in *have you ever read*; those of *do* deny it."""
    for word in reversed(lower[max(0, place - 5) : place]):
        if word in _HAVE or word in ("was", "were", "is", "are"):
            return True
        if word in _DO or not word[:1].isalpha():
            return False
    return False


def _is_singular_noun(words: Sequence[str], place: int) -> bool:
    """Return whether the subject before a verb is one person or thing: *the teacher read*, *Anna read*."""
    if not place or _before(words, place) in _PRONOUNS or not words[place - 1][:1].isalpha():
        return False
    subject = next((w for w in reversed(words[:place]) if w.lower() not in _SKIPPED and not w.endswith("ly")), "")
    if word_class.is_auxiliary(subject) or subject.lower() == "to":
        return False
    return len(subject) > 2 and not subject.endswith("s") and subject not in ("people", "children", "men", "women")
