"""Rewrite a text by rules, one after the other: a pattern, and what is said where it is found."""

from __future__ import annotations

import re
from collections.abc import Callable

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def compile_rule(pattern: str) -> re.Pattern[str]:
    r"""Compile a pattern whose `\d` stands for the digits 0 to 9: a cleaned text has no others.

    `re` tries a set of characters in half the time of a category of Unicode, and rules try it at every character.
    """
    written, in_set, at = "", False, 0
    while at < len(pattern):
        token = pattern[at : at + 2] if pattern[at] == "\\" else pattern[at]
        if token == r"\d":
            written += "0-9" if in_set else "[0-9]"
        else:
            if token == "[" and not in_set:
                in_set, token = True, _SET_BEGINS.match(pattern, at)[0]  # type: ignore[index]
            elif token == "]":
                in_set = False
            written += token
        at += len(token)
    return re.compile(written)


_SET_BEGINS = re.compile(r"\[\^?\]?")
FIGURE = compile_rule(r"\d")


class Guarded:
    """A pattern with a guard: a simpler one, found in every text that the pattern is found in.

    `re` searches fast for a pattern whose first character is one of a few. It tries an assertion, such as one on what
    may not stand before, at every character of a text: 45 rules took most of the time of reading a sentence. In a
    guard `\\s` is a space: a cleaned text has no other.
    """

    __slots__ = ("guard", "pattern")

    def __init__(self, guard: str, pattern: str) -> None:
        self.guard, self.pattern = compile_rule(guard.replace(r"\s", " ")), compile_rule(pattern)

    def sub(self, said: str | Callable[[re.Match[str]], str], text: str) -> str:
        """Return a text in which what the pattern matches is replaced."""
        return self.pattern.sub(said, text) if self.guard.search(text) else text


VULGAR_FRACTIONS = {
    **dict(zip("½⅓⅔¼¾⅕⅖⅗⅘", "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5".split(), strict=True)),
    **dict(zip("⅙⅚⅛⅜⅝⅞", "1/6 5/6 1/8 3/8 5/8 7/8".split(), strict=True)),
}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
ROMAN_LETTERS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
ROMAN_NUMERALS = {
    roman: value
    for value, roman in enumerate(
        "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX XXI".split(), 1
    )
}


def rules(*given: tuple[str, str | Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    """Compile rules: patterns, and what each is replaced by."""
    return tuple((compile_rule(pattern), said) for pattern, said in given)


def rewrite(text: str, *given: tuple[Rule, ...]) -> str:
    """Apply groups of rules to a text, in order."""
    for group in given:
        for pattern, said in group:
            text = pattern.sub(said, text)
    return text


def mark_inches(text: str) -> str:
    """Return a text of words with spaces between them whose quotes behind figures are ″ unless they end a quotation."""
    marked, opened = list(text), 0
    for place, char in enumerate(text):
        if char == '"':
            before = text[place - 1] if place else " "
            if before.isspace() or before in "([{—–":
                opened += 1
            elif before.isdigit() and not opened:
                marked[place] = "″"
            else:
                opened = max(0, opened - 1)
    return "".join(marked)


def is_day(month: int, day: int, before: re.Match[str] | None = None) -> bool:
    """Return whether two numbers that a slash joins are a month and its day rather than a fraction.

    They are if the second is more than twelve or the fraction would be improper, unless what stands before them says
    that they are a share.
    """
    return 1 <= month <= 12 and 1 <= day <= 31 and (day > 12 or month >= day) and before is None


def is_span(groups: str) -> bool:
    """Return whether two groups of four figures are years or round numbers that a hyphen joins, not a telephone's."""
    first, last = groups[:4], groups[5:]
    is_period = "1700" <= first < last < "2100"
    return len(groups) == 9 and last.isdigit() and (is_period or first[2:] == last[2:] == "00")
