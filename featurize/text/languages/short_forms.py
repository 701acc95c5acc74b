"""Write abbreviations in words that stand for the same words wherever they stand, as `z. B.` and `usw.` in German.

Titles, which are such only before a name, are in `titles`.
"""

from __future__ import annotations

import re
from functools import cache

_FORMS = {
    "cs": "např.:například tj.:to_jest atd.:a_tak_dále apod.:a_podobně tzv.:takzvaný tzn.:to_znamená mj.:mimo_jiné "
    "cca:cirka tis.:tisíc mil.:milionů př._n._l.:před_naším_letopočtem n._l.:našeho_letopočtu tel.:telefon",
    "da": "f.eks.:for_eksempel bl.a.:blandt_andet dvs.:det_vil_sige osv.:og_så_videre m.m.:med_mere ca.:cirka "
    "kl.:klokken f.Kr.:før_Kristus e.Kr.:efter_Kristus tlf.:telefon",
    "de": "z._B.:zum_Beispiel d._h.:das_heißt u._a.:unter_anderem i._d._R.:in_der_Regel z._T.:zum_Teil "
    "o._ä.:oder_ähnliches u._ä.:und_ähnliches v._a.:vor_allem usw.:und_so_weiter bzw.:beziehungsweise ca.:circa "
    "etc.:et_cetera evtl.:eventuell ggf.:gegebenenfalls inkl.:inklusive vgl.:vergleiche sog.:sogenannte Mio.:Millionen "
    "Mrd.:Milliarden Std.:Stunden Tel.:Telefon Jh.:Jahrhundert v._Chr.:vor_Christus n._Chr.:nach_Christus",
    "el": "π.χ.:παραδείγματος_χάρη κ.λπ.:και_λοιπά κ.ά.:και_άλλα δηλ.:δηλαδή π.μ.:προ_μεσημβρίας μ.μ.:μετά_μεσημβρίας",
    "es": "p._ej.:por_ejemplo etc.:etcétera EE._UU.:Estados_Unidos aprox.:aproximadamente tel.:teléfono pág.:página "
    "a._C.:antes_de_Cristo d._C.:después_de_Cristo n.º:número n°:número nº:número",
    "fi": "esim.:esimerkiksi jne.:ja_niin_edelleen ym.:ynnä_muuta klo:kello eKr.:ennen_Kristusta "
    "jKr.:jälkeen_Kristuksen puh.:puhelin",
    "fr": "p._ex.:par_exemple c.-à-d.:c'est-à-dire etc.:et_cetera env.:environ tél.:téléphone n°:numéro nº:numéro "
    "av._J.-C.:avant_Jésus-Christ apr._J.-C.:après_Jésus-Christ",
    "hu": "pl.:például stb.:és_a_többi kb.:körülbelül ill.:illetve ún.:úgynevezett tel.:telefon Kr._e.:Krisztus_előtt "
    "Kr._u.:Krisztus_után",
    "it": "ad_es.:ad_esempio p._es.:per_esempio ecc.:eccetera tel.:telefono pag.:pagina a._C.:avanti_Cristo "
    "d._C.:dopo_Cristo n°:numero nº:numero",
    "nb": "f.eks.:for_eksempel bl.a.:blant_annet dvs.:det_vil_si osv.:og_så_videre m.m.:med_mer ca.:cirka kl.:klokken "
    "f.Kr.:før_Kristus e.Kr.:etter_Kristus tlf.:telefon",
    "nl": "bijv.:bijvoorbeeld bv.:bijvoorbeeld d.w.z.:dat_wil_zeggen enz.:enzovoort etc.:et_cetera o.a.:onder_andere "
    "ca.:circa tel.:telefoon a.u.b.:alstublieft i.p.v.:in_plaats_van m.b.t.:met_betrekking_tot "
    "t.o.v.:ten_opzichte_van mln.:miljoen mld.:miljard v._Chr.:voor_Christus n._Chr.:na_Christus",
    "pl": "np.:na_przykład tj.:to_jest itd.:i_tak_dalej itp.:i_tym_podobne m.in.:między_innymi ok.:około "
    "tzn.:to_znaczy tzw.:tak_zwany tel.:telefon nr:numer tys.:tysięcy p.n.e.:przed_naszą_erą n.e.:naszej_ery "
    "zob.:zobacz",
    "pt": "p._ex.:por_exemplo etc.:et_cetera tel.:telefone pág.:página a._C.:antes_de_Cristo d._C.:depois_de_Cristo "
    "n.º:número n°:número nº:número",
    "ro": "etc.:et_cetera tel.:telefon î._Hr.:înainte_de_Hristos d._Hr.:după_Hristos",
    "ru": "т._е.:то_есть т._д.:так_далее т._п.:тому_подобное т._к.:так_как см.:смотри напр.:например тел.:телефон "
    "до_н._э.:до_нашей_эры н._э.:нашей_эры",
    "sv": "t.ex.:till_exempel bl.a.:bland_annat d.v.s.:det_vill_säga dvs.:det_vill_säga osv.:och_så_vidare "
    "m.m.:med_mera ca:cirka kl.:klockan f.Kr.:före_Kristus e.Kr.:efter_Kristus tel.:telefon",
    "tr": "vb.:ve_benzeri örn.:örneğin M.Ö.:milattan_önce M.S.:milattan_sonra tel.:telefon",
    "uk": "т._д.:так_далі т._п.:таке_подібне див.:дивись напр.:наприклад тел.:телефон до_н._е.:до_нашої_ери "
    "н._е.:нашої_ери",
}
"""By language, abbreviations and their words; `_` is a space, which may be left out within an abbreviation."""
_CLOSING = frozenset(
    "usw. etc. o.ä. u.ä. atd. apod. osv. m.m. jne. ym. ecc. enz. itd. itp. т.д. т.п. vb. stb. κ.λπ. κ.ά. v.Chr. n.Chr. "
    "a.C. d.C. n.l. f.Kr. e.Kr. eKr. jKr. n.e. p.n.e. н.э. н.е. дон.э. дон.е. Kr.e. Kr.u. M.Ö. M.S. EE.UU. π.μ. "
    "μ.μ.".split()
)
"""They may end a sentence: a capital letter after one, or nothing, keeps the full stop."""


def write_out(text: str, language: str) -> str:
    """Write the abbreviations of a language in words."""
    pattern, words = _rules(language.partition("-")[0])
    if pattern is None:
        return text
    return pattern.sub(lambda match: _with_stop(match, text, words), text)


def _with_stop(match: re.Match[str], text: str, words: dict[str, str]) -> str:
    """Return the words of an abbreviation, with the full stop that it shares with its sentence."""
    written = re.sub(r"\s", "", match[0])
    said = words.get(written) or words[written[0].lower() + written[1:]]
    following = text[match.end() : match.end() + 2].strip()
    if not following and written.endswith(".") and written not in _CLOSING:
        return match[0]  # a word that ends a text
    return said + "." * (written in _CLOSING and (not following or following[0].isupper()))


@cache
def _rules(language: str) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """Return what finds the abbreviations of a language, and their words."""
    pairs = [item.split(":") for item in _FORMS.get(language, "").split()]
    words = {short.replace("_", ""): said.replace("_", " ") for short, said in pairs}
    longest_first = sorted((short for short, _ in pairs), key=len, reverse=True)
    either = "|".join(
        f"[{short[0]}{short[0].upper()}]{re.escape(short[1:]).replace('_', chr(92) + 's?')}" for short in longest_first
    )
    return re.compile(rf"(?<![\w.])(?:{either})(?!\w)") if words else None, words
