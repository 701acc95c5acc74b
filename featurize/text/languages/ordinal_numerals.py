"""Write roman numerals and figures that are ordinal numbers in words: centuries, kings, years, `20e`, `90-х`.

espeak-ng reads them as cardinal numbers or as letters. In Slavic languages the ending follows the noun, or the name and
the preposition before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from headrace.featurize.text.languages.number_words import ordinals
from headrace.featurize.text.languages.rewriting import ROMAN_NUMERALS

_NUMBER = r"(?<![\w.,-])(\d{1,2}|[IVX]+)"
_TENS = {
    "ru": "двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто",
    "uk": "двадцять тридцять сорок п'ятдесят шістдесят сімдесят вісімдесят дев'яносто",
    "pl": "dwudziestego trzydziestego czterdziestego pięćdziesiątego sześćdziesiątego siedemdziesiątego "
    "osiemdziesiątego dziewięćdziesiątego",
}
"""Twenty to ninety, as they stand before one to nine of an ordinal number."""
_ROUND = {
    "ru": "двадцатого тридцатого сорокового пятидесятого шестидесятого семидесятого восьмидесятого девяностого",
    "uk": "двадцятого тридцятого сорокового п'ятдесятого шістдесятого сімдесятого вісімдесятого дев'яностого",
    "pl": _TENS["pl"],
}
_ENDINGS = {
    "ru": {"m": "ый", "f": "ая", "n": "ое", "gen": "ого", "dat": "ому", "ins": "ым", "loc": "ом", "f-gen": "ой",
           "f-loc": "ой", "pl": "ые", "pl-gen": "ых"},
    "uk": {"m": "ий", "f": "а", "n": "е", "gen": "ого", "dat": "ому", "ins": "им", "loc": "ому", "f-gen": "ої",
           "f-loc": "ій", "pl": "і", "pl-gen": "их"},
    "pl": {"m": "y", "f": "a", "n": "e", "gen": "ego", "dat": "emu", "ins": "ym", "loc": "ym", "f-gen": "ej",
           "f-loc": "ej", "pl": "e", "pl-gen": "ych"},
    "cs": {"m": "ý", "f": "á", "n": "é", "gen": "ého", "dat": "ému", "ins": "ým", "loc": "ém", "f-gen": "é",
           "f-loc": "é", "pl": "é", "pl-gen": "ých"},
}  # fmt: skip
_SOFT = {
    "ru": {"третьего": "трет ий ья ье ьего ьему ьим ьем ьей ьей ьи ьих"},
    "uk": {"третього": "трет ій я є ього ьому ім ьому ьої ій і іх"},
    "pl": {"drugiego": "drug i a ie iego iemu im im iej iej ie ich",
           "trzeciego": "trzec i ia ie iego iemu im im iej iej ie ich"},
    "cs": {"prvního": "prvn í í í ího ímu ím ím í í í ích", "třetího": "třet í í í ího ímu ím ím í í í ích"},
}  # fmt: skip
"""Stem and endings of other numbers, in the order of `_ENDINGS`."""
_STRESSED = ("втор", "шест", "седьм", "восьм", "сороков")
"""Russian stems whose masculine ends in -ой."""
_NOUNS = {
    "ru": {"век": "m", "века": "gen", "веке": "loc", "веку": "dat", "веком": "ins", "в.": "века:веке"},
    "uk": {"століття": "gen", "столітті": "loc", "століттям": "ins", "століттю": "dat", "ст.": "століття:столітті"},
    "pl": {"wiek": "m", "wieku": "gen", "wiekiem": "ins", "wiekowi": "dat", "w.": "wieku:wieku"},
    "cs": {"století": "gen", "stoletím": "ins", "stol.": "století:století"},
}
"""Words for a century and their case, or what an abbreviation stands for: after a noun, and after a preposition."""
_YEARS = {
    "ru": {"год": "m", "года": "gen", "году": "dat", "годом": "ins", "г.": "года:году"},
    "uk": {"рік": "m", "року": "gen", "році": "loc", "роком": "ins", "р.": "року:році"},
    "pl": {"rok": "m", "roku": "gen", "rokiem": "ins", "r.": "roku:roku"},
}
_IN = {"ru": "в|во|о|об|на|при", "uk": "в|у|о|на|при|по", "pl": "w|we|o|na|po|przy", "cs": "v|ve|o|na|po|při"}
"""Prepositions of the locative."""
_NEUTER = frozenset({"століття", "století"})
"""Nominative and genitive are alike: a sentence that begins with the number has the nominative."""
_MEN = {
    "ru": "Петр Пётр Павл Иван Иоанн Александр Никола Людовик Генрих Карл Фридрих Вильгельм Филипп Васили Алексе "
    "Михаил Фёдор Федор Наполеон Эдуард Георг Яков Густав Рамсес Бенедикт Франциск Пи Григори Леопольд Альфонс",
    "uk": "Петр Павл Іван Олександр Микола Микол Людовік Генріх Карл Фрідріх Вільгельм Філіп Данил Лев Михайл Ярослав "
    "Володимир Наполеон Едуард Георг Іоанн Бенедикт Франциск",
    "pl": "Jan Zygmunt August Kazimierz Władysław Stanisław Bolesław Mieszk Karol Henryk Fryderyk Ludwik Filip "
    "Aleksandr Mikołaj Piotr Pawł Pius Benedykt Franciszk Napoleon Wilhelm Iwan Leon Jerz Edward Stefan",
    "cs": "Karl Václav František Františk Josef Ferdinand Rudolf Jan Pavl Benedikt Petr Ludvík Jindřich Fridrich Vilém "
    "Přemysl Otakar Boleslav Vladislav Zikmund Matyáš Leopold Mikuláš Alexandr Filip Edvard Napoleon",
}
"""Stems of kings' names, without a last vowel or й."""
_SUFFIXES = {"й": "m", "ый": "m", "ой": "m", "ий": "m", "я": "f", "ая": "f", "е": "pl", "ые": "pl", "ое": "n",
             "го": "gen", "ого": "gen", "му": "dat", "ому": "dat", "м": "loc", "ом": "loc", "ым": "ins", "х": "pl-gen",
             "ых": "pl-gen", "ми": "ins", "та": "f", "те": "n", "ті": "pl", "ї": "f-gen"}  # fmt: skip
"""What Russian and Ukrainian write behind the figures of an ordinal number."""


def write_out(text: str, language: str) -> str:
    """Write the ordinal numbers of a text in words, in those languages whose rules are here."""
    code = language.partition("-")[0]
    if code in _ENDINGS:
        return _write_slavic(text, code)
    rule = _RULES.get(code)
    return rule(text) if rule else text


def inflect(genitive: str, case: str, language: str) -> str:
    """Return an ordinal number in another case.

    Args:
        genitive: masculine; the last word changes, in Polish and Czech all words.
        case: `m`, `f`, `n` (nominative), `gen`, `dat`, `ins`, `loc` (masculine and neuter), `f-gen`, `f-loc`, `pl`,
            `pl-gen`.
    """
    *first, last = genitive.split(" ")
    if language in ("pl", "cs"):
        first = [inflect(word, case, language) for word in first]
    endings = _ENDINGS[language]
    if soft := _SOFT[language].get(last):
        stem, *others = soft.split(" ")
        return " ".join((*first, stem + others[list(endings).index(case)]))
    stem = last.removesuffix(endings["gen"])
    ending = "ой" if case == "m" and stem in _STRESSED else endings[case]
    return " ".join((*first, stem + ending))


def _genitive(number: int, language: str) -> str:
    """Return the genitive of a number from 1 to 99; empty if its words are not here."""
    days = ordinals(language)
    if 0 < number <= len(days):
        return days[number - 1]
    if language not in _TENS or not 0 < number < 100:
        return ""
    ten, one = divmod(number, 10)
    if not one:
        return _ROUND[language].split()[ten - 2]
    return f"{_TENS[language].split()[ten - 2]} {days[one - 1]}"


def _value(written: str) -> int:
    return int(written) if written.isdigit() else ROMAN_NUMERALS.get(written, 0)


def _write_slavic(text: str, language: str) -> str:
    dot = r"\." if language == "cs" else ""
    centuries = "|".join(map(re.escape, sorted(_NOUNS[language], key=len, reverse=True)))
    text = re.sub(
        rf"{_NUMBER}{dot}\s({centuries})(?!\w)",
        lambda match: _before_noun(match, _value(match[1]), "", _NOUNS[language], language),
        text,
    )
    if language in _YEARS:
        years = "|".join(map(re.escape, sorted(_YEARS[language], key=len, reverse=True)))
        text = re.sub(
            rf"(?<![\w.,-])([12]\d{{3}})\s?({years})(?!\w)",
            lambda match: _before_noun(match, int(match[1][2:]), match[1][:2] + "00 ", _YEARS[language], language),
            text,
        )
    if language == "pl":
        text = re.sub(r"(?i)(?<!\w)(lata|latach|lat(?= \d0\.)) ([2-9]0)(?![\d,])\.?", _polish_decade, text)
    if language in ("ru", "uk"):
        suffixes = "|".join(sorted(_SUFFIXES, key=len, reverse=True))
        text = re.sub(rf"(?<![\w.,-])(\d{{1,4}})-({suffixes})(?!\w)", lambda m: _with_suffix(m, language), text)
    return re.sub(rf"(?<!\w)([^\W\d_]+) ([IVX]+)(?!\w){dot}", lambda match: _king(match, language), text)


def _before_noun(match: re.Match[str], number: int, head: str, nouns: dict[str, str], language: str) -> str:
    """Write a number before a noun that tells its case.

    Args:
        head: hundreds that stay figures.
        nouns: `_NOUNS` or `_YEARS` of the language.
    """
    noun, before = match[2], match.string[: match.start()]
    genitive = _genitive(number, language)
    is_counted = not head and match[1].isdigit() and not 4 < number < 22  # `3 века` are three centuries
    if not genitive or (is_counted and language != "cs"):
        return match[0]
    is_in = re.search(rf"(?i)(?<!\w)(?:{_IN[language]})\s$", before) is not None
    stop = ""
    if ":" in nouns[noun]:
        rest = match.string[match.end() :]
        stop = "." if not rest.strip() or re.match(r"\s+[^\W\d_a-zа-яіїєґ]", rest) else ""
        noun = nouns[noun].split(":")[is_in]
    case = nouns[noun]
    if is_in and case in ("gen", "dat"):
        case = "loc"
    elif case == "gen" and noun in _NEUTER and (not before.strip() or before.rstrip()[-1] in ".!?"):
        case = "n"
    return f"{head}{inflect(genitive, case, language)} {noun}{stop}"


def _with_suffix(match: re.Match[str], language: str) -> str:
    """Write a number that has the last letters of its word behind it."""
    number, case = int(match[1]), _SUFFIXES[match[2]]
    genitive = _genitive(number % 100, language)
    if not genitive:
        return match[0]
    return f"{number // 100 * 100} " * (number > 99) + inflect(genitive, case, language)


def _polish_decade(match: re.Match[str]) -> str:
    """Write `lata 90.`, the years of a decade; the full stop stays where a sentence ends with it."""
    said = inflect(_genitive(int(match[2]), "pl"), "pl" if match[1].lower() == "lata" else "pl-gen", "pl")
    return f"{match[1]} {said}" + "." * (match[0].endswith(".") and not match.string[match.end() :].strip())


def _king(match: re.Match[str], language: str) -> str:
    """Write the number of a king or a queen in the case of the name."""
    name, numeral = match[1], match[2]
    genitive = _genitive(ROMAN_NUMERALS.get(numeral, 0), language)
    if not name[0].isupper() or not genitive or (language == "cs" and not match[0].endswith(".")):
        return match[0]
    stop = "." if language == "cs" and not match.string[match.end() :].strip() else ""
    return f"{name} {inflect(genitive, _case_of_name(name, language), language)}{stop}"


def _case_of_name(name: str, language: str) -> str:
    """Return the case of a name by its ending."""
    men = _MEN[language].split()
    masculine = {"а": "gen", "я": "gen", "у": "dat", "ю": "dat", "е": "loc", "a": "gen", "ovi": "dat", "owi": "dat",
                 "ом": "ins", "ем": "ins", "em": "ins", "iem": "ins", "ego": "gen", "ího": "gen"}  # fmt: skip
    for ending in sorted(masculine, key=len, reverse=True):
        if name.endswith(ending) and name.removesuffix(ending) in men:
            return masculine[ending]
    feminine = {"а": "f", "я": "f", "a": "f", "ы": "f-gen", "и": "f-gen", "і": "f-loc", "y": "f-gen", "i": "f-gen",
                "е": "f-loc", "ou": "f-loc", "ě": "f-loc"}  # fmt: skip
    if name in men:
        return "m"
    return next((case for ending, case in feminine.items() if name.endswith(ending)), "m")


_FRENCH_ONES = (
    "un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit"
)
_FRENCH_TENS = {2: "vingt", 3: "trente", 4: "quarante", 5: "cinquante", 6: "soixante", 8: "quatre-vingt"}
_FRENCH = re.compile(r"(?<![\w.,-])(\d{1,2}|[IVX]+)(ers?|res?|ères?|e|ᵉ|èmes?|emes?|ièmes?|nde?|nds)(?!\w)")


def _french_cardinal(number: int) -> str:
    """Return the words of a number from 1 to 99."""
    ones = [*_FRENCH_ONES.split(), "dix-neuf"]
    if number < 20:
        return ones[number - 1]
    ten = number // 10 - (number // 10 in (7, 9))
    rest = number - 10 * ten
    if not rest:
        return _FRENCH_TENS[ten]
    return f"{_FRENCH_TENS[ten]}{' et ' if rest in (1, 11) and ten < 8 else '-'}{ones[rest - 1]}"


def _french_ordinal(match: re.Match[str]) -> str:
    number, suffix = _value(match[1]), match[2]
    if not number:
        return match[0]
    if suffix.startswith("nd"):
        return "second" + suffix[2:]
    if number == 1:
        return {"e": "premier", "r": "première", "è": "première"}[suffix[0]] + "s" * suffix.endswith("s")
    said = _french_cardinal(number)
    for end, changed in (("cinq", "cinqu"), ("neuf", "neuv")):
        said = said.removesuffix(end) + changed if said.endswith(end) else said
    return said.removesuffix("e") + "ième" + "s" * suffix.endswith("s")


_TURKISH_ONES = "birinci ikinci üçüncü dördüncü beşinci altıncı yedinci sekizinci dokuzuncu"
_TURKISH_TENS = {1: "on onuncu", 2: "yirmi yirminci", 3: "otuz otuzuncu", 4: "kırk kırkıncı", 5: "elli ellinci",
                 6: "altmış altmışıncı", 7: "yetmiş yetmişinci", 8: "seksen sekseninci",
                 9: "doksan doksanıncı"}  # fmt: skip
_TURKISH = re.compile(r"(?<![\w.,-])(?:(\d{1,2})\.(?= [a-zçğıöşü])|([IVX]+)\.(?= \w))")


def _turkish_ordinal(match: re.Match[str]) -> str:
    number = _value(match[1] or match[2])
    if not number:
        return match[0]
    ten, one = divmod(number, 10)
    if not one:
        return _TURKISH_TENS[ten].split()[1]
    return " ".join(([_TURKISH_TENS[ten].split()[0]] if ten else []) + [_TURKISH_ONES.split()[one - 1]])


_HUNGARIAN = re.compile(
    r"(?<![\w.,-])(?:([IVX]+)\.(?= \w)|([1-9]|[12]\d|3[01])\.(?= (?:század|emelet|kerület|hely|fejezet|osztály|oldal|"
    r"rész|kör|világháború|nap|hét|év(?!i)|alkalom)))"
)


def _hungarian_ordinal(match: re.Match[str]) -> str:
    number = _value(match[1] or match[2])
    if not 0 < number < 32:
        return match[0]
    return "első" if number == 1 else ordinals("hu")[number - 1][:-1]


_GERMAN_NOUNS = {
    "r": "Platz Stock Teil Tag Satz Akt Rang Band Weltkrieg Geburtstag Spieltag Sieg Versuch Abschnitt",
    "": "Etage Klasse Liga Runde Auflage Stufe Woche Stunde Ausgabe Halbzeit Generation Minute",
    "s": "Jahrhundert Kapitel Mal Semester Jahr Gebot Obergeschoss Quartal Spiel Tor",
}
"""Nouns that are numbered, by the ending of the number before them."""
_GERMAN = re.compile(
    rf"(?<![\d.,])([1-9]|[12]\d|3[01])\. (?=({'|'.join(' '.join(_GERMAN_NOUNS.values()).split())})(?!\w))"
)
_AFTER_ARTICLE = re.compile(r"(?i)(?:d(?:er|ie|as|em|en|es)|zu[mr]|vom|beim|[ia]m|bis|[jd]iese\w?|jede\w?)\s$")


def _german_ordinal(match: re.Match[str]) -> str:
    if _AFTER_ARTICLE.search(match.string[: match.start()]):
        return match[0]  # `verbalise` knows its ending
    ending = next(ending for ending, nouns in _GERMAN_NOUNS.items() if match[2] in nouns.split())
    return f"{ordinals('de')[int(match[1]) - 1]}{ending} "


_RULES: dict[str, Callable[[str], str]] = {
    "fr": lambda text: _FRENCH.sub(_french_ordinal, text),
    "tr": lambda text: _TURKISH.sub(_turkish_ordinal, text),
    "hu": lambda text: _HUNGARIAN.sub(_hungarian_ordinal, text),
    "de": lambda text: _GERMAN.sub(_german_ordinal, text),
    "es": lambda text: re.sub(r"(?<=\d)\.(?=[ºª])", "", re.sub(r"(?<!\d)1\.?er(?!\w)", "primer", re.sub(
        r"(?<!\d)3\.?er(?!\w)", "tercer", text))),
    "pt": lambda text: re.sub(r"(?<=\d)\.(?=[ºª])", "", text),
    "it": lambda text: re.sub(r"(?<=\d)°(?=\s[a-z])", "º", text),
}  # fmt: skip
