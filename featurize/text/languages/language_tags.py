"""Find the language that a tag stands for: an ISO 639 code, or a BCP 47 tag with script, region and variants."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

LANGUAGE_TAGS = {"zh": "zh", "en": "en", "ja": "ja", "jp": "ja", "ko": "ko", "yue": "yue"}
"""ISO codes by GPT-SoVITS' tags in lower case: the languages with a frontend of their own."""

_NAMES = (
    "en english, zh chinese mandarin, ja japanese, ko korean, yue cantonese, de german deutsch, fr french, es spanish, "
    "it italian, pt portuguese, nl dutch, pl polish, ru russian, uk ukrainian, cs czech, sk slovak, sl slovenian, hr "
    "croatian, sr serbian, bg bulgarian, ro romanian, hu hungarian, fi finnish, sv swedish, da danish, nb norwegian, "
    "is icelandic, et estonian, lv latvian, lt lithuanian, el greek, tr turkish, ar arabic, he hebrew, fa persian, hi "
    "hindi, bn bengali, ta tamil, te telugu, vi vietnamese, th thai, id indonesian, ms malay, ca catalan, eu basque, "
    "ga irish, cy welsh, sw swahili, kk kazakh"
)
"""English names of languages, as corpora have them in place of tags and in the names of their folders."""
_NAMES_OF_THEIR_OWN = (
    "zh 中文 汉语 漢語 国语 國語 华语 華語 普通话 普通話 中英混合 putonghua chinese-english-mixed, "
    "yue 粤语 粵語 广东话 廣東話 粤英混合 yue-english-mixed cantonese-english-mixed, "
    "en 英文 英语 英語 english-mixed, ja 日文 日语 日語 日本語 日英混合 japanese-english-mixed, "
    "ko 韩文 韩语 韓文 韓語 한국어 조선어 韩英混合 korean-english-mixed, de 德语 德文, fr 法语 法文 français, "
    "es 西班牙语 español castellano, it 意大利语 italiano, pt 葡萄牙语 português, ru 俄语 俄文 русский, "
    "vi 越南语, th 泰语, ar 阿拉伯语 العربية, nl nederlands, pl polski, tr türkçe, uk українська, "
    "auto 多语种混合 multilingual-mixed, auto-yue 多语种混合(粤语) multilingual-mixed(yue)"
)
"""Names of languages in themselves and in Chinese, and those of mixed languages in GPT-SoVITS' interface, which are
read by script here in any case. Spaces are hyphens."""
AUTO = frozenset({"auto", "auto-yue"})
"""Upstream's tags of texts whose language their scripts tell. Chinese characters are Cantonese by the second."""
_TAG = re.compile("[a-z]{2,3}(-[a-z0-9]{1,8}){0,9}")
_SCRIPT = re.compile("-(?:[a-z]{4})(?=-|$)")
_CANTONESE_REGIONS = frozenset({"hk", "mo", "yue"})
"""Subtags by which a Chinese tag means Cantonese, which is what corpora of Hong Kong and Macao hold."""
_CODES = (
    "af afr, an arg, am amh, ar ara arb, as asm, az aze azj, ba bak, be bel, bg bul, bn ben, bs bos, ca cat, cs ces "
    "cze, cv chv, cy cym wel, da dan, de deu ger, el ell gre, en eng, eo epo, es spa, et est ekk, eu eus baq, fa "
    "fas per pes, fi fin, fo fao, fr fra fre, ga gle, gd gla, gn grn gug, gu guj, he heb iw, hi hin, hr hrv hbs sh, "
    "ht hat, hu hun, hy hye arm, ia ina, id ind in, io ido, is isl ice, it ita, ja jpn jp, ka kat geo, kk kaz, kl "
    "kal, kn kan, ko kor, kok gom knn, ku kur kmr, ky kir, la lat, lb ltz, lt lit, lv lav lvs, mi mri mao, mk mkd "
    "mac, ml mal, mr mar, ms msa may zsm, mt mlt, my mya bur, nb nob no nor, ne nep npi, nl nld dut, om orm gaz, or "
    "ori ory, pa pan, piqd tlh, pl pol, pt por, qu que quz, ro ron rum mo, ru rus, sd snd, si sin, sk slk slo, sl "
    "slv, sq sqi alb als, sr srp, sv swe, sw swa swh, ta tam, te tel, th tha, ti tir, tk tuk, tn tsn, tr tur, tt "
    "tat, ug uig, uk ukr, ur urd, uz uzb uzn, vi vie, zh zho chi cmn"
)
"""The other codes of languages that can be read, behind the one that is used here: those of ISO 639-3 and 639-2/B, that
of the standard language of a macrolanguage, and withdrawn ones."""
_BY_NAME = {
    name: group.split()[0]
    for names in (_NAMES, _NAMES_OF_THEIR_OWN)
    for group in names.split(",")
    for name in group.split()[1:]
}
_BY_CODE = {code: group.split()[0] for group in _CODES.split(",") for code in group.split()}


@lru_cache(maxsize=1024)
def language_code(tag: str) -> str:
    """Return the code of the language that reads a tag, or has an English name; empty if it is neither.

    Scripts, regions and variants count only where espeak-ng has a voice of that name: `es-MX` and `spa` are `es`,
    `pt_BR` is `pt-br`. Chinese of Hong Kong and Macao is Cantonese. A language that nothing here reads is
    returned in lower case.
    """
    lower = re.split("[.@]", unicodedata.normalize("NFC", tag.strip().lower()).replace("_", "-"))[0]
    lower = re.sub(r"\s+", "-", lower.removeprefix("all-"))
    lower = _BY_NAME.get(lower) or _BY_NAME.get(re.sub(r"-?\(.*\)$|-[a-z]{2}$", "", lower), lower)
    if lower in AUTO:
        return lower
    if lower in LANGUAGE_TAGS:
        return LANGUAGE_TAGS[lower]
    if not _TAG.fullmatch(lower):
        named = next(filter(None, map(_BY_NAME.get, lower.split("-"))), "")  # mandarin-chinese
        return _voices().get(lower, named)
    language, *others = lower.split("-")
    if "latn" in others and lower in _voices():
        return lower  # Chinese in Latin letters
    if _BY_CODE.get(language) == "zh" and _CANTONESE_REGIONS.intersection(others):
        return "yue"
    code = _BY_CODE.get(language, language)
    if code in LANGUAGE_TAGS:
        return LANGUAGE_TAGS[code]
    return _voice("-".join((code, *others))) or lower


def unknown_language(tag: str) -> str:
    """Return what is said of a tag that nothing here reads: what is spelled nearly so, and what is read."""
    near = difflib.get_close_matches(tag.strip().lower().replace("_", "-"), [*_BY_NAME, *_BY_CODE, *_voices()], 1, 0.75)
    nearest = f" (is it {near[0]}?)" if near else ""
    own = ", ".join(dict.fromkeys(LANGUAGE_TAGS.values()))
    return f"nothing here reads language {tag[:40]!r}{nearest}: {own} are read, and what espeak-ng does, as de or pt-BR"


def unknown_tag(tag: str) -> str:
    """Return the problem of an entry whose corpus gives its language by this tag; empty if it has none."""
    return unknown_language(tag) if tag and not language_code(tag) else ""


def _voices() -> Mapping[str, str]:
    from headrace.featurize.text import espeak  # not above: the names of formats are in `--help`, which needs no NumPy

    return espeak.voices()


def _voice(tag: str) -> str:
    """Return the voice of espeak-ng for the longest beginning of a tag, with its script or without; or nothing."""
    voices, subtags = _voices(), tag.split("-")
    for count in range(len(subtags), 0, -1):
        beginning = "-".join(subtags[:count])
        for candidate in (beginning, _SCRIPT.sub("", beginning)):
            if candidate in voices:
                return voices[candidate]
    return ""
