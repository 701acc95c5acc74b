"""Write English numbers as they are said where espeak-ng does not: money, times, years, dates, units."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.frontend import parse_pairs

_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen")}
_UNITS = parse_pairs(
    "km/h:kilometers-per-hour km:kilometers cm:centimeters mm:millimeters m:meters kg:kilograms mg:milligrams g:grams "
    "ml:milliliters mL:milliliters L:liters kHz:kilohertz MHz:megahertz Hz:hertz kW:kilowatts GB:gigabytes "
    "MB:megabytes TB:terabytes mph:miles-per-hour ft:feet lb:pounds lbs:pounds °C:degrees-Celsius "
    "°F:degrees-Fahrenheit"
)
_MONTHS = "January February March April May June July August September October November December".split()

_MONEY = re.compile(r"([$€£¥])(\d[\d,]*)(?:\.(\d\d))?(?![.,]?\d)(?!\s?(?:hundred|thousand|million|billion))")
_LARGE = re.compile(r"([$€£¥])(\d[\d,.]*\s?(?:hundred|thousand|million|billion)s?)")
_DATE = re.compile(r"(?<!\d)(\d{4})[-/](0?[1-9]|1[0-2])[-/](\d{1,2})(?!\d)")
_YEAR = re.compile(
    rf"(?i)\b((?:in|since|until|by|from|of|year|before|after|{'|'.join(_MONTHS)})(?: \d{{1,2}}(?:st|nd|rd|th)?,?)? )"
    r"(1[1-9]\d\d|20\d\d)(?![\d%]|[.,]\d|\s?(?:people|percent|hours|days|years|times))"
)
_CLOCK = re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)")
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![\w/])")
_MINUS = re.compile(r"(?<!\S)[-−](?=\d)")


def verbalise(text: str) -> str:
    """Write money, times, years, dates and units in words; plain numbers stay digits, which espeak-ng reads."""
    text = _DATE.sub(lambda match: f"{_MONTHS[int(match[2]) - 1]} {int(match[3])}, {match[1]}", text)
    text = _YEAR.sub(lambda match: match[1] + _year(int(match[2])), text)
    text = _MONEY.sub(_money, _LARGE.sub(lambda match: f"{match[2]} {_CURRENCIES[match[1]][0]}s", text))
    text = _UNIT.sub(lambda match: " " + _UNITS[match[1]].replace("-", " "), text)
    return _MINUS.sub("minus ", _CLOCK.sub(_clock, text))


def _money(match: re.Match[str]) -> str:
    """Write `$5.20` as `5 dollars 20 cents`: espeak-ng says the sign first."""
    (large, small), amount, rest = _CURRENCIES[match[1]], match[2], int(match[3] or 0)
    said = f"{amount} {large}{'s' if amount != '1' and large != 'yen' else ''}"
    pence = "pence" if small == "penny" else f"{small}s"
    return f"{said} {rest} {small if rest == 1 else pence}" if rest else said


def _year(year: int) -> str:
    """Write `1984` as `19 84`."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return str(year)
    return f"{century} hundred" if not rest else f"{century} {'oh ' if rest < 10 else ''}{rest}"


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match.groups()
    parts = [hour if minute != "00" or second else f"{hour} o'clock"]
    parts += [f"oh {minute[1]}" if minute[0] == "0" else minute] if minute != "00" else []
    return " ".join(parts + ([second] if second else []))
