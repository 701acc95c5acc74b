"""Write English dates, times of day, years and decades in words."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.english.abbreviations import DAYS
from headrace.featurize.text.languages.english.number_words import cardinal, ordinal, plural, year
from headrace.featurize.text.languages.rewriting import FIGURE, Guarded

MONTHS = "January February March April May June July August September October November December".split()
_SHORT = {name[:3]: name for name in MONTHS} | {"Sept": "September"}
_MONTH = "|".join([*MONTHS, *(rf"{short}\b\.?" for short in _SHORT)])

_ANY_MONTH = re.compile("|".join(_SHORT))

_ISO = Guarded(
    r"\d{4}[-/.]\d", r"(?<![\d/.-])(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(T(?=\d))?(?![\d/-])"
)
_NUMERIC = Guarded(r"\d[/.-]\d{1,2}[/.-]\d", r"(?<![\d/.-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d\d)(?![\d/-]|\.\d)")
_MONTH_DAY = Guarded(
    rf"(?:{_MONTH})\s+\d",
    rf"\b({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?(?![\d:%]|[.,]\d)(?:(,?)\s+(\d{{4}})(?![\d,.]\d|\d))?",
)
_DAY_MONTH = Guarded(
    rf"\d(?:st|nd|rd|th)?(?: of)? (?:{_MONTH})",
    rf"(?<![\d.,:/$€£-])(\b[Tt]he )?\b(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})(?![a-z])"
    rf"(?:,? (\d{{4}})(?!\d|[,.]\d))?",
)
_MONTH_YEAR = Guarded(rf"(?:{_MONTH}),? \d", rf"\b({_MONTH}),? (\d{{4}})(?!\d|[.,]\d)")
_SHORT_DATE = Guarded(
    r"\d/\d", r"\b(on|by|until|before|after|since|dated) (1[0-2]|0?[1-9])/(3[01]|[12]\d|0?[1-9])(?![\d/])"
)

_DECADE = Guarded(r"0['’]?s", r"(?<![\d.,/])['’]?((?:1\d|20)?\d0)['’]?s\b(?!/)")
_YEAR_SPAN = Guarded(
    r"\d\s?[-–—]\s?\d", r"(?<![\d.,/-])(1[1-9]\d\d|20\d\d)\s?[-–—]\s?(1[1-9]\d\d|20\d\d|\d\d)(?![\d%]|[.,/-]\d)"
)
_SEASON = Guarded(r"\d/\d", r"(?<![\d.,/-])(19\d\d|20\d\d)/(\d\d)(?![\d/])")
_EARLY_YEAR = Guarded(
    r" (?:10[1-9]\d|[4-9]\d\d (?:AD|BC|CE))",
    r"\b(in|In|year|since|Since|until|by|from|of) (10[1-9]\d|[4-9]\d\d(?= (?:AD|BC|CE)))\b(?![.,:%/-]?\d)",
)
_LATE_YEAR = Guarded(r"year 2[1-9]", r"\b([Yy]ear) (2[1-9]\d\d)\b(?![.,:%/-]?\d)")
_NAMES = DAYS | _SHORT
_NAMED_SPAN = Guarded(r"[-–—]\s?[A-Z][a-z]{2}", rf"\b({'|'.join(_NAMES)})\.?\s?[-–—]\s?({'|'.join(_NAMES)})\b\.?")
_SHORT_YEAR = Guarded(r"['’]\d\d", r"(?<!\w)['’](\d\d)(?![\d'’\"])")
_ERA = Guarded(r"BC|CE|AD|B\.C|A\.D", r"(?<![\d.,])(\d{1,4})\s?(BCE?|CE|AD|B\.C\.|A\.D\.)(?!\w)|\bAD (\d{1,4})(?!\d)")
_YEAR = Guarded(
    r"(?:1[1-9]|20)\d\d", r"(?<![\d.,/:$€£#+=*×÷^-])\b(1[1-9]\d\d|20\d\d)\b(?![%°²³^/]|[.,:]\d|['’]?[a-zA-Z]|-\d)"
)
_COUNTED = re.compile(
    r"\s?(?:people|percent|men|women|children|feet|points?|times|hundred|thousand|million|of\b|or so|more|"
    r"(?!was|is|has|his|this|as|its|us|thus|always|does|perhaps|unless|plus|across|towards|yes|versus|besides)"
    r"\w+[^s\W]s\b|"
    r"[-+=*×÷]|[A-Za-z]{1,3}/)"
)

_CLOCK = Guarded(
    r"\d:[0-5]\d",
    r"(?<![\d:.,])(\d|[01]\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])(?:\s?([AaPp])\.?[Mm]\b(\.(?!\s*[A-Z]|\s*$))?)?",
)
_CLOCK_SPAN = Guarded(
    r"\d(?:\s?[AaPp]\.?[Mm]\.?)?\s?[-–—]\s?\d",
    r"(?<![\d.,:/-])(\d{1,2}(?::\d\d)?(?:\s?[AaPp]\.?[Mm]\.?)?)\s?[-–—]\s?"
    r"(?=\d{1,2}(?::\d\d|(?::\d\d)?\s?[AaPp]\.?[Mm]\b))",
)
_HALF_DAY = Guarded(
    r"\d\s?[AaPp]\.?[Mm]",
    r"(?<![\d:.,])(\d{1,2})\s?(?:([ap])\.?m\b(\.(?!\s*[A-Z]|\s*$))?|([AP])\.?M\b(\.(?!\s*[A-Z]|\s*$))?)",
)
_O_CLOCK = Guarded(r"\d o['’]clock", r"\b(\d{1,2}) o['’]clock")


def write_spans(text: str) -> str:
    """Write spans of days and months in words: `Mon-Fri`, `Jan-Mar`."""
    return _NAMED_SPAN.sub(lambda m: f"{_NAMES[m[1]]} to {_NAMES[m[2]]}", text)


def write_dates(text: str) -> str:
    """Write dates, times of day, years and decades in words; leave all other numbers as they are."""
    if not FIGURE.search(text):
        return text
    text = _LATE_YEAR.sub(lambda m: f"{m[1]} {year(m[2])}", text)
    text = _ISO.sub(lambda m: _date(m[3], m[4], m[1]) + " " * bool(m[5]), text)
    text = _NUMERIC.sub(_numeric, text)
    text = _SHORT_DATE.sub(lambda m: f"{m[1]} {_day(m[2], m[3])}", text)
    if _ANY_MONTH.search(text):
        text = _DAY_MONTH.sub(_day_month, text)
        text = _MONTH_DAY.sub(_month_day, text)
        text = _MONTH_YEAR.sub(lambda m: f"{_name(m[1])} {year(m[2])}", text)
    text = _O_CLOCK.sub(lambda m: f"{cardinal(m[1])} o'clock", text)
    text = _CLOCK_SPAN.sub(lambda m: f"{m[1]} to ", text)
    text = _CLOCK.sub(_clock, text)
    text = _HALF_DAY.sub(lambda m: f"{cardinal(m[1])} {(m[2] or m[4]).lower()}.m.", text)
    text = _ERA.sub(_era, text)
    text = _DECADE.sub(lambda m: plural(year(m[1])), text)
    text = _YEAR_SPAN.sub(_year_span, text)
    text = _SEASON.sub(lambda m: f"{year(m[1])} {cardinal(m[2])}" if _follows(m[1], m[2]) else m[0], text)
    text = _EARLY_YEAR.sub(lambda m: m[0] if _COUNTED.match(text, m.end()) else f"{m[1]} {year(m[2])}", text)
    text = _SHORT_YEAR.sub(lambda m: cardinal(m[1]) if m[1][0] != "0" else f"oh {cardinal(m[1][1])}", text)
    return _YEAR.sub(lambda m: m[0] if _COUNTED.match(text, m.end()) else year(m[1]), text)


def _name(month: str) -> str:
    return _SHORT.get(month.rstrip("."), month)


def _day(month: str, day: str) -> str:
    return f"{MONTHS[int(month) - 1]} {ordinal(str(int(day)))}"


def _date(month: str, day: str, years: str) -> str:
    if len(years) == 2:
        return f"{_day(month, day)}, {cardinal(years) if years[0] != '0' else 'oh ' + cardinal(years[1])}"
    return f"{_day(month, day)}, {year(years)}"


def _numeric(match: re.Match[str]) -> str:
    """Write `12/25/2023`: the month is first, unless it can only be second or points divide it."""
    first, mark, second, years = match.groups()
    if mark == "." and len(years) == 2:
        return match[0]
    month, day = (second, first) if int(first) > 12 or mark == "." else (first, second)
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return match[0]
    return _date(month, day, years)


def _month_day(match: re.Match[str]) -> str:
    month, day, comma, years = match.groups()
    if not 1 <= int(day) <= 31:
        return match[0]
    return f"{_name(month)} {ordinal(day)}" + (f"{comma} {year(years)}" if years else "")


def _day_month(match: re.Match[str]) -> str:
    article, day, month, years = match.groups()
    if not 1 <= int(day) <= 31 or (month == "May" and not years and "of" not in match[0] and not article):
        return match[0]
    return f"{article or 'the '}{ordinal(day)} of {_name(month)}" + (f" {year(years)}" if years else "")


def _clock(match: re.Match[str]) -> str:
    """Write `9:00` as *nine o'clock*, `14:30` as *fourteen thirty* and `3:05 pm` as *three oh five p.m.*"""
    hour, minute, second, half, _ = match.groups()
    words = [cardinal(str(int(hour)))]
    if minute != "00" or second:
        words.append(f"oh {cardinal(minute[1])}" if minute[0] == "0" and minute != "00" else cardinal(str(int(minute))))
    elif not half and not int(hour):
        return "midnight"
    elif not half:
        words.append("o'clock" if 1 <= int(hour) <= 12 else "hundred")
    if second:
        words.append(cardinal(str(int(second))))
    return " ".join([*words, f"{half.lower()}.m."] if half else words)


def _era(match: re.Match[str]) -> str:
    figures = match[1] or match[3]
    said = year(figures) if len(figures) == 4 else cardinal(figures)
    letters = (match[2] or "AD").replace(".", "")
    return f"{said} {'.'.join(letters)}." if match[1] else f"A.D. {said}"


def _follows(years: str, short: str) -> bool:
    """Return whether two figures are the year after another, as in `2021/22`."""
    return (int(years) + 1) % 100 == int(short)


def _year_span(match: re.Match[str]) -> str:
    first, last = match.groups()
    return f"{year(first)} to {year(last) if len(last) == 4 else cardinal(last)}"
