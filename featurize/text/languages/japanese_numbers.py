"""Write what OpenJTalk does not read itself in Japanese words: signs, dates, times, telephone numbers, units, money.

OpenJTalk reads figures with their counters, dates and kanji numerals, by a large dictionary of counters.
"""

from __future__ import annotations

import re
import unicodedata

from headrace.featurize.text.languages.frontend import parse_pairs
from headrace.featurize.text.languages.rewriting import (
    ROMAN_NUMERALS,
    SUPERSCRIPTS,
    VULGAR_FRACTIONS,
    is_day,
    is_span,
    rewrite,
    rules,
)

_CURRENCIES = parse_pairs("¥:円 $:ドル €:ユーロ £:ポンド ₩:ウォン ₹:ルピー ₽:ルーブル ₿:ビットコイン ฿:バーツ ¢:セント")
_UNITS = parse_pairs(
    "%:パーセント ‰:パーミル ℃:度 °C:度 °:度 km/h:キロメートル毎時 m/s:メートル毎秒 km:キロメートル cm:センチメートル "
    "mm:ミリメートル µm:マイクロメートル nm:ナノメートル m:メートル kg:キログラム mg:ミリグラム µg:マイクログラム "
    "g:グラム t:トン kcal:キロカロリー cal:カロリー ml:ミリリットル mL:ミリリットル dl:デシリットル dL:デシリットル "
    "l:リットル L:リットル ℓ:リットル ha:ヘクタール KB:キロバイト MB:メガバイト GB:ギガバイト TB:テラバイト "
    "kbps:キロビーピーエス Mbps:メガビーピーエス Gbps:ギガビーピーエス Hz:ヘルツ kHz:キロヘルツ MHz:メガヘルツ "
    "GHz:ギガヘルツ kWh:キロワット時 kW:キロワット W:ワット mAh:ミリアンペア時 mA:ミリアンペア V:ボルト Ω:オーム "
    "kΩ:キロオーム hPa:ヘクトパスカル Pa:パスカル dB:デシベル ms:ミリ秒 µs:マイクロ秒 ppm:ピーピーエム"
)
_SIGNS = {
    **_CURRENCIES,
    **parse_pairs(
        "±:プラスマイナス ∓:マイナスプラス ×:かける ÷:わる +:プラス −:マイナス =:イコール ≠:ノットイコール "
        "≒:ニアリーイコール ≈:ニアリーイコール ≥:大なりイコール ≧:大なりイコール ≤:小なりイコール ≦:小なりイコール "
        ">:大なり <:小なり √:ルート ∞:無限大 &:アンド @:アットマーク #:シャープ %:パーセント ‰:パーミル °:度 "
        "№:ナンバー §:セクション 〒:郵便番号 Ω:オーム µ:マイクロ ℓ:リットル ○:まる ◯:まる ◎:二重まる △:三角 "
        "©:コピーライト ®:アール ™:ティーエム ゟ:より ヷ:ヴァ ヸ:ヴィ ヹ:ヴェ ヺ:ヴォ"
    ),
    **dict.fromkeys("→⇒←⇐↑↓↔⇔/", "、"),
}
_KANJI = str.maketrans("0123456789", "〇一二三四五六七八九")
_DASH = "[-−–—ー]"
"""Between figures all of these are hyphens: keyboards offer each of them."""
_NUMBER = r"\d+(?:\.\d+)?"
_COUNTERS = "年月日時分秒円度階人歳才個名回番話章巻枚本台週間"
_UNIT = "|".join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))

_TELEPHONE = re.compile(
    rf"(?<![\w.+(-])(?:(?:\+81{_DASH}?[1-9]\d{{0,3}}|\(?0\d{{1,4}})(?:{_DASH}|[()]\s?)\d{{1,4}}(?:{_DASH}|\))\d{{3,4}}"
    rf"|\d{{4}}(?:{_DASH}\d{{4}}){{1,3}}|0\d{{9,10}}|〒\s?\d{{3}}{_DASH}\d{{4}})(?![\w-])",
    re.ASCII,
)
_ADDRESS = re.compile(
    rf"(?<![\w.-])\d{{1,4}}(?:{_DASH}\d{{1,4}}){{2,3}}(?![\d.-])|(?<=[町区市村目])\d{{1,4}}{_DASH}\d{{1,4}}(?!\d)",
    re.ASCII,
)
_RATIO_BEFORE = re.compile(r"(?:比|割合|縮尺|スコア|得点|オッズ)[^\d、。]{0,5}$")
_RATIO_AFTER = re.compile(r"\s?(?:の比|の割合|の縮尺|のスコア|で(?:勝|負|敗|快勝|惜敗|下|引き分け|リード))")
_COLON = re.compile(r"(?<![\d:.])(\d{1,9}):(\d{1,9})(?::(\d{1,9}))?(?:\.(\d{1,9}))?(?![\d:])")
_SLASH = re.compile(r"(?<![\d/.])(?:(\d{1,9})\s)?(\d{1,9})/(\d{1,9})(?![\d/]|\.\d)(?:\s?[(（]([月火水木金土日])[)）])?")
_SHARE = re.compile(r"(?:確率|割合|約|倍率|シャッター\w*)\w?$")

_SPELLINGS = rules(
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
    (r"郵便番号は?\s?(?=〒)", ""),
    (r"μ", "µ"),
    (
        r"(?i)(\d{1,2}:\d\d)\s?([ap])\.?m(?![A-Za-z])\.?",
        lambda found: ("午前" if found[2] in "aA" else "午後") + found[1],
    ),
    (r"\\(?=\d)", "¥"),
    (r'^([^"]*\d)"(?=[^"]*$)', r"\1″"),
    (r"[①-⑳]", lambda found: unicodedata.normalize("NFKC", found[0])),
    (r"×(?!\s?[\dA-Za-z(])|(?<![\dA-Za-z)²³年月日人個本枚度])\s?×", "ばつ"),
    (r"(?<=日)\s?[(（]([月火水木金土日])[)）]", r"\1曜日"),
    (rf"(?<=\d)([{''.join(VULGAR_FRACTIONS)}])", lambda found: " " + VULGAR_FRACTIONS[found[1]]),
    (rf"[{''.join(VULGAR_FRACTIONS)}]", lambda found: VULGAR_FRACTIONS[found[0]]),
    (r"(?<=第)[IVX]+(?![A-Za-z])|(?<![A-Za-z])[IVX]+(?=世)", lambda found: str(ROMAN_NUMERALS.get(found[0], found[0]))),
    (r"(?i)(?<![A-Za-z])no\.?\s?(?=\d)|#(?=\d)", "ナンバー"),
    (r"#(?=\w)", "ハッシュタグ"),
    (r"(?<![\w.])\.(?=\d)", "0."),
)
_DATES = rules(
    (r"(?<![\d.])(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?!\d|\.\d)", r"\1年\3月\4日"),
    (r"(?<![\d/])([12]\d{3})/(0?[1-9]|1[0-2])(?![\d/])", r"\1年\2月"),
    (r"(?<=年)0(?=\d月)|(?<=月)0(?=\d日)", ""),
)
_MINUS = rules(
    (rf"(?<=スコア[はがも])(\d+){_DASH}(\d+)(?![\d-])", r"\1対\2"),
    (rf"(?<![\d-])(\d+){_DASH}(\d+)(?=\s?(?:のスコア|で(?:勝|負|敗|快勝|惜敗|下|引き分け|リード)))", r"\1対\2"),
    (r"(?<=[\dA-Za-z)²³])\s[-−–]\s(?=[\dA-Za-z(])|(?<=\d)[-−](?=[\d.]+\s?=)|(?<=[A-Za-z)²³])−(?=[\w(])", "引く"),
    (
        r"(?<![\w)])[-−](?=\d)|(?<=[ぁ-ゖ])[-−](?=\d)|(?<=[^\W\da-zA-Z])(?:−(?=\d)|-(?=[\d.]+\s?(?:度|℃|°|%)))",
        "マイナス",
    ),
)
_RANGES = rules(
    (rf"(?<![A-Za-z\d.-])({_NUMBER}\s?(?:{_UNIT})?)\s?{_DASH}\s?(?=[¥$€£]?\d)", r"\1から"),
    (rf"(?<=[\d{_COUNTERS}])(\s?(?:{_UNIT})?)\s?[~～〜]\s?(?=[\d¥$€£±]|マイナス|午[前後])", r"\1から"),
    (r"(?<=\d時)[~～〜](?=\W|$)|(?<=曜)[~～〜](?=[月火水木金土日]曜)|(?<![一-鿿])([月火水木金土日])[~～〜](?=[月火水木金土日](?![一-鿿]))",
     lambda found: (found[1] or "") + "から"),
)  # fmt: skip
_MEASURES = rules(
    (
        r"(?<=\d)\s?(km|cm|mm|m)([²³23])(?![A-Za-z\d])",
        lambda found: ("平方" if found[2] in "²2" else "立方") + _UNITS[found[1]],
    ),
    (rf"({_NUMBER})\s?(?:℉|°F)", r"華氏\1度"),
    (r"(?<=\d)″", "インチ"),
    (rf"(?<=\d)\s?({_UNIT})(?![A-Za-z])", lambda found: _UNITS[found[1]]),
    (r"\$\s?(\d+)\.(\d\d)(?!\d)", r"\1ドル\2セント"),
    (rf"([{''.join(_CURRENCIES)}])\s?({_NUMBER}[兆億万千百]*)円?", lambda found: found[2] + _CURRENCIES[found[1]]),
    (
        r"(?<=[\dA-Za-z)])([⁻⁰¹²³⁴-⁹]+)",
        lambda found: f"の{found[1].translate(SUPERSCRIPTS).replace('-', 'マイナス')}乗",
    ),
    (r"(?<=[\dA-Za-z)])\^(\d+)", r"の\1乗"),
    (r"(?<=\d)\.(?=\d)", "点"),
)
_SIGN = re.compile(f"[{re.escape(''.join(_SIGNS))}]")


def verbalise(text: str) -> str:
    """Write numbers, signs and units as they are said. Figures stay where OpenJTalk reads them."""
    text = _TELEPHONE.sub(_telephone, rewrite(text, _SPELLINGS))
    text = _ADDRESS.sub(lambda found: re.sub(_DASH, "の", found[0]), rewrite(text, _DATES))
    text = rewrite(_SLASH.sub(_slash, _COLON.sub(_colon, text)), _MINUS, _RANGES, _MEASURES)
    return _SIGN.sub(lambda found: _SIGNS[found[0]], text)


def _telephone(found: re.Match[str]) -> str:
    """Read the figures of a telephone number, a postal code or a card one by one, with の between the groups."""
    written = found[0]
    if is_span(written):
        return written
    groups = re.findall(r"\d+", written)
    signs = "郵便番号" if "〒" in written else "プラス" if "+" in written else ""
    return signs + "の".join(groups).translate(_KANJI)


def _colon(found: re.Match[str]) -> str:
    """Read what a colon joins: a time of day, a length of time to fractions of a second, or else a ratio or a score."""
    hours, minutes, seconds, fraction = found.groups()
    around = _RATIO_BEFORE.search(found.string, max(0, found.start() - 20), found.start()) or _RATIO_AFTER.match(
        found.string, found.end()
    )
    times = len(minutes) == 2 and int(minutes) < 60 and not around
    if times and seconds is None and fraction:
        return f"{int(hours)}分{int(minutes)}秒{fraction}"
    if times and int(hours) < 30 and (seconds is None or len(seconds) == 2):
        said = f"{int(hours)}時" + (f"{int(minutes)}分" if int(minutes) or seconds else "")
        return said + (f"{int(seconds)}秒" if seconds else "") + (f"{fraction}" if fraction else "")
    return "対".join(filter(None, (hours, minutes, seconds))) + (f".{fraction}" if fraction else "")


def _slash(found: re.Match[str]) -> str:
    """Read what a slash joins: a day of a year, a fraction, or else two numbers."""
    whole, above, below, weekday = found.groups()
    month, day = int(above), int(below)
    if weekday or (
        whole is None and is_day(month, day, _SHARE.search(found.string, max(0, found.start() - 20), found.start()))
    ):
        return f"{month}月{day}日" + (f"{weekday}曜日" if weekday else "")
    if month >= day:
        return f"{whole or ''}{above}、{below}"
    return (f"{whole}と" if whole else "") + f"{below}分の{above}"
