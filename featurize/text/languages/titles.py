"""Titles and other abbreviations whose full stop ends no sentence, by language, and how they are said."""

from __future__ import annotations

import re
from functools import cache

_TITLES = {
    "af": "mnr.:meneer mev.:mevrou mej.:mejuffrou dr.:dokter prof.:professor st.:sint nr.:nommer",
    "bg": "г-н.:господин г-жа.:госпожа д-р.:доктор проф.:професор св.:свети",
    "ca": "sr.:senyor sra.:senyora dr.:doctor dra.:doctora prof.:professor núm.:número",
    "cs": "p.:pan pí.:paní sl.:slečna dr.:doktor mudr.:doktor ing.:inženýr prof.:profesor sv.:svatý č.:číslo",
    "da": "hr.:herr fr.:fru frk.:frøken dr.:doktor prof.:professor skt.:sankt nr.:nummer",
    "de": "hr.:Herr fr.:Frau dr.:Doktor prof.:Professor dipl.:Diplom ing.:Ingenieur st.:Sankt nr.:Nummer",
    "el": "κ.:κύριος κα.:κυρία δρ.:δόκτωρ αγ.:άγιος",
    "es": "sr.:señor sra.:señora srta.:señorita dr.:doctor dra.:doctora prof.:profesor profa.:profesora D.:don "
    "dña.:doña ud.:usted uds.:ustedes sto.:santo sta.:santa núm.:número no.:número",
    "fi": "hra.:herra rva.:rouva nti.:neiti tri.:tohtori prof.:professori nro.:numero",
    "fr": "M.:monsieur MM.:messieurs mme.:madame mmes.:mesdames mlle.:mademoiselle dr.:docteur Pr.:professeur "
    "prof.:professeur Me.:maître st.:saint ste.:sainte no.:numéro",
    "gl": "sr.:señor sra.:señora dr.:doutor dra.:doutora",
    "hr": "g.:gospodin gđa.:gospođa dr.:doktor prof.:profesor sv.:sveti br.:broj",
    "hu": "dr.:doktor prof.:professzor ifj.:ifjabb id.:idősebb özv.:özvegy szt.:szent",
    "it": "sig.:signor sigg.:signori sig.ra:signora sig.na:signorina dott.:dottor dott.ssa:dottoressa dr.:dottor "
    "prof.:professor prof.ssa:professoressa avv.:avvocato ing.:ingegner arch.:architetto on.:onorevole S.:san "
    "n.:numero no.:numero",
    "nb": "hr.:herr fr.:fru frk.:frøken dr.:doktor prof.:professor st.:sankt nr.:nummer",
    "nl": "dhr.:meneer hr.:heer mevr.:mevrouw mw.:mevrouw mej.:mejuffrouw dr.:dokter drs.:doctorandus ir.:ingenieur "
    "mr.:meester prof.:professor st.:sint nr.:nummer no.:nummer",
    "pl": "p.:pan dr.:doktor prof.:profesor inż.:inżynier mgr.:magister ks.:ksiądz św.:święty nr.:numer",
    "pt": "sr.:senhor sra.:senhora srta.:senhorita dr.:doutor dra.:doutora prof.:professor profa.:professora D.:dom "
    "sto.:santo sta.:santa no.:número",
    "ro": "dl.:domnul dna.:doamna dra.:domnişoara dr.:doctor prof.:profesor ing.:inginer sf.:sfântul nr.:numărul",
    "ru": "г-н.:господин г-жа.:госпожа д-р.:доктор проф.:профессор св.:святой гр.:гражданин",
    "sk": "p.:pán pí.:pani dr.:doktor mudr.:doktor ing.:inžinier prof.:profesor sv.:svätý č.:číslo",
    "sl": "g.:gospod ga.:gospa gdč.:gospodična dr.:doktor prof.:profesor sv.:sveti št.:številka",
    "sr": "г.:господин г-ђа.:госпођа др.:доктор проф.:професор св.:свети бр.:број",
    "sv": "hr.:herr fr.:fru frk.:fröken dr.:doktor prof.:professor st.:sankt nr.:nummer",
    "tr": "dr.:doktor prof.:profesör av.:avukat hz.:hazreti no.:numara",
    "uk": "п.:пан д-р.:доктор проф.:професор св.:святий гр.:громадянин",
}  # fmt: skip
_ROMAN = re.compile(r"[IVXLC]{2,}[.,;:]?")
_NUMBERS = frozenset("no. nr. nro. núm. č. br. št. бр. n.".split())
"""They stand before a figure: elsewhere `no.` is a word at the end of a sentence."""
_PARTS = {
    "cs": "str.:strana kap.:kapitola obr.:obrázek",
    "da": "s.:side kap.:kapitel bd.:bind",
    "de": "S.:Seite Abs.:Absatz Kap.:Kapitel Bd.:Band Abb.:Abbildung Art.:Artikel Tab.:Tabelle",
    "es": "p.:página cap.:capítulo art.:artículo vol.:volumen",
    "fr": "p.:page chap.:chapitre art.:article vol.:volume",
    "it": "p.:pagina cap.:capitolo art.:articolo vol.:volume",
    "nb": "s.:side kap.:kapittel bd.:bind",
    "nl": "p.:pagina blz.:bladzijde hfst.:hoofdstuk art.:artikel",
    "pl": "str.:strona rozdz.:rozdział art.:artykuł",
    "pt": "p.:página cap.:capítulo art.:artigo vol.:volume",
    "ro": "p.:pagina cap.:capitolul art.:articolul",
    "ru": "стр.:страница с.:страница гл.:глава ст.:статья рис.:рисунок",
    "sv": "s.:sidan kap.:kapitel",
    "uk": "стор.:сторінка с.:сторінка розд.:розділ",
}
"""Abbreviations of parts of a book before their number."""
_MAX_PARTICLES, _MAX_PARTICLE = 3, 4
"""A name may begin with short words in lower case, as `van der Berg` and `de La Tour`: so many, of so many letters."""


def write_out(text: str, language: str) -> str:
    """Write titles and such abbreviations in words where a name or a number follows, as in `Sig. Rossi` in Italian."""
    abbreviation, words, numbers = _rules(language.partition("-")[0])
    if abbreviation is None:
        return text

    def said(match: re.Match[str]) -> str:
        short = match[0] if match[0] in words else match[0].lower()
        if short not in words or not _is_followed(text, match.end(), by_figure=short in numbers):
            return match[0]
        return words[short] + ("" if text[match.end()].isspace() else " ")

    return abbreviation.sub(said, text)


def stands_for_a_word(abbreviation: str, following: str, language: str) -> bool:
    """Return whether a word with a full stop is a title or such an abbreviation before what follows it."""
    _, words, numbers = _rules(language.partition("-")[0])
    short = abbreviation if abbreviation in words else abbreviation.lower()
    by_figure = short in numbers
    return (by_figure or short in words) and _is_followed(following, 0, by_figure=by_figure)


def _is_followed(text: str, end: int, *, by_figure: bool) -> bool:
    """Return whether a name follows an abbreviation, or a figure."""
    following = text[end : end + 100].replace("’", "'").replace("'", " ").split()
    if by_figure:
        return bool(following) and (following[0][0].isdigit() or _ROMAN.fullmatch(following[0]) is not None)
    for word in following[: _MAX_PARTICLES + 1]:
        if word[0].isupper() or not word.isalpha() or len(word) > _MAX_PARTICLE:
            return word[0].isupper()
    return False


@cache
def _rules(language: str) -> tuple[re.Pattern[str] | None, dict[str, str], frozenset[str]]:
    """Return what finds the abbreviations of a language, their words, and those that stand before a figure.

    One with a capital is always written so.
    """
    words, parts = (dict(item.split(":") for item in table.get(language, "").split()) for table in (_TITLES, _PARTS))
    words |= parts
    either = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?i)(?<![\w.])(?:{either})") if words else None, words, _NUMBERS | parts.keys()
