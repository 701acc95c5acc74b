"""Write Korean numbers in words: Sino-Korean numerals, or native ones before the counters that require them."""

from __future__ import annotations

import re
import unicodedata

from headrace.featurize.text.languages.frontend import parse_pairs
from headrace.featurize.text.languages.rewriting import (
    SUPERSCRIPTS,
    VULGAR_FRACTIONS,
    is_day,
    is_span,
    mark_inches,
    rewrite,
    rules,
)

_DIGITS = "영일이삼사오육칠팔구"
_NATIVE_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_NATIVE_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_COUNTERS = (
    "개(?![월년국소])|명|사람|분(?=[이께은만과])|마리|살|시간|시(?!속)|번째|번(?![지길호])|병|권|대(?=[의가를만에로]|\\s|$)|"
    "장|잔|벌|채|그루|송이|켤레|가지|달(?!러)|곳|군데|척|쌍|배(?!럴)|줄|통|자루|그릇|조각|방울|걸음|모금|스푼|바퀴|끼|판|짝"
)
"""Counters that take native numerals below a hundred."""
_CURRENCIES = parse_pairs("$:달러 €:유로 £:파운드 ¥:엔 ₩:원 ₹:루피 ₽:루블 ฿:바트 ₫:동 ¢:센트")
_CENTS = parse_pairs("$:센트 €:센트 £:펜스")
_UNITS = parse_pairs(
    "%p:퍼센트포인트 %:퍼센트 ‰:퍼밀 "
    "℃:도 °C:도 °:도 km:킬로미터 cm:센티미터 mm:밀리미터 µm:마이크로미터 nm:나노미터 m:미터 "
    "kg:킬로그램 mg:밀리그램 µg:마이크로그램 g:그램 t:톤 ml:밀리리터 mL:밀리리터 L:리터 l:리터 ℓ:리터 ha:헥타르 "
    "KB:킬로바이트 MB:메가바이트 GB:기가바이트 TB:테라바이트 Mbps:메가비피에스 Gbps:기가비피에스 Hz:헤르츠 "
    "kHz:킬로헤르츠 MHz:메가헤르츠 GHz:기가헤르츠 kWh:킬로와트시 kW:킬로와트 W:와트 mAh:밀리암페어시 mA:밀리암페어 "
    "V:볼트 Ω:옴 hPa:헥토파스칼 Pa:파스칼 dB:데시벨 kcal:킬로칼로리 cal:칼로리 ms:밀리초 ppm:피피엠"
)
_SIGNS = {
    **_CURRENCIES,
    **parse_pairs(
        "±:플러스마이너스 ×:곱하기 ÷:나누기 +:더하기 −:마이너스 ≠:같지않다 ≥:크거나같다 ≧:크거나같다 ≤:작거나같다 "
        "≦:작거나같다 >:크다 <:작다 ≈:약 √:루트 ∞:무한대 &:앤드 @:골뱅이 #:샵 %:퍼센트 ‰:퍼밀 °:도 №:넘버 Ω:옴 "
        "µ:마이크로 ℓ:리터"
    ),
}
_MARKS = dict.fromkeys("→⇒←⇐↑↓↔⇔/", ",")
_LETTERS = parse_pairs(
    "A:에이 B:비 C:시 D:디 E:이 F:에프 G:지 H:에이치 I:아이 J:제이 K:케이 L:엘 M:엠 N:엔 O:오 P:피 Q:큐 R:아르 "
    "S:에스 T:티 U:유 V:브이 W:더블유 X:엑스 Y:와이 Z:제트"
)
_ACRONYMS = parse_pairs("NASA:나사 NATO:나토 FIFA:피파 OPEC:오펙 ASEAN:아세안 AIDS:에이즈 TOEIC:토익 TOEFL:토플")
"""Initials that are said as a word."""

_UNIT = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))
_AMOUNT = r"\d+(?:\.\d+)?"
_DASH = "[-−–—]"
_TELEPHONE = re.compile(
    rf"(?<![\w.-])(?:(?:\+82{_DASH}?\d{{1,2}}|\(?0\d{{1,2}})(?:{_DASH}|\)\s?|\s)\d{{3,4}}(?:{_DASH}|\s)\d{{4}}"
    rf"|\d{{3,4}}{_DASH}\d{{4}}|\d{{2,6}}(?:{_DASH}\d{{2,7}}){{2,3}}|0\d{{8,10}})(?!\d|{_DASH}\d)"
)
_EMERGENCY = re.compile(r"(?<!\d)1(?:1[0-9]|339|588)(?=\s?(?:에\s|로\s|신고|구급|구조|센터|번호|콜))")
_DATE = re.compile(r"(?<![\d.])(\d{4})\s?([-/.])\s?(\d{1,2})\2\s?(\d{1,2})(?!\d|\.\d)(?:\.(?=[가-힣]))?")
_COLON = re.compile(r"(?<![\d:.])(\d{1,9}):(\d{1,9})(?::(\d{1,9}))?(?![\d:])")
_RATIO_BEFORE = re.compile(r"(?:비율|비는|비가|비례|축척|스코어|점수|배율)[^\d,.]{0,4}$")
_RATIO_AFTER = re.compile(r"\s?(?:비율|의 비|로\s?(?:이기|이겼|이긴|지고|졌|진 |승리|패|앞|뒤|비겼|제압|꺾))")
_SLASH = re.compile(r"(?<![\d/.])(?:(\d{1,9})\s)?(\d{1,9})/(\d{1,9})(?![\d/]|\.\d)")
_SHARE = re.compile(r"(?:확률|비율|약|크기)\S?\s?$")
_SINO_COUNTED = r"(?<=번)\s?(?:출구|버스|선|문제|트랙|홀|타자|방|승강장|창구|국도|채널|버튼|선수)"

_SPELLINGS = rules(
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"μ", "µ"),
    (r"(?<=\d)″", "인치"),
    (r"[①-⑳]", lambda found: unicodedata.normalize("NFKC", found[0])),
    (rf"(?<=\d)([{''.join(VULGAR_FRACTIONS)}])", lambda found: " " + VULGAR_FRACTIONS[found[1]]),
    (rf"[{''.join(VULGAR_FRACTIONS)}]", lambda found: VULGAR_FRACTIONS[found[0]]),
    (r"(?i)(?<![A-Za-z])no\.\s?(?=\d)|#(?=\d)", "넘버 "),
    (r"(?<![\d·])(\d{1,2})·(\d{1,2})(?![\d·])", lambda found: read_digits(found[1]) + read_digits(found[2])),
    (r"(?i)(\d{1,2}:\d\d)\s?a\.?m(?![A-Za-z])\.?", r"오전 \1"),
    (r"(?i)(\d{1,2}:\d\d)\s?p\.?m(?![A-Za-z])\.?", r"오후 \1"),
    (r"(?<!\d)(\d+)\s?km/h", lambda found: f"{'' if '시속' in found.string[: found.start()] else '시속 '}{found[1]}km"),
)  # fmt: skip
_RANGES = rules(
    (
        rf"(?<![\w.-])(\d+){_DASH}(\d+)(?=\s?(?:로\s?(?:이기|이겼|이긴|지고|졌|승리|패|앞|뒤|비겼|제압|꺾)|스코어))",
        lambda found: f"{read_number(found[1])} 대 {read_number(found[2])}",
    ),
    (r"(?<=[\dA-Za-z)²³])\s[-−–]\s(?=[\dA-Za-z(])|(?<=\d)[-−](?=[\d.]+\s?=)|(?<=[A-Za-z)²³])−(?=[\w(])", " 빼기 "),
    (r"(?<![\w)])[-−](?=\d)|(?<=[가-힣])(?:−(?=\d)|-(?=[\d.]+\s?(?:도|℃|°|%)))", " 마이너스 "),
    (rf"(?<![\d.])(\d\d?)\s?(?:[~∼〜]|{_DASH})\s?(\d\d?)(\s?)(?={_COUNTERS})(개|명|사람|마리|살|시간|시|번|병|권|대|잔|가지|달|배|[가-힣])",
     r"\1\4에서 \2\3\4"),
    (rf"(?<=[\d가-힣])(\s?(?:{_UNIT})?)\s?[~∼〜]\s?(?=[\d$€£¥₩]|마이너스)", r"\1에서 "),
    (rf"(?<![A-Za-z\d.-])({_AMOUNT}\s?(?:{_UNIT})?)\s?{_DASH}\s?(?=\d)", r"\1에서 "),
    (r"(?<![가-힣])([월화수목금토일](?:요일)?)[~∼〜](?=[월화수목금토일](?:요일|[^가-힣]|까지|에|은|$))", r"\1에서 "),
)  # fmt: skip
_MEASURES = rules(
    (r"([$€£])\s?(\d+)\.(\d\d)(?!\d)", lambda found: f"{found[2]}{_CURRENCIES[found[1]]} {found[3]}{_CENTS[found[1]]}"),
    (
        rf"([{''.join(_CURRENCIES)}])\s?({_AMOUNT})((?:천|백)?[만억조]?)",
        lambda found: found[2] + found[3] + _CURRENCIES[found[1]],
    ),
    (rf"(?<=[\d만억조])\s?([{''.join(_CURRENCIES)}])", lambda found: _CURRENCIES[found[1]]),
    (
        r"(?<=\d)\s?(km|cm|mm|m)([²³23])(?![A-Za-z\d])",
        lambda found: ("제곱" if found[2] in "²2" else "세제곱") + _UNITS[found[1]],
    ),
    (rf"({_AMOUNT})\s?(?:℉|°F)", r"화씨 \1도"),
    (rf"(?<=\d)\s?({_UNIT})(?![A-Za-z])", lambda found: _UNITS[found[1]]),
    (r"(?<=[\dA-Za-z)])²", " 제곱"),
    (r"(?<=[\dA-Za-z)])³", " 세제곱"),
    (
        r"(?<=[\dA-Za-z)])([⁻⁰¹⁴-⁹²³]+)",
        lambda found: f"의 {found[1].translate(SUPERSCRIPTS).replace('-', '마이너스 ')}제곱",
    ),
)
_NUMERALS = rules(
    (r"(?<!\d)(\d{1,3})\s?대\s?(\d{1,3})(?!\d|\s?[대개명])",
     lambda found: f"{read_number(found[1])} 대 {read_number(found[2])}"),
    (r"(?<!\d)(?:0?6|10)(?=월)", lambda found: "시" if found[0] == "10" else "유"),
    (r"(?<=제)(\d+)", lambda found: read_number(found[1])),
    (rf"\d+(?=번{_SINO_COUNTED})|(?<!\d)(?:1[3-9]|2[0-4])(?=시(?!간))", lambda found: read_number(found[0])),
    (r"(?<!\d)(?:2[4-9]|[3-9]\d)(?=시간)", lambda found: read_number(found[0])),
    (r"(?<![\d차스터럭기시]\s)(?<![\d차스터럭기시])[1-9]0(?=대)", lambda found: read_number(found[0])),
    (r"(?<!\d)1번째", "첫번째"),
    (rf"(?<![\d.])([1-9]\d?)(?=\s?(?:{_COUNTERS}))", lambda found: native_numeral(int(found[1]))),
    (r"(?<![\d.])0\d+(?![\d.])", lambda found: read_digits(found[0])),
    (r"\d+(?:\.\d+)*", lambda found: read_number(found[0])),
    (r"(?<![A-Za-z])(?:[A-Z]{1,5}|[a-z])(?![A-Za-z])", lambda found: _ACRONYMS.get(found[0]) or _spell(found[0])),
)  # fmt: skip
_SIGN = rules(
    (r"\s?=\s?", lambda found: "은 " if _has_coda(found.string[: found.start()]) else "는 "),
    (f"[{re.escape(''.join(_MARKS))}]", lambda found: _MARKS[found[0]]),
    (f"\\s?([{re.escape(''.join(_SIGNS))}])\\s?", lambda found: f" {_SIGNS[found[1]]} "),
)


def verbalise(text: str) -> str:
    """Write numbers, dates, times, money, units and initials as they are said."""
    text = _EMERGENCY.sub(lambda match: read_digits(match[0]), rewrite(mark_inches(text), _SPELLINGS))
    text = _DATE.sub(lambda match: f"{match[1]}년 {int(match[3])}월 {int(match[4])}일", text)
    text = _TELEPHONE.sub(_telephone, text)
    text = _SLASH.sub(_slash, _COLON.sub(_colon, text))
    said = rewrite(text, _RANGES, _MEASURES, _NUMERALS, _SIGN)
    return said if text[:1].isspace() else said.lstrip()


def _telephone(match: re.Match[str]) -> str:
    """Read the figures of a telephone number or of an account one by one, with a space between the groups."""
    if is_span(match[0]):
        return match[0]
    return ("플러스 " if "+" in match[0] else "") + " ".join(map(read_digits, re.findall(r"\d+", match[0])))


def _colon(match: re.Match[str]) -> str:
    """Read what a colon joins: a time of day, or else a ratio or a score."""
    hours, minutes, seconds = match.groups()
    is_ratio = _RATIO_BEFORE.search(match.string, max(0, match.start() - 20), match.start()) or _RATIO_AFTER.match(
        match.string, match.end()
    )
    if int(hours) > 24 or len(minutes) != 2 or int(minutes) > 59 or is_ratio:
        return " 대 ".join(read_number(group) for group in match.groups() if group)
    said = f"{int(hours)}시" + (f" {int(minutes)}분" if int(minutes) else "")
    return said + (f" {int(seconds)}초" if seconds and int(seconds) else "")


def _slash(match: re.Match[str]) -> str:
    """Read what a slash joins: a day of a year, a fraction, or else two numbers."""
    whole, above, below = match.groups()
    if whole is None and is_day(
        int(above), int(below), _SHARE.search(match.string, max(0, match.start() - 20), match.start())
    ):
        return f"{int(above)}월 {int(below)}일"
    if int(above) >= int(below):
        return f"{whole or ''} {above}, {below}".strip()
    return (f"{whole}과 " if whole else "") + f"{below}분의 {above}"


def _has_coda(text: str) -> bool:
    """Return whether the last syllable of a text ends in a consonant."""
    return bool(re.search("[가-힣]$", text)) and len(unicodedata.normalize("NFD", text[-1])) == 3


def _spell(initials: str) -> str:
    return "".join(_LETTERS[letter] for letter in initials.upper())


def native_numeral(value: int) -> str:
    """Return the native numeral of 1 to 99 as it is before a noun."""
    if value == 20:
        return "스무"
    return _NATIVE_TENS[value // 10] + _NATIVE_ONES[value % 10]


def read_digits(figures: str, zero: str = "공") -> str:
    """Read digits one by one, as in a telephone number."""
    return "".join(zero if figure == "0" else _DIGITS[int(figure)] for figure in figures)


def read_number(figures: str) -> str:
    """Read a number in Sino-Korean; decimals are read one by one, the parts of a version as numbers."""
    whole, *decimals = figures.split(".")
    if len(decimals) > 1:
        return "점".join(map(_read_integer, (whole, *decimals)))
    return "점".join((_read_integer(whole), *(read_digits(figure, "영") for figure in decimals)))


def _read_integer(figures: str) -> str:
    if len(figures) > 16:
        return read_digits(figures)
    value, groups = int(figures), []
    for power in ("", "만", "억", "조"):
        value, group = divmod(value, 10_000)
        if group:
            groups.append(("" if (group, power) == (1, "만") else _thousands(group)) + power)
    return "".join(reversed(groups)) or _DIGITS[0]


def _thousands(group: int) -> str:
    said = ""
    for figure, unit in zip(f"{group:04d}", ("천", "백", "십", ""), strict=True):
        if figure != "0":
            said += ("" if figure == "1" and unit else _DIGITS[int(figure)]) + unit
    return said
