"""Write Korean numbers in words: Sino-Korean numerals, or native ones before the counters that require them."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.frontend import parse_pairs

_DIGITS = "영일이삼사오육칠팔구"
_NATIVE_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_NATIVE_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_COUNTERS = (
    "개(?![월년국소])|명|사람|분(?=[이께은만과])|마리|살|시간|시(?!속)|번째|번(?![지길호])|병|권|대(?=[의가를만에로]|\\s|$)|"
    "장|잔|벌|채|그루|송이|켤레|가지|달(?!러)|곳|군데|척|쌍|배(?!럴)|줄|통|자루|그릇|조각|방울|걸음|모금|스푼|바퀴|끼|판|짝"
)
"""Counters that take native numerals below a hundred."""
_CURRENCIES = parse_pairs("$:달러 €:유로 £:파운드 ¥:엔 ₩:원")
_UNITS = parse_pairs(
    "%:퍼센트 ℃:도 °C:도 °:도 km/h:킬로미터 km:킬로미터 cm:센티미터 mm:밀리미터 m:미터 kg:킬로그램 mg:밀리그램 "
    "g:그램 ml:밀리리터 mL:밀리리터 L:리터 l:리터 GB:기가바이트 MB:메가바이트 TB:테라바이트 kHz:킬로헤르츠 "
    "Hz:헤르츠 W:와트"
)
_LETTERS = parse_pairs(
    "A:에이 B:비 C:시 D:디 E:이 F:에프 G:지 H:에이치 I:아이 J:제이 K:케이 L:엘 M:엠 N:엔 O:오 P:피 Q:큐 R:아르 "
    "S:에스 T:티 U:유 V:브이 W:더블유 X:엑스 Y:와이 Z:제트"
)

_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PHONE_NUMBER = re.compile(r"(?<!\d)0\d{1,2}-\d{3,4}-\d{4}(?!\d)")
_DATE = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_CLOCK = re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)")
_CURRENCY = re.compile(rf"([{''.join(_CURRENCIES)}])\s?(\d+(?:\.\d+)?)((?:천|백)?[만억조]?)")
_FRACTION = re.compile(r"(?<!\d)(\d+)/(\d+)(?!\d)")
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![A-Za-z])")
_MINUS = re.compile(r"(?<![\w)])[-−](?=\d)")
_RANGE = re.compile(r"(?<=\d)\s?[~〜-]\s?(?=\d)")
_COUNTED = re.compile(rf"(?<![\d.])([1-9]\d?)(?=\s?(?:{_COUNTERS}))")
_MONTH = re.compile(r"(?<!\d)(?:0?6|10)(?=월)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_INITIALS = re.compile(r"(?<![A-Za-z])(?:[A-Z]{1,5}|[a-z])(?![A-Za-z])")


def verbalise(text: str) -> str:
    """Write numbers, dates, times, money, units and initials as they are said."""
    text = _SEPARATOR.sub("", text)
    text = _PHONE_NUMBER.sub(lambda match: " ".join(map(read_digits, match[0].split("-"))), text)
    text = _DATE.sub(lambda match: f"{match[1]}년 {int(match[2])}월 {int(match[3])}일", text)
    text = _CLOCK.sub(_clock, text)
    text = _CURRENCY.sub(lambda match: match[2] + match[3] + _CURRENCIES[match[1]], text)
    text = _FRACTION.sub(r"\2분의 \1", text)
    text = _RANGE.sub("에서 ", _UNIT.sub(lambda match: _UNITS[match[1]], text))
    text = _MINUS.sub("마이너스 ", text)
    text = _MONTH.sub(lambda match: "시" if match[0] == "10" else "유", text)
    text = re.sub(r"(?<!\d)1번째", "첫번째", text)
    text = _COUNTED.sub(lambda match: native_numeral(int(match[1])), text)
    text = _NUMBER.sub(lambda match: read_number(match[0]), text)
    return _INITIALS.sub(lambda match: "".join(_LETTERS[letter] for letter in match[0].upper()), text)


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = (int(group or 0) for group in match.groups())
    said = f"{hour}시" + (f" {minute}분" if minute else "")
    return said + (f" {second}초" if second else "")


def native_numeral(value: int) -> str:
    """Return the native numeral of 1 to 99 as it is before a noun."""
    if value == 20:
        return "스무"
    return _NATIVE_TENS[value // 10] + _NATIVE_ONES[value % 10]


def read_digits(figures: str) -> str:
    """Read digits one by one, as in a telephone number."""
    return "".join("공" if figure == "0" else _DIGITS[int(figure)] for figure in figures)


def read_number(figures: str) -> str:
    """Read a number in Sino-Korean; decimals are read one by one."""
    whole, _, decimals = figures.partition(".")
    said = _read_integer(whole)
    return f"{said}점{''.join(_DIGITS[int(figure)] for figure in decimals)}" if decimals else said


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
