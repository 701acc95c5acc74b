"""Write numbers in Chinese characters."""

from __future__ import annotations

from decimal import Decimal

_DIGITS = "零一二三四五六七八九"
_PLACES = ("", "十", "百", "千")
_GROUPS = ("", "万", "亿", "万亿")
MAX_FIGURES = 16
"""A longer number is read digit by digit."""


def read_digits(figures: str) -> str:
    """Read digits one by one."""
    return "".join(_DIGITS[int(figure)] for figure in figures)


def read_number(figures: str) -> str:
    """Read a cardinal number; decimals are read one by one, and so is a number that begins with a needless zero."""
    whole, _, decimals = figures.partition(".")
    listed = len(whole) > MAX_FIGURES or (len(whole) > 1 and whole[0] == "0")
    said = read_digits(whole) if listed else _read_whole(int(whole or "0"))
    return f"{said}点{read_digits(decimals)}" if decimals else said


def multiply(figures: str, factor: int) -> str:
    """Return a decimal number times a power of ten, in digits."""
    return f"{(Decimal(figures) * factor).normalize():f}"


def _read_whole(number: int) -> str:
    """Read a whole number: two at its beginning is 两 before thousands and what is greater, ten is 十 and not 一十."""
    if number == 0:
        return "零"
    said = ""
    for power in range(len(_GROUPS) - 1, -1, -1):
        group = number // 10 ** (4 * power) % 10_000
        if group:
            said += ("零" if said and group < 1000 else "") + _read_group(group) + _GROUPS[power]
    if power_of_ten := said.startswith("一十"):
        said = said[power_of_ten:]
    first_of_many = said[0] == "二" and said[1:2] in ("千", "万", "亿")
    return "两" + said[1:] if first_of_many else said


def _read_group(number: int) -> str:
    """Read a number of at most four figures."""
    said, gap = "", False
    for place in (3, 2, 1, 0):
        figure = number // 10**place % 10
        if figure:
            said += ("零" if gap and said else "") + _DIGITS[figure] + _PLACES[place]
        gap = not figure
    return said
