"""Write English numbers, ranges, fractions, addresses and signs in words."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.english.number_words import cardinal, digits, number, ordinal, pairs, plural
from headrace.featurize.text.languages.rewriting import FIGURE, Guarded

_DOMAINS = "com org net edu gov mil int info biz io ai co dev app tv me us uk de fr eu ca au jp cn ru ch nl it es se in"
_EMAIL = Guarded("@", r"\b([\w.+-]+)@([\w-]+(?:\.[\w-]+)+)")
_URL = Guarded(
    rf"\.(?:{'|'.join(_DOMAINS.split())})\b",
    rf"\b(?:(https?|ftp)://)?((?:www\.)?(?:[a-zA-Z0-9-]+\.)+(?:{'|'.join(_DOMAINS.split())}))\b(?!\.\w)"
    r"((?:/[\w.~%#?=&+-]*)*)",
)
_HANDLE = Guarded(r"[@#][A-Za-z_]", r"(?<![\w.])([@#])([A-Za-z_]\w*)")
_NUMBERED = re.compile(r"#\s?(?=\d)")

_PHONE = Guarded(
    r"[+(\d](?:(?<=[+(])\d|\d\d[.-]\d|(?<=0)\d\d[\d -])",
    r"(?<![\w.,$/:#-])(?:\+\d{1,3}[ .-]?(?:\(0\))?(?:\(?\d{1,5}\)?[ .-]?){1,5}\d{2,}"
    r"|(?:\d[ .-])?\(\d{2,5}\)[ -]?\d{2,5}(?:[ .-]\d{2,5}){1,2}|(?:1[ .-])?\d{3}[.-]\d{3}[.-]\d{4}|\d{3}-\d{4}"
    r"|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4}|0\d{9,10}|\d{3}-\d{2}-\d{4}|\d{3}(?:-\d{1,7}){3,4})(?![\w%]|[.,/-]\d)",
)
_EMERGENCY = Guarded(
    r" \d{3}",
    r"(?i)\b(call(?:s|ed|ing)?|dial(?:s|ed|ing)?|phone|ring|text|number is|at) (\d{3}|\d{5,12})(?![\d.,%:-]|\s?\w)",
)
_SERVICE = r"(?:[2-9]11|999|112|988)"
"""Telephone numbers of three figures that are dialled, not counted."""
_SERVICES = Guarded(
    _SERVICE,
    rf"(?i)\b((?:call|dial|phone|ring|text)(?:s|ed|ing)?) ({_SERVICE}(?:(?:,|,? (?:or|and)) {_SERVICE})*)"
    rf"(?![\d.,]*\d|[%:-]|\s(?:people|men|women|\w+[^aius\W]s)\b)"
    rf"|\b({_SERVICE})(?= (?:operator|dispatcher|call|line)s?\b)",
)
_SPELLED = Guarded(
    r" \d{3}",
    r"(?i)\b((?:code|pin|password|passcode|agent|zip|account number)(?: is| was|:)?) (\d{3,6})(?![\d.,%]*\d|%)",
)
_ADDRESS = Guarded(r"\d\.\d{1,3}\.\d{1,3}\.\d", r"(?<![\w.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?![\w.]*\d)")
_VERSION = Guarded(r"\d\.\d+\.\d", r"(?<![\d.])(\d+(?:\.\d+){2,})(?!\.?\d)")
_GROUPED = Guarded(
    r"\d[ .]\d{3}[ .]\d{3}", r"(?<![\d.,])[1-9]\d{0,2}(?:( )\d{3}(?: \d{3})+|(?:\.\d{3}){2,})(?![\d.,]*\d)"
)
_NUMBERED_PAIR = Guarded(
    r" \d{3}",
    r"\b(Boeing|Airbus A?|Flight|flight|Room|room|Route|Highway|Interstate|Bus|bus|Suite) (\d{3})(?![\d,.-]\d|\d)",
)

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
           "⅙": "1/6", "⅚": "5/6", "⅐": "1/7", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅑": "1/9",
           "⅒": "1/10"}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_POWER = Guarded(r"[\^⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]", r"(?<=[\w)])(?:\^\(?([+−-]?(?:\d+|[a-z]))\)?|([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+))")

_RELEASE = Guarded(r"v\.?\d", r"\bv\.?(?=\d+\.\d)")
_RATIO = Guarded(r"\d:\d", r"(?<![\d:.,])(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)(?::(\d+))?(?![\d:])")
_FRACTION = Guarded(
    r"\d\s?[/⁄]\s?\d",
    r"(?<![\w/.,])(?:(\d+)(?:\s|-))?(\d{1,4})\s?[/⁄]\s?(\d{1,4})(?![\d/]|[.,]\d)(\s+of\b)?(?:st|nd|rd|ths?)?",
)
_FIXED = {"24/7": "twenty four seven", "9/11": "nine eleven", "50/50": "fifty fifty", "7/11": "seven eleven"}
_RANGE = Guarded(
    r"\d(?:\s?[-–—~]\s?|\s{0,2}to\s{0,2})\d",
    r"(?<![\w/.,-])((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(\s?)([-–—~]|\s?to\s?)(\s?)"
    r"((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?![\w/]|[-.,]\d)",
)
_MINUS = Guarded(r"[-−–](?:\.?\d|(?<=−))", r"(?:(?<![\w)²³.%])|(?<=[=(<>]))[-−–](?=\.?\d)|(?<=[\w)²³])\s?−\s?(?=[\w(])")
_BETWEEN = Guarded("[+=×÷≠≈≤≥±∓·∙<>]", r"(?<=[\w)])\s?([+=×÷≠≈≤≥±∓·∙<>])\s?(?=[\w(+−-])")
_TIMES = Guarded(r"\d\s?[x*]\s?\d", r"(?<=\d)\s?[x*]\s?(?=\d)")
_FOLD = Guarded(r"\d[x×]", r"(?<![\w.])(\d+)[x×](?![\w])")
_LONE = {"+": "plus", "=": "equals", "×": "times", "÷": "divided by", "≠": "is not equal to", "≈": "is about",
         "≤": "is at most", "≥": "is at least", "±": "plus or minus", "∓": "minus or plus", "·": "times", "∙": "times",
         "<": "is less than", ">": "is greater than"}  # fmt: skip
_ALONE = {"&": "and", "@": "at", "§": "section", "¶": "paragraph", "√": "square root of", "∞": "infinity", "π": "pi",
          "∑": "sum", "∂": "partial", "∆": "delta", "µ": "micro", "Ω": "ohm", "°": "degrees", "±": "plus or minus",
          "≥": "at least", "≤": "at most", "≈": "about", "%": "percent", "‰": "per mille", "€": "euros",
          "£": "pounds",
          "¥": "yen", "$": "dollars", "¢": "cents", "₹": "rupees", "₩": "won", "₽": "rubles", "₿": "bitcoins",
          "+": "plus",
          "=": "equals", "×": "times", "÷": "divided by", "−": "minus", "№": "number", "→": "to",
          "≠": "is not equal to",
          "฿": "baht", "₫": "dong", "₺": "lira", "₴": "hryvnias", "℃": "degrees Celsius", "℉": "degrees Fahrenheit",
          "©": "copyright", "⁄": "over"}  # fmt: skip
_ALONE_SIGN = re.compile("|".join(map(re.escape, _ALONE)))
_AMPERSAND = Guarded("&", r"(?<=\w\s)&(?=\s\w)|(?<=[a-z])&(?=[A-Za-z])")
_GREATER = Guarded(r"[<>~≈≥≤]\s?[\d$€£.]", r"(?<!\S)(?<!\w\s)(?<!\)\s)([<>~≈≥≤])\s?(?=[\d$€£.])")
_UNSPACED = Guarded(
    r"\d(?:-?[A-Za-z]|[µΩ°]|(?<=[A-Za-z].)|(?<=[A-Za-z]-.))",
    r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-zµΩ°])|(?<=\d)-(?=[A-Za-z])|(?<=[A-Za-z])-(?=\d)",
)
_ORDINAL = Guarded(
    r"[\d,](?:st|nd|rd|th|ST|ND|RD|TH|ᵗʰ|ˢᵗ)", r"(?<![\w.])(\d[\d,]*)(?:st|nd|rd|th|ST|ND|RD|TH|ᵗʰ|ˢᵗ)\b"
)
_NUMBER = Guarded(r"\d", r"(?<!\d)\.\d+|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")


def write_addresses(text: str) -> str:
    """Write addresses of the web and of mail, telephone numbers and codes, as they are dictated."""
    text = _EMAIL.sub(lambda m: f"{_dictated(m[1])} at {_dictated(m[2])}", text)
    text = _URL.sub(_url, text)
    text = _HANDLE.sub(lambda m: f"{'at' if m[1] == '@' else 'hashtag'} {_dictated(m[2])}", text)
    text = _NUMBERED.sub("number ", text)
    text = _ADDRESS.sub(lambda m: " dot ".join(digits(part) for part in m.groups()), text)
    text = _PHONE.sub(_phone, text)
    text = _SERVICES.sub(_services, text)
    text = _EMERGENCY.sub(lambda m: f"{m[1]} {digits(m[2])}", text)
    return _SPELLED.sub(lambda m: f"{m[1]} {digits(m[2])}", text)


def write_numbers(text: str) -> str:
    """Write ranges, fractions, ratios, powers, signs and then all numbers in words."""
    if not text.isascii():
        text = "".join(_LOWERED.get(char, char) for char in re.sub(rf"(?<=\d)(?=[{''.join(_VULGAR)}])", " ", text))
        text = "".join(_VULGAR.get(char, char) for char in text)
    figures = FIGURE.search(text) is not None  # most are in words by now
    if figures:
        text = _NUMBERED_PAIR.sub(lambda m: f"{m[1]} {pairs(m[2])}", text)
        text = _GROUPED.sub(lambda m: re.sub(r"[ .]", "", m[0]), text)
        text = _RELEASE.sub("version ", text)
        text = _VERSION.sub(lambda m: " point ".join(cardinal(part) for part in m[1].split(".")), text)
    text = _POWER.sub(_power, text)
    if figures:
        text = _RATIO.sub(lambda m: " to ".join(number(part) for part in m.groups() if part), text)
        text = _ORDINAL.sub(lambda m: ordinal(m[1]), text)
        text = _FRACTION.sub(_fraction, text)
        text = _RANGE.sub(_range, text)
    text = _GREATER.sub(
        lambda m: {"<": "less than ", ">": "more than ", "≥": "at least ", "≤": "at most "}.get(m[1], "about "), text
    )
    if figures:
        text = _TIMES.sub(" times " if "=" in text else " by ", text)
        text = _FOLD.sub(lambda m: f"{cardinal(m[1])} times", text)
    text = _MINUS.sub(" minus ", text)
    text = _BETWEEN.sub(lambda m: f" {_LONE[m[1]]} ", text)
    text = _AMPERSAND.sub(" and ", text).replace(" and  ", " and ")
    return _NUMBER.sub(lambda m: number(m[0]), _UNSPACED.sub(" ", text)) if figures else text


def write_signs(text: str) -> str:
    """Write signs that stand alone in words."""
    return _ALONE_SIGN.sub(lambda m: m[0] if _is_word_part(m) else f" {_ALONE[m[0]]} ", text)


def _is_word_part(match: re.Match[str]) -> bool:
    """Return whether a sign is inside a word that the dictionary holds, as in `AT&T`."""
    text, start, end = match.string, match.start(), match.end()
    return match[0] == "&" and text[start - 1 : start].isalpha() and text[end : end + 1].isalpha()


def _dictated(address: str) -> str:
    words = {".": " dot ", "-": " dash ", "_": " underscore ", "+": " plus ", "/": " slash ", "?": " question mark ",
             "=": " equals ", "&": " and ", "#": " hash ", "%": " percent ", "~": " tilde "}  # fmt: skip
    spaced = "".join(words.get(char, char) for char in address)
    return " ".join(re.sub(r"\d+", lambda m: f" {cardinal(m[0]) if len(m[0]) < 3 else digits(m[0])} ", spaced).split())


def _url(match: re.Match[str]) -> str:
    scheme, host, path = match.groups()
    tail = re.search(r"[.?]+$", path)
    path = path[: tail.start()] if tail else path
    host = re.sub(r"^www\.", "W W W dot ", host)
    name, _, domain = host.rpartition(".")
    domain = domain if domain in ("com", "org", "net", "info", "biz", "dev", "app", "mil", "int") else domain.upper()
    said = f"{_dictated(name)} dot {domain}{_said_path(path)}"
    return (f"{scheme.upper()} colon slash slash {said}" if scheme else said) + (tail[0] if tail else "")


def _said_path(path: str) -> str:
    return f" {_dictated(path.rstrip('/'))}" if path.strip("/") else ""


def _phone(match: re.Match[str]) -> str:
    """Write a telephone number figure by figure, with a pause between its groups."""
    said = ", ".join(digits(group) for group in re.findall(r"\d+", match[0]))
    return f"plus {said}" if match[0].startswith("+") else said


def _services(match: re.Match[str]) -> str:
    """Write numbers of emergency and other services figure by figure."""
    if match[3]:
        return digits(match[3])
    return f"{match[1]} {re.sub(_SERVICE, lambda one: digits(one[0]), match[2])}"


def _power(match: re.Match[str]) -> str:
    power = (match[1] or "".join(_RAISED[char] for char in match[2])).replace("−", "-")
    if power in ("2", "3"):
        return " squared" if power == "2" else " cubed"
    figures = power.lstrip("+-")
    said = f"{'minus ' * power.startswith('-')}{cardinal(figures) if figures.isdigit() else figures}"
    return f" to the power of {said}"


def _fraction(match: re.Match[str]) -> str:
    """Write `2/3` as *two thirds*, `2 1/2` as *two and a half*, `8/10` as *eight out of ten*."""
    whole, above, below, of = match.groups()
    if f"{above}/{below}" in _FIXED and not whole and not of:
        return _FIXED[f"{above}/{below}"]
    rest = of or ""
    if int(below) == 0 or (int(above) > int(below) and not whole):
        return f"{cardinal(above)} over {cardinal(below)}{rest}"
    if below in ("10", "100") and not of and not whole:
        return f"{cardinal(above)} out of {cardinal(below)}"
    name = {"2": "half", "4": "quarter"}.get(below) or ordinal(below)
    many = {"half": "halves"}.get(name) or plural(name)
    article = "a" if whole and below != "8" else "an" if whole else "one"
    if " /" in match[0] and "=" in match.string:
        return f"{cardinal(above)} divided by {cardinal(below)}"
    said = f"{article} {name}" if above == "1" else f"{cardinal(above)} {many}"
    return f"{cardinal(whole)} and {said}{rest}" if whole else said + rest


def _range(match: re.Match[str]) -> str:
    """Write `10-20` as *ten to twenty*, `10 - 4` and what has a result as *ten minus four*."""
    first, left, mark, right, last = match.groups()
    subtracted = mark == "-" and ((left and right) or re.match(r"\s?=", match.string[match.end() :]) is not None)
    if subtracted:
        return f"{number(first)} minus {number(last)}"
    if first == last and mark == "-":
        return f"{number(first)} {number(last)}"
    return f"{number(first)} to {number(last)}"
