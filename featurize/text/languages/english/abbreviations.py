"""Write English titles, other abbreviations and roman numerals in words, by what stands beside them."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.english.number_words import cardinal, ordinal
from headrace.featurize.text.languages.rewriting import ROMAN_LETTERS, Guarded

_BEFORE_NAME = {
    "Dr": "doctor", "Mr": "mister", "Mrs": "mrs", "Ms": "ms", "Messrs": "messieurs", "Prof": "professor",
    "Gen": "general", "Col": "colonel", "Capt": "captain", "Cpt": "captain", "Lt": "lieutenant", "Sgt": "sergeant",
    "Cpl": "corporal", "Maj": "major", "Adm": "admiral", "Cmdr": "commander", "Sen": "senator",
    "Rep": "representative", "Gov": "governor", "Rev": "reverend", "Hon": "honorable", "Pres": "president",
    "Mt": "mount", "Ft": "fort", "St": "saint", "Sts": "saints", "Fr": "father", "Supt": "superintendent",
}  # fmt: skip
_AFTER_NAME = {
    "St": "street", "Dr": "drive", "Ave": "avenue", "Av": "avenue", "Blvd": "boulevard", "Rd": "road", "Ln": "lane",
    "Hwy": "highway", "Pkwy": "parkway", "Sq": "square", "Ct": "court", "Pl": "place", "Jr": "junior", "Sr": "senior",
    "Inc": "incorporated", "Ltd": "limited", "Corp": "corporation", "Co": "company", "Bros": "brothers",
    "Univ": "university", "Dept": "department", "Mfg": "manufacturing",
}  # fmt: skip
_BEFORE_FIGURE = {
    "no": "number", "nos": "numbers", "vol": "volume", "vols": "volumes", "p": "page", "pp": "pages",
    "ch": "chapter", "chap": "chapter", "fig": "figure", "figs": "figures", "sec": "section", "eq": "equation",
    "art": "article", "ex": "example", "approx": "approximately", "ca": "circa", "c": "circa", "v": "version",
    "ver": "version", "tel": "telephone", "ext": "extension", "apt": "apartment", "rm": "room", "max": "maximum",
    "min": "minimum", "avg": "average", "est": "established", "op": "opus", "rev": "revision", "lvl": "level",
}  # fmt: skip
_ANYWHERE = {
    "vs.": "versus", "vs": "versus", "etc.": "etc", "approx.": "approximately", "est.": "estimated",
    "dept.": "department", "govt.": "government", "misc.": "miscellaneous",
    "temp.": "temperature", "incl.": "including", "excl.": "excluding",
    "w/o": "without", "w/": "with", "b/c": "because", "a.k.a.": "A.K.A.", "cf.": "compare", "viz.": "namely",
    "et al.": "et al", "c/o": "care of", "n/a": "not applicable", "N/A": "not applicable", "appt.": "appointment",
    "assoc.": "association", "asst.": "assistant", "min.": "minimum", "max.": "maximum", "avg.": "average",
    "hrs.": "hours", "mins.": "minutes", "secs.": "seconds", "yrs.": "years", "hr.": "hour",
    "yr.": "year", "lbs.": "pounds", "oz.": "ounces", "ft.": "feet", "sq.": "square",
}  # fmt: skip

_NAME_BEFORE = Guarded(rf"(?:{'|'.join(_BEFORE_NAME)})\.?\s", rf"\b({'|'.join(_BEFORE_NAME)})(\.?)(?=\s+[A-Z])")
_NAME_AFTER = Guarded(
    rf"\s(?:{'|'.join(_AFTER_NAME)})(?!\w)", rf"(?:(?<=\w)|(?<=,))\s({'|'.join(_AFTER_NAME)})(\.?)(?![\w'’-])"
)
_FIGURE_BEFORE = Guarded(
    r"[.\s]\d", rf"\b({'|'.join([*_BEFORE_FIGURE, *(word.capitalize() for word in _BEFORE_FIGURE)])})(\.\s?|\s)(?=\d)"
)
_UNDOTTED = frozenset("no nos art ex ca p ch c v est sec max min avg op rev tel ext apt".split())
"""Words or letters of their own without a full stop."""
_WORDS = Guarded(
    rf"\.(?<={'|'.join(sorted({re.escape(word[-3:]) for word in _ANYWHERE if word.endswith('.')}))})|/|vs",
    rf"(?<![\w.])(?:{'|'.join(map(re.escape, sorted(_ANYWHERE, key=len, reverse=True)))})(?!\w)",
)
_NO_STREET = frozenset(
    "in on at the from to near of by and when after before for with this dear saint king port mount sault fort lake "
    "east but so while if as is was ask tell see then professor prof mr mrs ms that yes no".split()
)
"""Words that begin a sentence or a name before *Saint* or *Doctor*, and name no street."""
_STREETS = frozenset("st dr ave av blvd rd ln hwy pkwy sq ct pl".split())

DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_DAY = Guarded(rf"(?:{'|'.join(DAYS)})\.[,\s]", rf"\b({'|'.join(DAYS)})\.(?=,?\s+(?:\d|[A-Z][a-z]+\.? \d))")
_PART = {"vol": "volume", "chap": "chapter", "ch": "chapter", "bk": "book", "sec": "section"}
_PART_BEFORE = Guarded(r"\.\s?[IVX]", rf"(?i)\b({'|'.join(_PART)})\.\s?(?=(?-i:[IVX]+)(?!\w))")
_DOCTOR = Guarded("Ph", r"\bPh\.?\s?D(\.?)(?!\w)")
_ROMAN = Guarded(
    r"\s[IVX]",
    r"\b((?:[A-Z][\w’'-]*|the|part|chapter|volume|act|scene|book|section|phase|type|class|stage|world war)\s)"
    r"(?=[IVX])(X{0,3}(?:IX|IV|V?I{0,3}))((?:['’]s)?)(?![\w'’.-]*\w)",
)
_PARTS = Guarded(
    r" (?:[IVXLC]{2}|[ivxlc]{2})",
    r"(?i)\b((?:bowl|chapter|psalm|sonnet|book|part|volume|canto|title|olympiad|wrestlemania|article|act|scene|section|"
    r"pages?|lesson)\s)(?=(?-i:[IVXLC]{2}|[ivxlc]{2}))(c{0,3}(?:xc|xl|l?x{0,3})(?:ix|iv|v?i{0,3}))(?![\w'’.-]*\w)",
)
"""Numerals above fifty, and those in small letters, behind what is numbered."""
_YEAR = Guarded(r"M[MDCLXVI]{3}", r"\b(?=[MDCLXVI]{4})(M{1,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))\b")
_WARS = Guarded("WWI", r"\bWW(I{1,3})\b")
_CENTURY = Guarded(r"[IVX](?:st|nd|rd|th)? centur", r"\b([IVX]{1,5})(?=(?:st|nd|rd|th)? (?:century|centuries)\b)")
_COUNTED = frozenset(
    "war part chapter volume vol book act scene section phase type class stage level title article appendix episode "
    "mark apollo bowl final fantasy rocky rambo saw step unit module grade figure table canto game quest tier".split()
)
_RULERS = frozenset(
    "king queen pope emperor tsar czar sultan prince elizabeth henry george charles edward james william richard mary "
    "john paul benedict catherine peter nicholas alexander napoleon philip felipe frederick friedrich wilhelm ramses "
    "ramesses leo pius gregory innocent urban clement francis ferdinand gustav christian haakon harald ivan ptolemy "
    "xerxes darius mehmed murad selim otto robert david alfonso afonso pedro joseph leopold albert umberto emmanuel "
    "constantine theodosius justinian louis carlos margaret anne matilda stephen sixtus julius adrian boniface "
    "celestine eugene martin victor valerian claudius cyrus sargon thutmose amenhotep cleopatra isabella maria rudolf "
    "maximilian casimir sigismund vladislaus ladislaus bela olaf olav canute magnus eric baldwin bohemond "
    " abdulhamid suleiman bayezid rama thomas michael lothair conrad antiochus seleucus mithridates shapur".split()
)
_AFTER_PRONOUN = frozenset(
    "am think thought know knew will would can could should shall must may might love like want need hope believe said "
    "say see saw feel felt do don't did didn't have've guess wish".split()
)


def write_abbreviations(text: str) -> str:
    """Write titles, abbreviations and roman numerals in words."""
    text = _WARS.sub(lambda m: f"World War {cardinal(str(len(m[1])))}", text)
    text = _DAY.sub(lambda m: DAYS[m[1]], _PART_BEFORE.sub(lambda m: f"{_PART[m[1].lower()]} ", text))
    text = _DOCTOR.sub(lambda m: "PhD" + "." * bool(m[1] and not m.string[m.end() :].strip()), text)
    text = _CENTURY.sub(lambda m: ordinal(str(_value(m[1]))) if _value(m[1]) else m[0], text)
    text = _YEAR.sub(lambda m: str(_value(m[1])), text)
    text = _PARTS.sub(lambda m: m[1] + cardinal(str(_value(m[2].upper()))), text)
    text = _ROMAN.sub(_roman, text)
    text = _NAME_AFTER.sub(_after_name, text)
    text = _NAME_BEFORE.sub(lambda m: _BEFORE_NAME[m[1]], text)
    text = _FIGURE_BEFORE.sub(_before_figure, text)
    return _WORDS.sub(_anywhere, text)


def _value(roman: str) -> int:
    values = [ROMAN_LETTERS[letter] for letter in roman]
    return sum(-low if low < high else low for low, high in zip(values, [*values[1:], 0], strict=True))


def _roman(match: re.Match[str]) -> str:
    """Write the numeral of a ruler as an ordinal, of a war or a chapter as a number."""
    before, roman, owner = match.groups()
    word, said = before.strip().lower(), str(_value(roman))
    following = match.string[match.end() : match.end() + 20].split()[:1]
    if word in _COUNTED:
        return before + cardinal(said) + owner
    if word in _RULERS:
        if roman == "I" and following and following[0].lower().strip(",.'’") in _AFTER_PRONOUN:
            return match[0]
        return f"{before}the {ordinal(said)}{owner}"
    if len(roman) == 1 or not before[0].isupper():
        return match[0]
    return before + cardinal(said) + owner


def _after_name(match: re.Match[str]) -> str:
    """Write `Elm St.` as *Elm street*; the full stop stays where a sentence ends with it."""
    short, dot = match.groups()
    before = re.findall(r"[\w'’-]+", match.string[: match.start()])[-1:]
    rest = match.string[match.end() :]
    named = bool(before) and (before[0][:1].isupper() or re.fullmatch(r"\d+(?:st|nd|rd|th)", before[0]) is not None)
    if not named or before[0].rstrip(".") in _BEFORE_NAME:
        return match[0]
    if short in _BEFORE_NAME and before[0].lower() in _NO_STREET:
        return match[0]
    ends = dot and (not rest.strip() or (re.match(r"\s+[A-Z]", rest) is not None and short.lower() in _STREETS))
    return f" {_AFTER_NAME[short]}{'.' if ends else ''}"


def _before_figure(match: re.Match[str]) -> str:
    short = match[1].lower()
    if short in _UNDOTTED and "." not in match[2]:
        return match[0]
    return _BEFORE_FIGURE[short] + " "


def _anywhere(match: re.Match[str]) -> str:
    word = _ANYWHERE[match[0]]
    rest = match.string[match.end() :]
    ends = match[0].endswith(".") and (not rest.strip() or (word == "etc" and re.match(r"\s+[A-Z]", rest)))
    return word + "." * bool(ends)
