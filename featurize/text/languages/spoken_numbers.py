"""Write what stands between figures in words: times, dates, ratios, ranges, fractions, signs, units and currencies.

espeak-ng itself reads the figures, by the rules of each language. It reads `14:30` as two numbers or with its word for
a colon, `5-10` as two numbers or as a subtraction, and drops many signs.
"""

from __future__ import annotations

import re

from headrace.featurize.text.languages.number_words import (
    FEMININE,
    FRACTIONS,
    HALVES,
    KINGS,
    MONTHS,
    form,
    ordinals,
    words,
)
from headrace.featurize.text.languages.rewriting import ROMAN_NUMERALS, VULGAR_FRACTIONS, mark_inches

_POINT_LANGUAGES = frozenset({"hi", "ar"})
"""Languages whose decimals have a point, and their thousands a comma."""
_DASH = "[-−–—]"
_AMOUNT = r"\d+(?:[.,]\d+)?"
_MEASURES = "km/h|m/s|km²|km2|m²|m2|m³|m3|km|cm|mm|kg|m|g|l|°C|℃|°|″"
_AN_HOUR = {"nl": "km/u", "tr": "km/s", "da": "km/t", "nb": "km/t", "cs": "km/hod", "pl": "km/godz"}
"""How languages shorten kilometres an hour, where it is not `km/h`."""
_CLOCKS = {"da": "klokken|kl", "nb": "klokken|kl", "sv": "klockan|kl", "fi": "kello|klo", "id": "pukul|jam",
           "it": "alle|dalle|ore", "de": "um", "ro": "ora|orele", "cs": "v|ve|od|do", "pl": "o|godz"}  # fmt: skip
"""Words before a time of day, whose minutes a point may divide from its hours."""
_MONEY = "[€$£¥₹₽₴₺₫]|R\\$|zł|Kč|Ft|Rp|kr"
_MONEY_SHORT = {"ru": (r"руб\.?", "₽"), "uk": (r"грн\.?", "₴"), "tr": ("TL", "₺"), "vi": ("đ", "₫"),
                "sv": (r"kr\.", "kr"), "da": (r"kr\.", "kr"), "nb": (r"kr\.", "kr")}  # fmt: skip
"""Abbreviations of currencies, and the sign that they stand for."""
_THOUSANDS = re.compile(r"(?<![\d.,+])[1-9]\d{0,2}(?:([. '’])\d{3})(?:\1\d{3})*(?![\d])")
_MANY_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{2,3})*,\d{3}(?:,\d{3})*(?![\d])")
_TELEPHONE = re.compile(
    r"(?<![\w.,-])(?:\+\d(?:[-/ ]?(?:\(0\) ?)?\d)+|0\d{1,4}(?:[-/]\d{2,})+|0\d{1,5} \d{5,9}|0\d{7,11}"
    r"|\d{3}-\d{4}|\d{3}-\d{3}(?:-\d{2,4})+)(?![\w-])"
)
_ISO_DATE = re.compile(r"(?<![\d.-])([12]\d{3})-(0?[1-9]|1[0-2])-(0?[1-9]|[12]\d|3[01])(?![\d-])")
_DATE = re.compile(r"(?<![\d./-])(0?[1-9]|[12]\d|3[01])([./-]) ?(0?[1-9]|[12]\d|3[01])\2 ?([12]\d{3})(?!\d)")
_SHORT_DATE = re.compile(r"(?<![\d.])(0?[1-9]|[12]\d|3[01])\. ?(0?[1-9]|1[0-2])\.(?=\s|$)")
_TIME = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4])(:|[hH.])([0-5]\d)(?::([0-5]\d))?(?![\d:]|[.,]\d|\w)")
_PERIOD = re.compile(rf"(?<=\d:\d\d) ?{_DASH} ?(?=\d{{1,2}}:\d\d(?!\d))")
_WHOLE_HOUR = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4]) ?h(?!\w)")
_RATIO = re.compile(r"(?<![\d:])(\d{1,9}(?:[.,]\d{1,3})?(?: ?: ?\d{1,9}(?:[.,]\d{1,3})?)+)(?![\d:])")
_IS_RATIO = re.compile(
    r"(?i)(?:verhältnis|maßstab|mischung|ergebnis|spielstand|rapport|échelle|proporci|proporç|escala|razón|rapporto|"
    r"scala|verhouding|schaal|stosun|skal|wynik|poměr|měřítk|skóre|соотнош|пропорц|масштаб|сч[её]т|співвідн|рахун|förhåll|"
    r"forhold|suhte|suhde|oran|ölçe|raport|arány|αναλογ|अनुपात|نسبة|tỉ lệ|tỷ lệ|rasio|score|result|marcador)"
    r"\w*\W+(?:\w+\W+){0,2}$"
)
_FRACTION = re.compile(r"(?<![\d/.,])(?:(\d{1,9}) )?(\d{1,9})/(\d{1,9})(?![\d/]|[.,]\d)")
_SUBTRACTION = re.compile(rf"(?<=[\d)²³]) {_DASH} (?=[\d(])")
_RANGE = re.compile(
    rf"(?<![\w.,-])({_AMOUNT} ?(?:%|{_MONEY}|{_MEASURES})?) ?{_DASH} ?(?=(?:{_MONEY})?{_AMOUNT}(?![\d-]|\w*-\d))"
)
_MINUS = re.compile(r"(?<![\w)\d])[-−–](?=\d)|−")
_MEASURE = re.compile(rf"(?<![\w.,])({_AMOUNT}) ?({_MEASURES})(?![\w²³])")
_PRICE_BEFORE = re.compile(rf"({_MONEY}) ?({_AMOUNT})(?![\d])")
_PRICE_AFTER = re.compile(rf"(?<![\w.,])({_AMOUNT}) ?({_MONEY})(?![\w])")
_VERSION = re.compile(r"(?<=\d)\.(?=\d)")
_POWER = re.compile(r"(?<=[\w)])[²³]")
_ROMAN = re.compile(r"(?<!\w)([^\W\d_]+) ((?=[IVX]{2,})X{0,2}(?:IX|IV|V?I{0,3}))(?![\w])(\.?)")
_LONE_ROMAN = re.compile(
    r"(?<!\w)(Karl|Ludwig|Heinrich|Friedrich|Wilhelm|Otto|Franz|Georg|Willem|Karel|Filips|Lodewijk|Hendrik|Carlos|"
    r"Felipe|Fernando|Alfonso|Isabel|Enrique|Pedro|João|Manuel|Afonso|Gustav|Oscar|Christian|Frederik|Erik)"
    r" ([IVX])(?!\w)(\.?)"
)
"""Kings, whose number may have one letter: behind other names it may be a word."""
_NO_KING = re.compile(
    r"Kapitel|Band|Teil|Artikel|Abschnitt|Akt|Weltkrieg|Klasse|Stufe|Typ|Phase|Siglo|Capítulo|Tomo|Parte|Fase|Século|"
    r"Hoofdstuk|Deel|Akte|Kapitel|Del|Guerra|Mundial|Oorlog|Wereldoorlog|Liga|Division|Serie|Type|Tipo|Clase"
)
_ARTICLES = {"de": "der", "nl": "de", "sv": "den", "da": "den", "nb": "den"}
_SIGN = re.compile(r"[^\w\s]|[²³]")
_CYRILLIC_UNITS = {"км/ч": "km/h", "км/год": "km/h", "км²": "km²", "м²": "m²", "м³": "m³", "км": "km", "см": "cm",
                   "мм": "mm", "кг": "kg", "м": "m", "л": "l", "г": "g"}  # fmt: skip
_CYRILLIC_UNIT = re.compile(rf"(?<![\w.,])({_AMOUNT}) ?({'|'.join(_CYRILLIC_UNITS)})(?![\w²³/])(?:\.(?= [а-яёіїє\d]))?")
_DATIVES = {"ru": "одному двум трём четырём пяти шести семи восьми девяти десяти",
            "uk": "одного двох трьох чотирьох п'яти шести семи восьми дев'яти десяти"}  # fmt: skip
"""One to ten after the word for a ratio."""
_DECIMALS = {"ru": ("целая|целых", ("десятая|десятых", "сотая|сотых", "тысячная|тысячных")),
             "uk": ("ціла|цілих", ("десята|десятих", "сота|сотих", "тисячна|тисячних"))}  # fmt: skip


def _latin_unit(found: re.Match[str]) -> str:
    """Write a unit in Latin letters; г after the four figures of a year is no gram."""
    if found[2] == "г":
        return f"{found[1]} года" if len(found[1]) == 4 else f"{found[1]} g"
    return f"{found[1]} {_CYRILLIC_UNITS[found[2]]}"


def verbalise(text: str, voice: str) -> str:
    """Write what is between and beside figures in words of a language; figures stay for espeak-ng.

    Of a language without such words only times and ratios change: their figures are separated.
    """
    return _Writer(voice.partition("-")[0]).write(text)


def _is_ratio(found: re.Match[str]) -> bool:
    """Return whether one of the three words before a match says that it is a ratio or a score."""
    return _IS_RATIO.search(found.string, max(0, found.start() - 60), found.start()) is not None


def has_words(voice: str) -> bool:
    """Return whether the words of a voice's language for signs and units are known here."""
    return bool(words(voice.partition("-")[0]))


class _Writer:
    """Rules of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.words = words(language)

    def write(self, text: str) -> str:
        """Apply all rules, in order."""
        for fraction, figures in VULGAR_FRACTIONS.items():
            text = re.sub(rf"(?<=\d){fraction}", f" {figures}", text).replace(fraction, figures)
        text = _TELEPHONE.sub(self._telephone, text)
        if self.language in _MONEY_SHORT:
            short, sign = _MONEY_SHORT[self.language]
            text = re.sub(rf"(?<=\d) ?{short}(?!\w)", lambda found: self._currency(found, sign), text)
        if self.words:
            text = self._join_thousands(self._dates(_CYRILLIC_UNIT.sub(_latin_unit, text)))
        text = _RATIO.sub(self._ratio, self._times(text))
        text = self._beside(text) if self.words else text
        return re.sub("(perc|óra)-kor", r"\1kor", text) if self.language == "hu" else text

    @staticmethod
    def _currency(found: re.Match[str], sign: str) -> str:
        """Return a sign for an abbreviated currency, with the full stop that it shares with its sentence."""
        rest = found.string[found.end() :].strip()
        return f" {sign}" + "." * (found[0].endswith(".") and (not rest or rest[0].isupper()))

    def _join_thousands(self, text: str) -> str:
        if self.language in _POINT_LANGUAGES:
            return _MANY_COMMAS.sub(lambda found: found[0].replace(",", ""), text)
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3}){2,}(?!\d)", lambda found: found[0].replace(",", ""), text)
        return _THOUSANDS.sub(lambda found: found[0].replace(found[1], ""), text)

    def _telephone(self, found: re.Match[str]) -> str:
        """Read a telephone number figure by figure, with pauses; French reads pairs as they are written."""
        groups = [" ".join(group) for group in re.findall(r"\d+", found[0])]
        if len(re.sub(r"\D", "", found[0])) < 7:
            return found[0]
        return ("+ " if found[0].startswith("+") else "") + ", ".join(groups)

    def _dates(self, text: str) -> str:
        months = MONTHS.get(self.language, "").split()
        if not months:
            return text
        text = _ISO_DATE.sub(lambda found: self._date(found, found[3], found[2], found[1]), text)

        def numeric(found: re.Match[str]) -> str:
            day, month = (found[1], found[3]) if int(found[3]) < 13 else (found[3], found[1])
            return self._date(found, day, month, found[4]) if int(month) < 13 else found[0]

        text = _DATE.sub(numeric, text)
        if ordinals(self.language):
            text = _SHORT_DATE.sub(self._short_date, text)
            text = self._ordinals(text, "|".join(map(re.escape, months)))
        if self.language == "fr":
            text = re.sub(rf"(?<!\d)1(?= (?:{'|'.join(months)}))", "1er", text)
        return text

    def _short_date(self, found: re.Match[str]) -> str:
        """Write a day of any year; what ends a text can be a decimal, unless a word for a time stands before it."""
        before = found.string[: found.start()]
        is_last = not found.string[found.end() :].strip()
        if is_last and not re.search(r"(?i)\b(?:am|vom|bis|zum|den|der|dem|dne|od|do|dnia)\s$", before):
            return found[0]
        return self._date(found, found[1], found[2], "") + ("." if is_last else "")

    def _date(self, found: re.Match[str], day: str, month: str, year: str) -> str:
        name = MONTHS[self.language].split()[int(month) - 1]
        written = self._day(int(day), found.string[: found.start()])
        if self.language in ("es", "pt"):
            return f"{written} de {name}" + (f" de {year}" if year else "")
        if self.language == "hu":
            return f"{year} {name} {written}".strip()
        return f"{written} {name} {year}".strip()

    def _day(self, day: int, before: str) -> str:
        """Return the words of a day of a month as they are after what stands before it, or its figures."""
        if not ordinals(self.language):
            return "1er" if self.language == "fr" and day == 1 else str(day)
        word = ordinals(self.language)[day - 1]
        if self.language != "de" or re.search(r"(?i)\b(?:der|die|das|jede|diese)\s$", before):
            return word
        is_dative = re.search(r"(?i)\b(?:am|vom|zum|beim|im|den|dem|des|bis|ab|seit|zur|einen|jeden|jedem)\s$", before)
        return word + ("n" if is_dative else "r")

    def _ordinals(self, text: str, months: str) -> str:
        """Write the ordinal numbers before or after the names of months, and others that end in a full stop."""
        language, found_day = self.language, r"(?<![\d.,:])([1-9]|[12]\d|3[01])"

        def day(found: re.Match[str]) -> str:
            return self._day(int(found[1]), found.string[: found.start()])

        if language == "hu":
            after = re.compile(rf"(?i)((?:{months}) )([1-9]|[12]\d|3[01])\b(?:\.|-([áeé]n))?")
            return after.sub(self._hungarian_day, text)
        text = re.sub(rf"(?i){found_day}\.?(?= (?:{months})\b)", day, text)
        if language == "de":
            article = (
                r"(?i:\b(?:am|der|die|das|dem|den|des|vom|zum|zur|beim|im|bis|jede[nmrs]?|diese[nmrs]?|eine[nrm]?))"
            )
            text = re.sub(
                rf"({article} )([1-9]|[12]\d|3[01])\.(?= \w)",
                lambda found: found[1] + self._day(int(found[2]), found[1]),
                text,
            )
        if language in ("da", "nb", "fi"):
            text = re.sub(rf"{found_day}\.(?= [a-zåäöæø])", day, text)
        return text

    def _hungarian_day(self, found: re.Match[str]) -> str:
        day = ordinals("hu")[int(found[2]) - 1]
        return found[1] + (day[:-1] + "én" if found[3] else day)

    def _times(self, text: str) -> str:
        if self.words:
            text = _PERIOD.sub(f" {self.words['to'].strip()} ".replace("  ", " "), text)
        hour_words = "|".join(map(re.escape, filter(None, self.words.get("hour", "").split("|"))))
        after = re.compile(rf"\s?(?:{hour_words})(?!\w)") if hour_words else None

        clock = re.compile(rf"(?i)(?<!\w)(?:{_CLOCKS[self.language]})\.?\s$") if self.language in _CLOCKS else None

        def said(found: re.Match[str]) -> str:
            hour, sign, minute, second = found.groups()
            followed = after.match(text, found.end()) if after else None
            is_dotted = sign == "." and (followed or (clock and clock.search(text, 0, found.start())))
            is_time = sign == ":" or (sign in "hH" and "h" in hour_words) or is_dotted
            if not is_time or _is_ratio(found):
                return found[0]
            return self._time(int(hour), int(minute), second) + ("\x00" if followed else "")

        text = _TIME.sub(said, text)
        if after:
            text = re.sub(rf"\x00\s?(?:{hour_words})(?!\w)", "", text)
        if "h" in hour_words.split("|"):
            text = _WHOLE_HOUR.sub(lambda found: self._time(int(found[1]), 0, None), text)
        return text

    def _time(self, hour: int, minute: int, second: str | None) -> str:
        rule = "time" if minute or second else "hours"
        template = self.words.get(f"{rule}{hour}") or self.words.get(rule, "{h} {m}" if rule == "time" else "{h}")
        said = form(template, str(hour), self.language).format(h=self.words.get(f"h{hour}", str(hour)), m=minute)
        is_bare = template.endswith("{h} {m}") and 0 < minute < 10
        return (f"{hour} 0 {minute}" if is_bare else said) + (f" {int(second)}" if second else "")

    def _ratio(self, found: re.Match[str]) -> str:
        parts = [part.strip() for part in found[1].split(":")]
        is_ratio = parts[0] == "1" or _is_ratio(found)
        word = self.words.get("score", self.words.get("ratio", "")) if not is_ratio else self.words.get("ratio", "")
        if word.strip() and self.language in _DATIVES:
            others = {str(number): said for number, said in enumerate(_DATIVES[self.language].split(), 1)}
            others |= {"100": "ста", "1000": "тысяче" if self.language == "ru" else "тисячі"}
            parts[1:] = [others.get(part, part) for part in parts[1:]]
        return f" {word.strip()} ".replace("  ", " ").join(parts)

    def _beside(self, text: str) -> str:
        """Write what is beside figures: fractions, signs, units and currencies, decimals of some languages."""
        text = _FRACTION.sub(self._fraction, text)
        text = _SUBTRACTION.sub(f" {self.words['minus']} ", text)
        to = self.words["to"].strip()
        text = _RANGE.sub(lambda found: f"{found[1]}-" if to == "-" else f"{found[1]} {to} ".replace("  ", " "), text)
        text = _MINUS.sub(f"{self.words['minus']} ", text)
        text = _PRICE_BEFORE.sub(lambda found: self._price(found[2], found[1]) or found[0], text)
        text = _PRICE_AFTER.sub(lambda found: self._price(found[1], found[2]) or found[0], text)
        if "″" in self.words:
            text = mark_inches(text)
        if self.language in _AN_HOUR:
            text = re.sub(rf"(?<=\d) ?{_AN_HOUR[self.language]}(?!\w)", " km/h", text)
        text = _MEASURE.sub(lambda found: self._measure(found[1], found[2]), text)
        text = _POWER.sub(lambda found: f" {self.words[found[0]]}", text)
        text = _SIGN.sub(self._sign, _LONE_ROMAN.sub(self._king, _ROMAN.sub(self._king, text)))
        return self._decimals(text)

    def _king(self, found: re.Match[str]) -> str:
        """Read a roman numeral: of a king by an ordinal number where its words are here, else as figures."""
        name, numeral, stop = found.groups()
        value = ROMAN_NUMERALS.get(numeral)
        if value is None or self.language == "it":  # espeak-ng reads it as an ordinal number
            return found[0]
        is_name = name[0].isupper() and not _NO_KING.fullmatch(name)
        kings = KINGS.get(self.language, "").split() or (ordinals(self.language) if self.language in _ARTICLES else [])
        if not is_name or value > len(kings):
            return f"{name} {value}{stop}"
        is_woman = name.endswith("a") or name in ("Elisabeth", "Isabel", "Beatriz", "Margarethe", "Margrethe")
        word = kings[value - 1]
        if self.language in ("es", "pt"):
            return f"{name} {word[:-1] + 'a' if is_woman else word}{stop}"
        article = "die" if is_woman and self.language == "de" else _ARTICLES[self.language]
        ends = found.end() == len(found.string)
        return f"{name} {article} {word.title() if self.language == 'de' else word}{stop if ends else ''}"

    def _sign(self, found: re.Match[str]) -> str:
        word = self.words.get(found[0])
        before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
        if word is None:
            return found[0]
        return f"{' ' if before.strip() else ''}{word.split('|')[-1]}{' ' if after.isalnum() else ''}"

    def _fraction(self, found: re.Match[str]) -> str:
        whole, above, below = found.groups()
        names = FRACTIONS.get(self.language, "").replace("| ", "|").split()
        start = f"{whole} " if whole else ""
        if above == "1" and below == "2" and self.language in HALVES:
            return start + HALVES[self.language]
        if 2 <= int(below) <= 10 and names and int(above) < int(below):
            count = dict(zip("12", FEMININE.get(self.language, (self.words.get("one", "1"), "2")), strict=True))
            name = form(names[int(below) - 2], above, self.language)
            return f"{start}{count.get(above, above)} {name}"
        return f"{start}{above} {self.words['over']} {below}"

    def _count(self, amount: str) -> str:
        return self.words.get("one", amount) if amount == "1" else amount

    def _measure(self, amount: str, unit: str) -> str:
        unit = {"km2": "km²", "m2": "m²", "m3": "m³", "℃": "°C"}.get(unit, unit)
        length, per, _ = unit.partition("/")
        word = form(self.words[length], amount, self.language)
        over = (self.words["/h"] if unit == "km/h" else "/s") if per else ""
        if over == "saatte":
            return f"{over} {amount} {word}"
        return f"{self._count(amount)} {word} {over}".strip() if over != "/s" else f"{amount} {unit}"

    def _price(self, amount: str, sign: str) -> str:
        """Return an amount of money in words; nothing if the language has no word for its currency here."""
        word = self.words.get(sign)
        if word is None:
            return ""
        whole, _, cents = amount.replace(",", ".").partition(".")
        said = f"{self._count(whole)} {form(word, whole, self.language)}"
        if len(cents) == 2:
            return said + (f" {int(cents)}" if int(cents) else "")
        return f"{amount} {form(word, '5', self.language)}" if cents else said

    def _decimals(self, text: str) -> str:
        if self.language in _DECIMALS:
            text = re.sub(r"(?<![\d.,])(\d{1,12}),(\d{1,3})(?!\d|,\d)", self._decimal, text)
        if self.language in _POINT_LANGUAGES:
            text = re.sub(r"(?<![\d.,])(\d+)[,٫](?=\d+(?!\d|,\d))", r"\1.", text)
            return re.sub(r"(?<=\d)\.(?=\d+\.\d)|(?<=\d\.\d)\.(?=\d)", f" {self.words['point']} ", text)
        if self.language == "sv":
            text = re.sub(r"(?<=\d),(?=\d)", f" {self.words['comma']} ", text)
        text = _VERSION.sub(f" {self.words['point']} ", text)
        return re.sub(r"(?<![\d.,])1([1-9])(\d\d)(?![\d,.]\d|\d)", self._year, text) if self.language == "de" else text

    def _decimal(self, found: re.Match[str]) -> str:
        """Write a decimal of Russian or Ukrainian: so many wholes, so many tenths."""
        wholes, shares = _DECIMALS[self.language]
        whole, part = str(int(found[1])), str(int(found[2]))
        feminine = dict(zip("12", FEMININE[self.language], strict=True))

        def said(count: str, word: str) -> str:
            one = count[-1] == "1" and count[-2:] != "11"
            return f"{feminine.get(count, count)} {word.split('|')[0 if one else 1]}"

        return f"{said(whole, wholes)} {said(part, shares[len(found[2]) - 1])}"

    def _year(self, found: re.Match[str]) -> str:
        """Write 1100 to 1999 by hundreds, as German says years and most other numbers."""
        return f"1{found[1]} hundert" + (f" {int(found[2])}" if int(found[2]) else "")
