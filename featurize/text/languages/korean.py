"""Read Korean: the rules of standard pronunciation (표준 발음법, 1988) over MeCab's parts of speech, as jamo.

Syllables are decomposed into conjoining jamo (Unicode's canonical decomposition), adjacent consonants assimilate, and
the result is spelled as in the symbol table: compatibility jamo, a diphthong as two of them, `空` between words. The
order of the rules is g2pK's (Park 2019). Numbers in brackets are articles of the standard.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

from headrace.featurize.text.languages.frontend import (
    PUNCTUATION,
    Frontend,
    Reading,
    concatenate,
    excerpt,
    normalise_marks,
    optional_dependencies,
    parse_pairs,
    token,
)
from headrace.featurize.text.languages.korean_numbers import verbalise
from headrace.featurize.text.languages.unread import keep_said, unread
from headrace.store.errors import Rejected

_SPACE = "空"
_TENSED = dict(zip("ᄀᄃᄇᄉᄌ", "ᄁᄄᄈᄊᄍ", strict=True))
_SOUND = {
    **dict.fromkeys("ᆨᆩᆪᆰᆿ", "ᆨ"), **dict.fromkeys("ᆮᆺᆻᆽᆾᇀᇂ", "ᆮ"), **dict.fromkeys("ᆸᆹᆵᇁ", "ᆸ"), "ᆼ": "ᆼ",
    **dict.fromkeys("ᆫᆬᆭ", "ᆫ"), **dict.fromkeys("ᆷᆱ", "ᆷ"), **dict.fromkeys("ᆯᆲᆳᆴᆶ", "ᆯ"),
}  # fmt: skip
"""Sound of a coda before a consonant or a pause (8 to 11)."""
_NASAL = {"ᆨ": "ᆼ", "ᆮ": "ᆫ", "ᆸ": "ᆷ"}
_WITH_H = {"ᇂ": "", "ᆭ": "ᆫ", "ᆶ": "ᆯ"}
_AFTER_H = {"ᄀ": "ᄏ", "ᄃ": "ᄐ", "ᄌ": "ᄎ", "ᄉ": "ᄊ"}
_BEFORE_H = {
    **dict.fromkeys("ᆨᆩᆪᆿ", ("", "ᄏ")), **dict.fromkeys("ᆮᆺᆻᇀᆾ", ("", "ᄐ")), **dict.fromkeys("ᆸᆹᇁ", ("", "ᄑ")),
    "ᆽ": ("", "ᄎ"), "ᆬ": ("ᆫ", "ᄎ"), "ᆰ": ("ᆯ", "ᄏ"), "ᆲ": ("ᆯ", "ᄑ"), "ᆵ": ("ᆸ", "ᄑ"),
}  # fmt: skip
"""Coda and onset that a coda and a following ᄒ become (12.1)."""
_BEFORE_VOWEL = {
    **dict(zip("ᆨᆩᆫᆮᆯᆷᆸᆺᆻᆽᆾᆿᇀᇁ", (("", onset) for onset in "ᄀᄁᄂᄃᄅᄆᄇᄉᄊᄌᄎᄏᄐᄑ"), strict=True)),
    "ᆪ": ("ᆨ", "ᄊ"), "ᆬ": ("ᆫ", "ᄌ"), "ᆰ": ("ᆯ", "ᄀ"), "ᆱ": ("ᆯ", "ᄆ"), "ᆲ": ("ᆯ", "ᄇ"), "ᆳ": ("ᆯ", "ᄊ"),
    "ᆴ": ("ᆯ", "ᄐ"), "ᆵ": ("ᆯ", "ᄑ"), "ᆹ": ("ᆸ", "ᄊ"), "ᇂ": ("", "ᄋ"), "ᆭ": ("", "ᄂ"), "ᆶ": ("", "ᄅ"),
}  # fmt: skip
"""Coda and onset that a coda before a vowel becomes (12.4, 13, 14)."""

_STEM, _ENDING = "V", "E"  # written after the last syllable of a verb's stem, or of an ending
_SPECIAL = tuple(
    (re.compile(unicodedata.normalize("NFD", pattern)), unicodedata.normalize("NFD", spoken))
    for pattern, spoken in (
        ("([ᄌᄍᄎ])ᅧ", r"\1ᅥ"),  # 5.1
        ("([ᄀᄁᄂᄃᄄᄅᄆᄇᄈᄉᄊᄌᄍᄎᄏᄐᄑᄒ])ᅴ", r"\1ᅵ"),  # 5.3
        ("ᆰVᄀ", "ᆯᄁ"),  # 11.1
        ("밟(?=V?[^ᄋᄒV])", "밥"),  # 10.1
        ("넓(?=[ᄌᄍ]ᅮ|[ᄃᄄ]ᅮ)", "넙"),
        ("ᆮᄋ(?=[ᅵᅧ])", "ᄌ"),  # 17
        ("ᇀᄋ(?=[ᅵᅧ])", "ᄎ"),
        ("ᆴᄋ(?=[ᅵᅧ])", "ᆯᄎ"),
        ("ᆮᄒ(?=ᅵ)", "ᄎ"),
    )
)
_TENSING = (
    re.compile("(?<=[ᆫᆷᆬᆱᆲᆴ]V)[ᄀᄃᄉᄌ]"),  # 24, 25
    re.compile("(?<=ᆯE )[ᄀᄃᄇᄉᄌ]"),  # 27
    re.compile(unicodedata.normalize("NFD", "(?<=ᆯ)(?:ᄀ(?=ᅥᆯ)|ᄇ(?=ᅡᆩᄋ|ᅡᆨᄁ)|ᄉ(?=ᅦ라|ᅮ록)|ᄌ(?=ᅵ라도|ᅵ언정|ᅵᆫ대))")),
)
_EXCEPTIONS = parse_pairs(
    "의견란:의견난 임진란:임진난 생산량:생산냥 결단력:결딴녁 공권력:공꿘녁 동원령:동원녕 상견례:상견녜 "
    "횡단로:횡단노 이원론:이원논 입원료:이붠뇨 구근류:구근뉴 갈등:갈뜽 발동:발똥 절도:절또 말살:말쌀 불소:불쏘 "
    "일시:일씨 갈증:갈쯩 물질:물찔 발전:발쩐 몰상식:몰쌍식 문고리:문꼬리 눈동자:눈똥자 신바람:신빠람 "
    "손재주:손째주 길가:길까 발바닥:발빠닥 술잔:술짠 바람결:바람껼 그믐달:그믐딸 아침밥:아침빱 잠자리:잠짜리 "
    "강가:강까 초승달:초승딸 등불:등뿔 창살:창쌀 강줄기:강쭐기 솜이불:솜니불 홑이불:혼니불 막일:망닐 맨입:맨닙 "
    "꽃잎:꼰닙 내복약:내봉냑 색연필:생년필 담요:담뇨 직행열차:지캥녈차 콩엿:콩녇 눈요기:눈뇨기 영업용:영엄뇽 "
    "식용유:시굥뉴 검열:검녈 금융:금늉 솔잎:솔립 물약:물략 서울역:서울력 휘발유:휘발류 한여름:한녀름 "
    "송별연:송벼련 등용문:등용문 냇가:내까 샛길:새낄 콧등:코뜽 깃발:기빨 햇살:해쌀 뱃속:배쏙 콧날:콘날 "
    "아랫니:아랜니 툇마루:퇸마루 뱃머리:밴머리 베갯잇:베갠닏 깻잎:깬닙 나뭇잎:나문닙"
)
"""Examples from the standard that no rule covers (20, 26, 28 to 30), with their pronunciation."""
_EXCEPTION = re.compile("|".join(sorted(_EXCEPTIONS, key=len, reverse=True)))
_DIPHTHONGS = parse_pairs(
    "ㅘ:ㅗㅏ ㅙ:ㅗㅐ ㅚ:ㅗㅣ ㅝ:ㅜㅓ ㅞ:ㅜㅔ ㅟ:ㅜㅣ ㅢ:ㅡㅣ ㅑ:ㅣㅏ ㅒ:ㅣㅐ ㅕ:ㅣㅓ ㅖ:ㅣㅔ ㅛ:ㅣㅗ ㅠ:ㅣㅜ"
)
_OBJECT = re.compile("(?:ᄅ|(?<![ᆨ-ᆮᆰ-ᆻᆽ-ᇁ])ᄋ)ᅳᆯ$")
"""The object particle, as 를 or as 을 without linking: its ᆯ does not change a following ᄂ."""
_MEETING = re.compile("([ᆨ-ᇂ])( ?)([ᄀ-ᄊᄌ-ᄒ])")
_LINKING = re.compile("([ᆨ-ᆻᆽ-ᇂ])ᄋ(?=[ᅡ-ᅵ])")
_LAST = re.compile("[ᆨ-ᇂ](?![ᄀ-ᄒ])")


_LETTER_NAMES = parse_pairs(
    "ㄱ:기역 ㄴ:니은 ㄷ:디귿 ㄹ:리을 ㅁ:미음 ㅂ:비읍 ㅅ:시옷 ㅇ:이응 ㅈ:지읒 ㅊ:치읓 ㅋ:키읔 ㅌ:티읕 ㅍ:피읖 ㅎ:히읗 "
    "ㄲ:쌍기역 ㄸ:쌍디귿 ㅃ:쌍비읍 ㅆ:쌍시옷 ㅉ:쌍지읒 ㅏ:아 ㅐ:애 ㅑ:야 ㅒ:얘 ㅓ:어 ㅔ:에 ㅕ:여 ㅖ:예 ㅗ:오 ㅘ:와 "
    "ㅙ:왜 ㅚ:외 ㅛ:요 ㅜ:우 ㅝ:워 ㅞ:웨 ㅟ:위 ㅠ:유 ㅡ:으 ㅢ:의 ㅣ:이"
)
_JAMO = re.compile("[\u1100-\u11ff\u3131-\u318e]+")
_LINKED_NAMES = parse_pairs("디귿:디긋 지읒:지읏 치읓:치읏 키읔:키윽 티읕:티읏 피읖:피읍 히읗:히읏")
"""Names of letters as they are linked to a vowel (16)."""
_LINKED_NAME = re.compile(f"({'|'.join(_LINKED_NAMES)})(?=[아-잏])")
_HANJA = re.compile(r"([가-힣]+)\s?\(([㐀-鿿豈-\ufaff]+)\)")
_SAID = re.compile(r"[가-힣\s,.!?…-]")


def normalise(text: str) -> str:
    """Write numbers, initials and letters in words, and end the text in a mark, as upstream does."""
    text = verbalise(_JAMO.sub(_letter_names, _HANJA.sub(_drop_gloss, text))).rstrip()
    return text + "." if text and "가" <= text[-1] <= "힣" else text


def _drop_gloss(match: re.Match[str]) -> str:
    """Leave out the Chinese characters of the word before them, which would be said twice."""
    return match[1] if len(match[2]) <= len(match[1]) else match[0]


def _letter_names(match: re.Match[str]) -> str:
    """Write the names of letters that stand by themselves.

    Raises:
        Rejected: stage "text"; they are laughter or tears, which nobody can tell how to say, or are no longer in use.
    """
    letters = [char if char >= "ㄱ" else _compatibility(char) for char in match[0]]
    joined = "가" <= match.string[match.start() - 1 : match.start()] <= "힣"
    if len(set(letters)) < len(letters) or joined:
        place = f"character {match.start() + 1} of {excerpt(match.string)}"
        raise Rejected("text", f"{match[0]!r}, {place}, is no word: write in syllables how it is said, or take it out")
    if unnamed := [place for place, letter in enumerate(letters) if letter not in _LETTER_NAMES]:
        raise unread(match.string, match.start() + unnamed[0], "Korean")
    return "".join(map(_LETTER_NAMES.__getitem__, letters))


def read(text: str) -> Reading:
    """Convert normalised Korean to phones."""
    kept = keep_said(normalise_marks(text), _SAID, "Korean")
    written = [piece for piece in re.split(r"(\s+|[,.!?…-])", re.sub(r"\s+", " ", kept)) if piece]
    spoken = [piece for piece in re.split(r"(\s+|[,.!?…-])", pronounce("".join(written))) if piece]
    return concatenate(token(word, _phones(sounds)) for word, sounds in zip(written, spoken, strict=True))


def _phones(piece: str) -> list[str]:
    if piece in PUNCTUATION or piece == " ":
        return [piece if piece in PUNCTUATION else _SPACE]
    letters = (_compatibility(jamo) for jamo in piece)
    return [part for letter in letters for part in _DIPHTHONGS.get(letter, letter)]


@cache
def _compatibility(jamo: str) -> str:
    """Return the compatibility jamo of a conjoining one."""
    return unicodedata.lookup("HANGUL LETTER " + unicodedata.name(jamo).split(" ", 2)[2])


def pronounce(text: str) -> str:
    """Return the pronunciation of Hangul in conjoining jamo; spaces and punctuation stay."""
    text = _LINKED_NAME.sub(lambda match: _LINKED_NAMES[match[1]], text)
    sounds = unicodedata.normalize("NFD", _mark_morphemes(_EXCEPTION.sub(lambda match: _EXCEPTIONS[match[0]], text)))
    for pattern, spoken in _SPECIAL:
        sounds = pattern.sub(spoken, sounds)
    for tensing in _TENSING:
        sounds = tensing.sub(lambda match: _TENSED[match[0]], sounds)
    sounds = _MEETING.sub(_join_consonants, re.sub(f"[{_STEM}{_ENDING}]", "", sounds))
    sounds = _LAST.sub(lambda match: _SOUND[match[0]], sounds)
    return _LINKING.sub(lambda match: "".join(_BEFORE_VOWEL[match[1]]), sounds)


def _join_consonants(match: re.Match[str]) -> str:
    coda, space, onset = match.groups()
    if space and onset == "ᄂ" and _OBJECT.search(match.string[: match.start() + 1]):
        return match[0]
    coda, onset = _assimilate(coda, onset)
    return coda + space + onset


@cache
def _assimilate(coda: str, onset: str) -> tuple[str, str]:
    """Return what a coda and the consonant after it become."""
    if onset == "ᄒ" and coda in _BEFORE_H:
        return _BEFORE_H[coda]
    if coda in _WITH_H and onset in _AFTER_H:  # 12.1, 12.2
        return _WITH_H[coda], _AFTER_H[onset]
    if coda == "ᇂ" and onset != "ᄂ":
        return "", onset
    sound = _SOUND[coda]
    if sound in _NASAL or coda in "ᆲᆳ":  # 23, 25
        onset = _TENSED.get(onset, onset)
    if sound in _NASAL and onset in "ᄂᄆᄅ":  # 18, 19
        return _NASAL[sound], "ᄆ" if onset == "ᄆ" else "ᄂ"
    if sound + onset in ("ᆫᄅ", "ᆯᄂ"):  # 20
        return "ᆯ", "ᄅ"
    if sound in "ᆷᆼ" and onset == "ᄅ":  # 19
        return sound, "ᄂ"
    return sound, onset


def _mark_morphemes(text: str) -> str:
    """Return `text` with `_STEM` or `_ENDING` after the syllables for which a rule needs it."""
    tags = [
        tag
        for token, pos in _mecab().pos(text)
        for tag in [""] * (len(token) - 1) + [pos.rpartition("+")[2][0]]
    ]  # fmt: skip
    written = [number for number, char in enumerate(text) if not char.isspace()]
    if len(tags) != len(written):
        return text
    marked = list(text)
    for number, tag in zip(written, tags, strict=True):
        coda = unicodedata.normalize("NFD", text[number])[-1]
        if (tag == _STEM and coda in "ᆫᆬᆷᆱᆰᆲᆴ") or (tag == _ENDING and coda == "ᆯ"):
            marked[number] += tag
    return "".join(marked)


@cache
def _mecab() -> Any:
    with optional_dependencies("ko"):
        import mecab
    return mecab.MeCab()


FRONTEND = Frontend(
    language="ko",
    scripts=frozenset({"Hangul"}),
    libraries=("python-mecab-ko", "python-mecab-ko-dic"),
    version=3,
    normalise=normalise,
    read=read,
)
