"""Write numbers in words: cardinals, ordinals, decimals, years, and figures one by one."""

from __future__ import annotations

from functools import lru_cache

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = (("trillion", 10**12), ("billion", 10**9), ("million", 10**6), ("thousand", 1000))
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
             "twelve": "twelfth"}  # fmt: skip
LONGEST = 15
"""Figures of the longest number that is said as one; a longer one is said figure by figure."""


def digits(figures: str) -> str:
    """Write figures one by one, as in a telephone number."""
    return " ".join(_SMALL[int(figure)] for figure in figures)


@lru_cache(maxsize=4096)
def cardinal(figures: str) -> str:
    """Write a whole number, with or without commas: `1,234` is *one thousand two hundred thirty four*."""
    bare = figures.replace(",", "")
    if len(bare) > LONGEST or (len(bare) > 1 and bare[0] == "0"):
        return digits(bare)
    return _below_quadrillion(int(bare))


def _below_quadrillion(number: int) -> str:
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10] + (f" {_SMALL[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = number % 100
        return f"{_SMALL[number // 100]} hundred" + (f" {_below_quadrillion(rest)}" if rest else "")
    name, size = next(scale for scale in _SCALES if number >= scale[1])
    rest = number % size
    return f"{_below_quadrillion(number // size)} {name}" + (f" {_below_quadrillion(rest)}" if rest else "")


def number(figures: str) -> str:
    """Write a whole number or a decimal: `3.14` is *three point one four*."""
    whole, point, rest = figures.partition(".")
    said = cardinal(whole) if whole else ""
    return f"{said} point {digits(rest)}".strip() if point and rest else said


@lru_cache(maxsize=1024)
def ordinal(figures: str) -> str:
    """Write an ordinal: `21` is *twenty first*."""
    *rest, last = cardinal(figures).split()
    regular = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return " ".join((*rest, _ORDINALS.get(last, regular)))


def plural(words: str) -> str:
    """Return the plural of the last word of a number: *nineties*, *thirds*."""
    return words[:-1] + "ies" if words.endswith("y") else words + ("es" if words.endswith("x") else "s")


def pairs(figures: str) -> str:
    """Write three or four figures in pairs: `747` is *seven forty seven*, `1905` is *nineteen oh five*."""
    first, last = figures[:-2], figures[-2:]
    if last == "00":
        return f"{cardinal(first)} hundred"
    return f"{cardinal(first)} {f'oh {cardinal(last[1])}' if last[0] == '0' else cardinal(last)}"


def year(figures: str) -> str:
    """Write a year: `1984` is *nineteen eighty four*, `2005` is *two thousand five*."""
    if len(figures) != 4 or figures[0] == "0" or figures[:3] == "200" or figures[1:] == "000":
        return cardinal(figures)
    return pairs(figures)
