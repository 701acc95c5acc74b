"""Write English amounts of money, measures and percentages in words."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.english.number_words import cardinal, number
from headrace.featurize.text.languages.rewriting import Guarded, mark_inches

_CURRENCIES = {
    "$": ("dollar", "dollars", "cent"), "€": ("euro", "euros", "cent"), "£": ("pound", "pounds", "penny"),
    "¥": ("yen", "yen", "sen"), "₹": ("rupee", "rupees", "paisa"), "₩": ("won", "won", "jeon"),
    "₽": ("ruble", "rubles", "kopeck"), "₿": ("bitcoin", "bitcoins", "cent"), "฿": ("baht", "baht", "satang"),
    "₫": ("dong", "dong", "xu"), "₺": ("lira", "lira", "kurus"), "₴": ("hryvnia", "hryvnias", "kopeck"),
}  # fmt: skip
_CODES = {
    "USD": ("dollar", "dollars"), "EUR": ("euro", "euros"), "GBP": ("pound", "pounds"), "JPY": ("yen", "yen"),
    "CNY": ("yuan", "yuan"), "RMB": ("yuan", "yuan"), "INR": ("rupee", "rupees"), "CHF": ("franc", "francs"),
    "CAD": ("Canadian dollar", "Canadian dollars"), "AUD": ("Australian dollar", "Australian dollars"),
}  # fmt: skip
_COUNTRIES = {"US": "U.S.", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "HK": "Hong Kong",
              "NZ": "New Zealand", "S": "Singapore", "NT": "Taiwan", "R": "Brazilian"}  # fmt: skip
_SCALES = {"k": "thousand", "m": "million", "mn": "million", "mm": "million", "b": "billion", "bn": "billion",
           "t": "trillion", "tn": "trillion"}  # fmt: skip

_UNITS = {
    "km": "kilometer", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "µm": "micrometer", "m": "meter",
    "kg": "kilogram", "mg": "milligram", "µg": "microgram", "g": "gram", "t": "ton", "ml": "milliliter",
    "mL": "milliliter", "cl": "centiliter", "dl": "deciliter", "l": "liter", "L": "liter", "kHz": "kilohertz",
    "MHz": "megahertz", "GHz": "gigahertz", "Hz": "hertz", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt",
    "W": "watt", "kWh": "kilowatt hour", "MWh": "megawatt hour", "Wh": "watt hour", "mAh": "milliamp hour",
    "V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliamp", "Ω": "ohm", "kΩ": "kiloohm", "J": "joule",
    "kJ": "kilojoule", "N": "newton", "Pa": "pascal", "kPa": "kilopascal", "hPa": "hectopascal", "bar": "bar",
    "dB": "decibel", "KB": "kilobyte", "kB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte",
    "PB": "petabyte", "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second",
    "mph": "mile per hour", "kph": "kilometer per hour", "rpm": "revolution per minute", "fps": "frame per second",
    "dpi": "dot per inch", "bpm": "beat per minute", "ppm": "part per million", "px": "pixel", "ft": "foot",
    "yd": "yard", "mi": "mile", "lb": "pound", "lbs": "pound", "oz": "ounce", "gal": "gallon", "hp": "horsepower",
    "cal": "calorie", "kcal": "kilocalorie", "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute",
    "mins": "minute", "s": "second", "sec": "second", "secs": "second", "ms": "millisecond", "ns": "nanosecond",
    "µs": "microsecond", "ha": "hectare", "tbsp": "tablespoon",
    "tsp": "teaspoon", "°C": "degree Celsius", "°F": "degree Fahrenheit", "°": "degree",
    "ºC": "degree Celsius", "ºF": "degree Fahrenheit", "℃": "degree Celsius", "℉": "degree Fahrenheit", "K": "kelvin",
    "sq ft": "square foot", "sq m": "square meter", "sq km": "square kilometer", "sq mi": "square mile", "in": "inch",
}  # fmt: skip
_ONLY_APART = frozenset("K N J W V in".split())
"""Units that are letters of a name where no space stands before them, or words."""
_ONLY_GLUED = frozenset("W V".split())
_IRREGULAR = {"foot": "feet", "inch": "inches", "hertz": "hertz", "kilohertz": "kilohertz", "megahertz": "megahertz",
              "gigahertz": "gigahertz", "horsepower": "horsepower", "kelvin": "kelvin"}  # fmt: skip
_PER = {"h": "hour", "hr": "hour", "s": "second", "sec": "second", "min": "minute", "day": "day", "week": "week",
        "month": "month", "year": "year", "yr": "year", "mo": "month", "hour": "hour", "minute": "minute",
        "second": "second", "person": "person", "night": "night", "gal": "gallon", "lb": "pound", "oz": "ounce",
        "kg": "kilogram", "g": "gram", "m": "meter", "km": "kilometer", "l": "liter", "L": "liter", "mile": "mile",
        "ml": "milliliter", "dl": "deciliter", "dL": "deciliter", "ft": "foot", "unit": "unit"}  # fmt: skip

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
_SIGNS = re.escape("".join(_CURRENCIES))
_SCALE = r"(?:\s?(hundred|thousand|million|billion|trillion)s?\b|(?:(?<=\d)\s?)(k|K|mn|mm|m|M|bn|b|B|tn|t|T)\b)?"
_MONEY = Guarded(
    rf"[{_SIGNS}]\s?\d",
    rf"(?:\b(US|AU|A|CA|C|HK|NZ|S|NT|R))?([{_SIGNS}])\s?({_NUMBER})(?:\s?[-–—]\s?[{_SIGNS}]?({_NUMBER}))?{_SCALE}",
)
_MONEY_AFTER = Guarded(rf"[{_SIGNS}]", rf"(?<![\w.,])({_NUMBER}){_SCALE}\s?([{_SIGNS}])(?!\d)")
_ANY_CURRENCY = re.compile(f"[{_SIGNS}]")
_CODED = Guarded(
    "|".join(_CODES),
    rf"(?<![\w.,])({_NUMBER}){_SCALE}\s?({'|'.join(_CODES)})\b|\b({'|'.join(_CODES)})\s?({_NUMBER}){_SCALE}",
)
_CENTS = Guarded("¢", rf"(?<![\w.,])({_NUMBER})\s?¢")
_NOTES = re.compile(r"\s(?:bill|note|coin|fine|fee|check|cheque|question|reward|prize|deal|budget|loan|tag|ticket|gift|"
                    r"investment|donation|discount|voucher|bet|profit|loss|house|project)\b")  # fmt: skip
_RATE = Guarded("/[A-Za-z]", rf"(?<=[a-z])/({'|'.join(sorted(_PER, key=len, reverse=True))})\b")

_UNIT_NAMES = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_VULGAR = "¼-¾⅐-⅞"
_MEASURE = Guarded(
    rf"[\d{_VULGAR}][\s-]?(?:{_UNIT_NAMES})(?![A-Za-z0-9_])",
    rf"(?<![\w.])({_NUMBER}|\d*[{_VULGAR}])((?:\s?(?:[-–—]|x|×|±|by|to|or)\s?{_NUMBER})*)([\s-]?)({_UNIT_NAMES})([²³]|\^[23])?"
    rf"(?:/({'|'.join(sorted(_PER, key=len, reverse=True))})([²³])?)?(?:(?<=[a-z])\.(?=\s+[a-z]{2}))?(?![\w²³/^°'])",
)
_PERCENT_SPAN = re.compile(r"(\d)\s?%\s?[-–—~～]\s?(?=\d[\d.]*\s?%)")
_PERCENT = Guarded("[%‰]", r"(?<=\d)\s?(%|‰)")
_LARGE = Guarded(
    r"\d\s?(?:[kKMB]|bn)",
    rf"(?<![\w.,])({_NUMBER})\s?(k|K|M|bn|(?<=\.\d)B)(\+)?(?!\w)"
    r"(?!\s?(?:run|race|walk|tv|TV|video|resolution|display|screen|monitor|camera|footage))",
)
_RACE_BEFORE = re.compile(
    r"(?i)\b(?:r[au]n|running|runs|jog|jogged|race|finish|finished) (?:a|an|the|my|her|his|our)?\s?$"
)
_ENDS = re.compile(
    r"\s(?:every|each|today|yesterday|tomorrow|in|on|for|with|and|at|last|this|before|after)\b|[,.!?;]|$"
)
"""What ends a phrase: a race of `5k` is five K, and `5k users` are five thousand."""
_BY = Guarded(r"['’\"″′]\s?[x×]", r"(?<=\d['’\"″′])\s?[x×]\s?(?=\d)")
_ANY_QUOTE = re.compile("['’\"″”′]")
_FEET = Guarded(r"\d\s?['’′]\s?\d", r"(?<![\w.,])(\d{1,2})\s?['’′]\s?(\d{1,2}(?:\.\d+)?)\s?(?:\"|”|″|''|’’)?(?![\w'])")
_INCHES = Guarded(r"\d(?:[”″]|'')", rf"(?<![\w.,])({_NUMBER})(?:”|″|'')")
_SIZED = re.compile(
    r"\s(?!(?:and|or|by|x|wide|tall|long|high|deep|thick|apart|from|to|in|of|is|are|was|were|on|at|above|below|away|"
    r"across|more|less|for|with|then|the|an?|as|but|so|when|while|if|that|which|around|into|under|over|per|he|she|it|we|they|i|you)"
    r"\b)[A-Za-z]+"
)
"""A noun: what has the size."""
_FEET_ALONE = Guarded(
    r"\d['′]",
    r"(?<![\w.,'’])(\d{1,3})(?:′|'(?=\s?[x×]|\s(?:tall|long|wide|high|deep|by)\b)|(?<=\bby \d)'|(?<=\bby \d\d)'"
    r"|'(?=[.,!?;]*(?:\s|$)))",
)


def write_quantities(text: str) -> str:
    """Write money, measures and percentages in words; leave all other numbers as they are."""
    if _ANY_CURRENCY.search(text):
        text = _MONEY.sub(_money, text)
        text = _MONEY_AFTER.sub(lambda m: _amount(m[1], m[2] or m[3], _CURRENCIES[m[4]]), text)
    text = _CODED.sub(_coded, text)
    text = _CENTS.sub(lambda m: f"{number(m[1])} cent{'s' * (m[1] != '1')}", text)
    text = _RATE.sub(lambda m: f" per {_PER[m[1]]}", text)
    if _ANY_QUOTE.search(text):
        text = _BY.sub(" by ", mark_inches(text) if '"' in text else text)
        text = _FEET.sub(_feet, text)
        text = _INCHES.sub(_inches, text)
        text = _FEET_ALONE.sub(_feet_alone, text)
    text = _MEASURE.sub(_measure, text)
    text = _PERCENT_SPAN.sub(r"\1 percent to ", text)
    text = _PERCENT.sub(lambda m: " percent" if m[1] == "%" else " per mille", text)
    return _LARGE.sub(_large, text)


def _scale(short: str | None) -> str:
    return f" {_SCALES.get(short.lower(), short)}" if short else ""


def _money(match: re.Match[str]) -> str:
    """Write `$5.20` as *five dollars twenty cents*, `£3m` as *three million pounds*."""
    country, sign, amount, upper, word, short = match.groups()
    names = _CURRENCIES[sign]
    where = f"{_COUNTRIES[country]} " if country else ""
    scale = word or short
    if upper:
        return f"{number(amount)} to {number(upper)}{_scale(scale)} {where}{names[1]}"
    if _NOTES.match(match.string, match.end()) or match.string[match.end() : match.end() + 2] in ("-a", "-p"):
        return f"{number(amount)}{_scale(scale)} {where}{names[0]}"
    return _amount(amount, scale, names, where)


def _amount(amount: str, scale: str | None, names: tuple[str, str, str], where: str = "") -> str:
    whole, _, rest = amount.partition(".")
    if scale or len(rest) not in (0, 2) or not rest.strip("0"):
        amount = amount if scale or rest.strip("0") else whole
        return f"{number(amount)}{_scale(scale)} {where}{names[0 if amount == '1' and not scale else 1]}"
    small = "pence" if names[2] == "penny" else names[2] + "s"
    cents = f"{cardinal(str(int(rest)))} {names[2] if int(rest) == 1 else small}"
    return cents if not whole.strip("0,") else f"{number(whole)} {where}{names[0 if whole == '1' else 1]} {cents}"


def _coded(match: re.Match[str]) -> str:
    if match[4]:
        amount, scale, code = match[1], match[2] or match[3], match[4]
    else:
        amount, scale, code = match[6], match[7] or match[8], match[5]
    return f"{number(amount)}{_scale(scale)} {_CODES[code][0 if amount == '1' and not scale else 1]}"


def _feet(match: re.Match[str]) -> str:
    return f"{cardinal(match[1])} {_plural('foot', match[1])} {number(match[2])} {_plural('inch', match[2])}"


def _feet_alone(match: re.Match[str]) -> str:
    """Write `6'` as feet, unless the mark ends a quotation."""
    if match.string.find(" '") >= 0 or match.string[0] == "'":
        return match[0]
    return f"{cardinal(match[1])} {_plural('foot', match[1])}"


def _inches(match: re.Match[str]) -> str:
    """Write `30"` as inches, unless the mark ends a quotation."""
    before = match.string[: match.start()]
    if before.count("“") > before.count("”"):
        return match[0]
    if _SIZED.match(match.string, match.end()):
        return f"{number(match[1])} inch"
    return f"{number(match[1])} {_plural('inch', match[1])}"


def _plural(unit: str, amount: str) -> str:
    """Return a unit as it is said after an amount: *one foot*, *two feet*, *two miles per hour*."""
    if amount in ("1", "-1"):
        return unit
    first, per, rest = unit.partition(" per ")
    first, of, scale = first.partition(" Celsius") if "Celsius" in first else first.partition(" Fahrenheit")
    *words, last = first.split()
    return " ".join([*words, _IRREGULAR.get(last, last + "s")]) + of + scale + per + rest


def _measure(match: re.Match[str]) -> str:
    amount, more, space, unit, power, per, per_power = match.groups()
    if (unit in _ONLY_APART - _ONLY_GLUED and not space) or (
        unit == "in" and not match[0].endswith(".") and match.string[match.end() :] != "."
    ):
        return match[0]
    if unit == "m" and not space and re.match(r" (?:people|users|views|followers|dollars|copies|jobs|homes)\b",
                                              match.string[match.end() :]):  # fmt: skip
        return f"{amount} million"
    if unit == "s" and not space and amount[-1] == "0":
        return match[0]  # a decade
    name = _UNITS[unit]
    if power:
        name = f"{'square' if power in ('²', '^2') else 'cubic'} {name}"
    compound = space == "-" or re.match(r"-[a-z]", match.string[match.end() :])
    last = re.split(rf"[^\d.,{_VULGAR}]+", more)[-1] or amount
    said = name if compound or _is_share(match, last) else _plural(name, last)
    if per:
        said += f" per {_PER[per]}" + ({"²": " squared", "³": " cubed"}[per_power] if per_power else "")
    return f"{amount}{re.sub('[x×]', ' by ', more)} {said}"


def _is_share(match: re.Match[str], last: str) -> bool:
    """Return whether an amount is less than one by its fraction, as in `1/4 tsp`, which is one quarter teaspoon."""
    if not last.isascii():
        return len(last) == 1
    return re.search(r"(?<!\d[\s-])(?<!\d)\d{1,2}/$", match.string[: match.start()]) is not None


def _large(match: re.Match[str]) -> str:
    """Write `20k` as *twenty thousand*; `4K` and `8K` are kinds of screens."""
    amount, short, plus = match.groups()
    if short == "K" and amount in ("2", "4", "5", "8"):
        return match[0]
    if short == "k" and _RACE_BEFORE.search(match.string[: match.start()]) and _ENDS.match(match.string, match.end()):
        return f"{number(amount)} K"
    return f"{number(amount)}{_scale(short)}{' plus' if plus else ''}"
