"""Write numbers in Chinese characters: dates, times, money, units, telephone numbers, arithmetic."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.frontend import optional_dependencies, parse_pairs

_DIGITS = "零一二三四五六七八九"
_CURRENCIES = parse_pairs("¥:元 $:美元 €:欧元 £:英镑 ₩:韩元")
_UNITS = parse_pairs(
    "km/h:公里每小时 km²:平方公里 km:千米 cm²:平方厘米 cm³:立方厘米 cm2:平方厘米 cm3:立方厘米 cm:厘米 mm:毫米 "
    "m²:平方米 m³:立方米 m2:平方米 m3:立方米 m:米 kg:千克 mg:毫克 g:克 ml:毫升 mL:毫升 L:升 l:升 dB:分贝 db:分贝 "
    "kHz:千赫 MHz:兆赫 Hz:赫兹 kW:千瓦 W:瓦 GB:吉字节 MB:兆字节 ms:毫秒 s:秒 h:小时"
)
_MEASURES = (
    "个 只 头 匹 条 尾 群 双 对 位 名 人 口 户 家 所 间 座 栋 幢 张 片 块 枚 颗 粒 根 支 枝 杆 把 件 套 身 床 台 "
    "架 辆 艘 列 节 本 册 页 篇 首 句 段 封 幅 部 场 次 回 遍 趟 顿 步 天 周 星期 小时 分钟 秒 时 点 分 刻 岁 "
    "世纪 代 元 角 毛 美元 欧元 英镑 日元 万 亿 千 百 斤 两 克 千克 公斤 吨 米 千米 公里 厘米 毫米 里 尺 寸 亩 升 "
    "毫升 平方 立方 度 倍 杯 碗 瓶 盒 箱 袋 包 桶 盘 碟 锅 壶 篮 束 朵 棵 株 丛 滴 堆 排 行 队 组 班 批 种 类 样 "
    "项 门 笔 份 则 站 字 声 票 年 個 隻 條 張 間 雙 對 層 顆 輛 冊 頁 節 場 歲 點 鐘 分鐘 小時 兩 塊 蚊 幾 樣 門 "
    "筆 則 聲 鍋 壺 籃 叢 種 類 項 組 隊 臺 棟 萬 億 公裡 鐘頭 餐 味"
).split()
"""Measure words, simplified and traditional: before them, two is 两."""
_ORDINALS = "月 日 号 级 楼 层 路 届 期 季 集 课 章".split()
"""Words numbered in order without 第: before them, two is 二."""

_MEASURE, _ORDINAL = ("|".join(sorted(words, key=len, reverse=True)) for words in (_MEASURES, _ORDINALS))
_ANY = re.compile(r"[\d/+]")
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_YEAR = re.compile(r"(?<!\d)(?:\d{4}(?=年)|\d\d(?=年\d{1,2}月))")
_DATE = re.compile(r"(?<!\d)(\d{4})([-/.])(\d{1,2})\2(\d{1,2})(?!\d)")
_CLOCK = re.compile(r"(?<!\d)([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?!\d)")
_CLOCKS = re.compile(r"(?<=:\d\d)[-~～](?=\d{1,2}:)")
_MOBILE = re.compile(r"(?<!\d)(?:\+?86[ -]?)?1[3-9]\d{9}(?!\d)")
_LANDLINE = re.compile(r"(?<!\d)(?:0\d{2,3}-[1-9]\d{6,7}|400-?\d{3}-?\d{4})(?!\d)")
_CURRENCY = re.compile(rf"([{''.join(_CURRENCIES)}])\s?(\d+(?:\.\d+)?)([百千万亿]*)")
_TEMPERATURE = re.compile(r"([-−]?)(\d+(?:\.\d+)?)\s?(?:℃|°C|°|度)")
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(map(re.escape, sorted(_UNITS, key=len, reverse=True)))})(?![A-Za-z])")
_PERCENTAGE = re.compile(r"([-−]?)(\d+(?:\.\d+)?)\s?([%‰])")
_FRACTION = re.compile(r"(?<!\d)([-−]?)(\d+)/(\d+)(?!\d)")
_SUM = re.compile(r"(?<=\d)\s?([-+×÷*=])\s?(?=-?\d)")
_RANGE = re.compile(r"(?<![\d+×÷=-])(\d+(?:\.\d+)?)[-~～](\d+(?:\.\d+)?)(?![\d+×÷=-])")
_VERSION = re.compile(r"(?<!\d)\d+(?:\.\d+){2,}")
_MINUS = re.compile(r"(?<![\w.])[-−](?=\d)")
_COUNTED = re.compile(rf"(?<![\d.第])2(?=[多余几]?(?:{_MEASURE})(?!{_ORDINAL}))")
_COUNT = re.compile(rf"(?<![\d.])\d+(?=[多余几+]?(?:{_MEASURE}|{_ORDINAL}))")
_MORE = re.compile(rf"\+(?={_MEASURE})")
_LONG = re.compile(r"(?<![A-Za-z\d.])\d{3,}(?![A-Za-z\d.])")
_NUMBER = re.compile(r"(?<![A-Za-z\d])\d*\.?\d+(?![A-Za-z\d])")
_PER = re.compile(r"(?<=[元米里克斤升吨])/(?=[小时分钟秒天日月年人次个平])")
_SPOKEN = {"+": "加", "-": "减", "×": "乘", "*": "乘", "÷": "除以", "=": "等于"}


def verbalise(text: str) -> str:
    """Write every number of a text as it is said, except those next to Latin letters, as in `MP3`."""
    if not _ANY.search(text):
        return text
    text = _DATE.sub(lambda match: f"{match[1]}年{int(match[3])}月{int(match[4])}日", _SEPARATOR.sub("", text))
    text = _CLOCK.sub(_clock, _CLOCKS.sub("至", _YEAR.sub(lambda match: read_digits(match[0]), text)))
    text = _LANDLINE.sub(_telephone, _MOBILE.sub(_telephone, text))
    text = _CURRENCY.sub(lambda match: f"{read_number(match[2])}{match[3]}{_CURRENCIES[match[1]]}", text)
    text = _TEMPERATURE.sub(lambda match: f"{'零下' if match[1] else ''}{read_number(match[2])}度", text)
    text = _UNIT.sub(lambda match: _UNITS[match[1]], text)
    text = _FRACTION.sub(lambda match: f"{_sign(match[1])}{read_number(match[3])}分之{read_number(match[2])}", text)
    text = _PERCENTAGE.sub(_percentage, text)
    text = _SUM.sub(lambda match: _SPOKEN[match[1]], _RANGE.sub(r"\1到\2", text))
    text = _VERSION.sub(lambda match: "点".join(map(read_digits, match[0].split("."))), _MINUS.sub("负", text))
    text = _COUNT.sub(lambda match: read_number(match[0]), _COUNTED.sub("两", text))
    text = _LONG.sub(_telephone, _MORE.sub("多", text))
    return _PER.sub("每", _NUMBER.sub(lambda match: read_number(match[0]), text))


def read_digits(figures: str) -> str:
    """Read digits one by one."""
    return "".join(_DIGITS[int(figure)] for figure in figures)


def read_number(figures: str) -> str:
    """Read a cardinal number; decimals are read one by one."""
    with optional_dependencies("zh"):
        import cn2an
    whole, _, decimals = figures.partition(".")
    said = read_digits(whole) if len(whole) > 16 else cn2an.an2cn(whole or "0")
    return f"{said}点{read_digits(decimals)}" if decimals else said


def _telephone(match: re.Match[str]) -> str:
    """Read a telephone number digit by digit, 一 as 幺 (it sounds like 七 otherwise) and a dash as a pause."""
    return "，".join(read_digits(part).replace("一", "幺") for part in re.split(r"[- ]", match[0].strip("+")))


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = match[1], match[2], match[3] or "00"
    said = f"{read_number(hour)}点"
    if minute != "00":
        said += "半" if (minute, second) == ("30", "00") else f"{_two_figures(minute)}分"
    return said + (f"{_two_figures(second)}秒" if second != "00" else "")


def _two_figures(figures: str) -> str:
    return read_digits(figures) if figures[0] == "0" else read_number(figures)


def _percentage(match: re.Match[str]) -> str:
    return f"{_sign(match[1])}{'百' if match[3] == '%' else '千'}分之{read_number(match[2])}"


def _sign(written: str) -> str:
    return "负" if written else ""
