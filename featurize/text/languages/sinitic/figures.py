"""Write figures in Chinese characters as they are said in their context, Mandarin and Cantonese alike.

Dates, times, ratios and scores, telephone numbers and other codes, money, temperatures, percentages, fractions, ranges,
arithmetic, units, versions, figures beside Latin letters; and what is left, as a count.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from headrace.featurize.text.languages.rewriting import (
    ROMAN_NUMERALS,
    SUPERSCRIPTS,
    VULGAR_FRACTIONS,
    Rule,
    compile_rule,
    is_day,
    is_span,
    rewrite,
    rules,
)
from headrace.featurize.text.languages.sinitic.measure_words import (
    BARE_UNIT,
    CURRENCIES,
    CURRENCY,
    MEASURE,
    ORDINAL,
    UNIT,
    UNITS,
)
from headrace.featurize.text.languages.sinitic.numerals import multiply, read_digits, read_number

_ANY = compile_rule(r"[\dIVX²³⁰-⁹½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞/+=×÷±%]|[-~–—]周")
_N = r"\d+(?:\.\d+)?"
_DASH = r"\s?[-~–—]\s?"
_HAN = "[\u4e00-\u9fff]"
_ENDS = r"(?![\d.]*\d)"
_IDENTIFIED = (
    r"(?:电话|電話|手机|手機|号码|號碼|密码|密碼|验证码|驗證碼|编号|編號|邮编|郵編|邮政编码|代码|代碼|学号|工号|账号|帐号|帳號|卡号|"
    r"尾号|房间号?|房号|房號|门牌号|车牌号?|車牌號?|航班号?|订单号|单号|身份证号?|证号|热线|熱線|客服|拨打|拨通|拨|撥打|致电|致電|"
    r"传真|分机|转|口令|型号|QQ号?|微信号?|ID|报警|打)(?:号码|号|碼)?[是为係:]?\s?"
)
_SCORED = re.compile(r"(?:比分?|比例|比率|以|总分|局分|缩放|稀释|配比|票数|賠率|赔率)(?:[是为係约到:]|尺)*\s?$")
_WON = re.compile(
    r"\s?(?:的比[分例率]|的优势|的?大?比分|战胜|击败|险胜|完胜|大胜|小胜|获胜|取胜|胜|负于|战平|平局|不敌|告负|领先|落后|逆转|擊敗|險勝|領先|落後)"
)
_SHARE = re.compile(r"(?:占|佔|约|有|剩|剩下|近|超过|不到|的)$")
_HOURS = {"": "", "a": "上午", "p": "下午"}
_HALF = r"(?:\s?([aApP])\.?[mM]\.?(?![A-Za-z]))"
_SERVICES = r"(?:10010|10086|12306|12315|12345|12333|12320|12348|95\d{3})"
_NICKNAMES = (
    r"(?:985|211)(?=高校|大学|院校|工程|学校|[、,/和])|996(?=工作|模式|加班|福报|[,.。])|007(?=特工)|911(?=事件|恐|袭)|"
    r"618(?=大促|购物|活动|期间|年中)|315(?=晚会)"
)
"""Figures that are names, and what follows them."""
_COUNTED = rf"[多余几]?(?:{MEASURE})"


def verbalise(text: str, one: str = "幺", dollar: str = "美元") -> str:
    """Write every figure of a text as it is said, and the signs that belong to figures.

    Args:
        text: in normal form, of any script.
        one: how 1 is said in telephone numbers: Mandarin says 幺, as 一 sounds like 七 there.
        dollar: what a bare dollar sign is.
    """
    if not _ANY.search(text):
        return text
    for guard, group in _groups(one, dollar):
        if guard.search(text):
            text = rewrite(text, group)
    return text


@cache
def _groups(one: str, dollar: str) -> tuple[tuple[re.Pattern[str], tuple[Rule, ...]], ...]:
    """Return groups of rules, each with a guard that is found in every text that one of its rules changes."""

    def code(match: re.Match[str]) -> str:
        return _code(match[0], one)

    groups = {
        rf"[,{''.join(VULGAR_FRACTIONS)}IVX#№2/]|N[oO]": _written(),
        r"\d{4}|[年月后後]|\d[-/]\d": _dates(),
        r"\d{3}|@|\.[a-z]": _codes(code, one),
        r":|[aApP]\.?[mM]": _clocks(),
        r"[+¥$€£₩₹₽฿%‰/℃℉°度A-Z'′]": _amounts(dollar),
        r"[A-Za-z^\"″⁰¹²³⁴-⁹⁻+×*÷=≠≈≥≤<>−±~–—°℃℉µμΩ-]|\.\d+\.": _terms(),
        r"[A-Za-z]": _latin(code),
        r"[\d/]": _counts(),
    }
    return tuple((compile_rule(guard), group) for guard, group in groups.items())


def _code(figures: str, one: str) -> str:
    """Read a code digit by digit, with a pause where its groups meet."""
    return ",".join(read_digits(part).replace("一", one) for part in re.findall(r"\d+", figures))


def _written() -> tuple[Rule, ...]:
    """Write figures that have signs of their own as others are written."""
    return rules(
        (r"(?<![\d.])(?<!\d,)\d{1,3}(?:,\d{3})+(?!\d|,\d|\.\d+\.|\s?[×÷+=:/])", lambda m: m[0].replace(",", "")),
        (rf"(\d?)([{''.join(VULGAR_FRACTIONS)}])", lambda m: f"{m[1]}{'又' if m[1] else ''}{VULGAR_FRACTIONS[m[2]]}"),
        (r"(?<![\d/])(\d+) (\d+/\d+)(?![\d/])", r"\1又\2"),
        (r"(?<=第)([IVX]+)(?![A-Za-z])", _roman),
        (rf"(?<={_HAN})([IVX]{{2,}})(?![A-Za-z])", _roman),
        (r"(?<![A-Za-z])([IVX]+)(?=[世期卷章度])", _roman),
        (r"(?<![A-Za-z])(?:N[oO]\.?|№)\s?(?=\d)", "第"),
        (rf"(?<=\d)#(?={_HAN})", "号"),
        (r"(?<![A-Za-z])([BCDGOPFV])2([BCDGOPFV])(?![A-Za-z])", r"\1 to \2"),
    )


def _roman(match: re.Match[str]) -> str:
    return str(ROMAN_NUMERALS.get(match[1], match[1]))


def _dates() -> tuple[Rule, ...]:
    year, month, day = r"(?<![\d.])((?:1\d|20|21)\d\d)", r"(0?[1-9]|1[0-2])", r"(0?[1-9]|[12]\d|3[01])"

    def date(m: re.Match[str]) -> str:
        return f"{read_digits(m[1])}年{read_number(str(int(m[3])))}月{read_number(str(int(m[4])))}日"

    return rules(
        (rf"{year}([-/.]){month}\2{day}(?!\d)", date),
        (r"(?<![A-Za-z\d.\-号码分第])(?:(0[1-9])-(0[1-9]|[12]\d|3[01])|(1[0-2])-(0[1-9]))(?![\d.-])",
         lambda m: f"{read_number(str(int(m[1] or m[3])))}月{read_number(str(int(m[2] or m[4])))}日"),
        (r"(?<![\d/.])(\d{1,2})/(\d{1,2})(?=[月日号楼层级])", _neighbours),
        (rf"{year}[-/](0[1-9]|1[0-2])(?![\d/.-])", lambda m: f"{read_digits(m[1])}年{read_number(str(int(m[2])))}月"),
        (r"(?<=[年月])0(?=\d[月日号])", ""),
        (rf"(?<!\d)(\d{{4}})年?{_DASH}(\d{{4}})(?=年)", lambda m: f"{read_digits(m[1])}到{read_digits(m[2])}"),
        (rf"(?<!\d)(\d{{4}}){_DASH}(\d\d)(?=年)", lambda m: f"{read_digits(m[1])}到{read_digits(m[2])}"),
        (r"(?<![\d.-])(\d{4})[-~–—](\d{4})(?![\d.-])", _years),
        (rf"(?<!\d)(\d{{2}}){_DASH}(\d0)(?=年代)", lambda m: f"{read_number(m[1])}到{read_number(m[2])}"),
        (r"(?<![\d.])(?:\d{4}(?=年)|\d\d(?=年\d{1,2}月)|0\d(?=年)|[5-9]\d(?=年(?:出生|生人|毕业|入学|入伍)))",
         lambda m: read_digits(m[0])),
        (rf"(?<![\d.])(?:19|20)\d\d(?=[届屆级款版]|春|夏|秋|冬|赛季|财年|[上下]半年|(?:{_HAN}{{2}})?(?:奥运|世界杯|世博|亚运|欧洲杯))",
         lambda m: read_digits(m[0])),
        (r"(?<![\d.:])\d[05](?=[后後](?![天年日月周个期半来]))", lambda m: read_digits(m[0])),
    )  # fmt: skip


def _neighbours(match: re.Match[str]) -> str:
    """Read two numbers that follow each other, of months or floors, with a pause between them; others as they are."""
    if int(match[2]) != int(match[1]) + 1:
        return match[0]
    return f"{read_number(match[1])},{read_number(match[2])}"


def _years(match: re.Match[str]) -> str:
    """Read two years and what lies between them; other groups of four figures are a telephone number or a range."""
    spanned = f"{match[1]}-{match[2]}"
    if not is_span(spanned):
        return match[0]
    read = read_digits if "1700" <= match[1] < match[2] < "2100" and match[1] != "2000" else read_number
    return f"{read(match[1])}到{read(match[2])}"


def _codes(code: Callable[[re.Match[str]], str], one: str) -> tuple[Rule, ...]:
    def address(match: re.Match[str]) -> str:
        return _digits_of(match[0].replace("@", " at ").replace(".", "点"), one)

    return rules(
        (r"[A-Za-z\d_+-]+(?:\.[A-Za-z\d_+-]+)*@[A-Za-z\d-]+(?:\.[A-Za-z\d-]+)+", address),
        (r"https?://(?=[A-Za-z\d])", ""),
        (r"(?<![A-Za-z\d.])(?:[A-Za-z\d-]+\.)+(?:com|cn|net|org|edu|gov|io|hk|tv|cc|me)(?![A-Za-z\d.-])", address),
        (r"(?<![\d.])(?:\+?86[ -]?)?1[3-9]\d(?:\d{8}|([ -])\d{4}\1\d{4}|\d([ -])\d{4}\2\d{3,4})(?!\d)", code),
        (r"(?<![\d.])(?:0\d{2,3}[- ]\d{3,4}[- ]?\d{4}|[48]00[- ]?\d{3}[- ]?\d{4})(?!\d)", code),
        (r"(?<![\d.])\+?85[23][ -]?\d{4}[ -]?\d{4}(?!\d)", code),
        (r"(?<![\d.-])\d{3,4}-\d{3,4}-\d{3,4}(?![\d.-])", code),
        (r"(?<![\d.-])(\d{3,4}-\d{4})(?![\d.%‰-])", lambda m: m[0] if is_span(m[0]) else code(m)),
        (rf"({_IDENTIFIED})(\d{{3,}}(?:[- ]\d+)*(?:[和或、与及]\d{{3,}})*)(?![\dA-Za-z%]|\.\d|{_COUNTED})",
         lambda m: m[1] + re.sub(r"\d+(?:[- ]\d+)*", code, m[2])),
        (rf"(?<![\d.]){_SERVICES}(?![\d.]|{_COUNTED})", code),
        (r"(?<![\d.])\d{3,4}(?=室|房|包[间厢]|宿舍|寝室|病房|教室)", code),
        (r"(?<=波音)\d{3}|(?<=骁龙)\d{3}|(?<=空客)\d{3}", code),
        (rf"(?<![\d.])(?:{_NICKNAMES})", code),
        (rf"(?<![\dA-Za-z.])(?:0\d{{2,}}|\d{{8,}}(?<!000))(?!\d|\.\d|{_COUNTED})", code),
    )  # fmt: skip


def _digits_of(text: str, one: str) -> str:
    return re.sub(r"\d+", lambda match: _code(match[0], one), text)


def _clocks() -> tuple[Rule, ...]:
    return rules(
        (r"(?<=:\d\d)\s?[-~–—]\s?(?=\d{1,2}:)", "至"),
        (rf"(?<![\d:.])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:]|\.\d){_HALF}?", _clock),
        (rf"(?<![\d:.A-Za-z])(1[0-2]|[1-9]){_HALF}", lambda m: f"{_HOURS[m[2].lower()]}{_hour(m[1])}"),
        (rf"(?<![\d:])({_N})((?::{_N})+)(?![\d:])", lambda m: "比".join(map(read_number, m[0].split(":")))),
    )  # fmt: skip


def _clock(match: re.Match[str]) -> str:
    """Read a time of day, unless it is a score or a ratio by what stands around it."""
    if _SCORED.search(_before(match)) or _WON.match(match.string, match.end()):
        return match[0]
    minute, second = match[2], match[3] or "00"
    said = _HOURS[(match[4] or "").lower()] + _hour(match[1])
    if minute != "00" or second != "00":
        said += "半" if (minute, second) == ("30", "00") else f"{read_number(minute)}分" if minute != "00" else "零分"
    return said + (f"{read_number(second)}秒" if second != "00" else "")


def _hour(figures: str) -> str:
    return f"{read_number(str(int(figures)))}点"


def _amounts(dollar: str) -> tuple[Rule, ...]:
    """Money, temperatures, percentages, angles, fractions."""
    currencies = CURRENCIES | {"$": dollar}
    scale = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "": 1}

    def money(m: re.Match[str]) -> str:
        sign, currency, first, factor, last, more = m.groups("")
        amounts = [read_number(multiply(one, scale[factor]) if factor else one) for one in (first, last) if one]
        return f"{_sign(sign)}{'到'.join(amounts)}{more}{currencies[currency]}"

    percent = {"%": "百", "‰": "千"}

    def percentage(m: re.Match[str]) -> str:
        sign, first, _, last_sign, last, unit = m.groups("")
        said = f"{percent[unit]}分之"
        begin = f"{_sign(sign)}{said}{read_number(first)}"
        return f"{begin}到{_sign(last_sign)}{said}{read_number(last)}" if last else begin

    return rules(
        (r"(?<![\dA-Za-z)])\+(?=\d)", "正"),
        (rf"([-−]?)({CURRENCY})\s?({_N})([kKMB](?![A-Za-z]))?(?:{_DASH}({_N})(?!\d))?\s?([百千万亿萬億]*)元?", money),
        (rf"(?<![\dA-Za-z.])({_N})\s?([百千万亿]*)\s?({CURRENCY})(?![\dA-Za-z.])",
         lambda m: f"{read_number(m[1])}{m[2]}{currencies[m[3]]}"),
        (r"(?<![\d.])(\d{1,2})['′](\d{1,2}(?:\.\d+)?)(?:[\"″]|''|′′)", _minutes_or_feet),
        (rf"(?<![\d.])([-−])({_N})(?={_DASH}[-−+]?{_N}\s?(?:℃|°C|度|℉))", lambda m: f"零下{m[2]}"),
        (rf"(?<=[\d℃度零一二三四五六七八九十百])({_DASH})([-−])({_N})(?=\s?(?:℃|°C|度))", lambda m: f"到零下{m[3]}"),
        (rf"(?<![\dA-Za-z.)℃])(?<!\d度)([-−])({_N})(?=\s?(?:℃|°C|度))", lambda m: f"零下{m[2]}"),
        (rf"(零下{_N}){_DASH}(?={_N}\s?(?:℃|°C|度))", r"\1到"),
        (rf"(?<![\dA-Za-z.)])[-−](?={_N}到{_N}\s?(?:℃|°C|度))", "零下"),
        (r"(\d+)°(\d+)[′'](?:(\d+(?:\.\d+)?)[″\"])?",
         lambda m: f"{read_number(m[1])}度{read_number(m[2])}分" + (f"{read_number(m[3])}秒" if m[3] else "")),
        (rf"(?<![\d.])()({_N})(\s?[%‰])?{_DASH}([-−]?)({_N})\s?([%‰])", percentage),
        (rf"((?<![\dA-Za-z.%)])[-−])?({_N})()()()\s?([%‰])", percentage),
        (r"((?<![\dA-Za-z.)])[-−])?(?<![\d/.])(\d+)/(\d+)(?![\d/]|\.\d)", _fraction),
        (r"(?<![\d/.])(\d+(?:/\d+){2,})(?![\d/.])", lambda m: ",".join(map(read_number, m[1].split("/")))),
    )  # fmt: skip


def _minutes_or_feet(match: re.Match[str]) -> str:
    """Read `5'30"`: the height of a person in feet and inches, or else minutes and seconds."""
    first, second = map(read_number, match.groups())
    if re.search(r"[身个][高子].{0,3}$", _before(match)):
        return f"{first}英尺{second}英寸"
    return f"{first}分{second}秒"


def _sign(written: str) -> str:
    return "负" if written else ""


def _fraction(match: re.Match[str]) -> str:
    sign, first, second = match.groups("")
    before = _before(match)
    share = sign or before.endswith("又") or _SHARE.search(before)
    if not share and is_day(int(first), int(second)):
        return f"{read_number(str(int(first)))}月{read_number(str(int(second)))}日"
    if int(first) > int(second):
        return f"{read_number(first)},{read_number(second)}"  # a blood pressure
    return f"{_sign(sign)}{read_number(second)}分之{read_number(first)}"


def _terms() -> tuple[Rule, ...]:
    """Powers, arithmetic, ranges, signs, units, versions."""
    operand, term = r"(?<=[\dA-Za-z²³⁰-⁹)方])", r"(?=[-±√(]?[\dA-Za-z])"
    signs = {
        "+": "加", "×": "乘", "*": "乘", "÷": "除以", "=": "等于", "≠": "不等于", "≈": "约等于", "≥": "大于等于",
        "≤": "小于等于", ">": "大于", "<": "小于", "±": "正负", "−": "减",
    }  # fmt: skip
    return rules(
        (r"\^(-?\d+)", lambda m: m[1].translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))),
        (rf"(?<![A-Za-z\d.])({_N})\s?({UNIT})(?![A-Za-z\d²³])(?={_DASH}\d)", lambda m: f"{m[1]}{UNITS[m[2]]}"),
        (rf"(?<![A-Za-z\d.])({_N})\s?({UNIT})(?![A-Za-z\d²³])", lambda m: f"{m[1]}{UNITS[m[2]]}"),
        (rf"(?<![\w.])(?<![A-Za-z] )({BARE_UNIT})(?![A-Za-z\d²³]| [A-Za-z])|(?<={_HAN})({BARE_UNIT})(?![A-Za-z²³])",
         lambda m: UNITS[m[1] or m[2]]),
        (rf"(?<![A-Za-z\d.])({_N})\s?[\"″](?![\w\"])|(?<![A-Za-z\d.\"])({_N})[\"″](?={_HAN}[^\"]*$)",
         lambda m: f"{m[1] or m[2]}英寸"),
        (r"[⁰¹²³⁴-⁹⁻]{2,}|[⁰¹⁴-⁹]", lambda m: _power(m[0])),
        (r"(?<=[A-Za-z)])²", "平方"),
        (r"(?<=[A-Za-z)])³", "立方"),
        (r"²", "的平方"),
        (r"³", "的立方"),
        (rf"{operand}\s?([+×*÷=≠≈≥≤<>])\s?{term}", lambda m: signs[m[1]]),
        (r"(?<=[\dA-Za-z方])\s?−\s?(?=[\dA-Za-z])", "减"),
        (rf"(?<![\d.])({_N})\s?-\s?({_N})(?=(?:等于|加|减|乘|除以|-\d+等于))", r"\1减\2"),
        (rf"(?<=[加减乘以])({_N})\s?-\s?(?={_N})", r"\1减"),
        (rf"(?<![A-Za-z])([A-Za-z])\s?-\s?(?=(?:[A-Za-z]|{_N})\s?(?:等于|加|减|乘|除以))", r"\1减"),
        (r"(?<=[\d方])\s?-\s?(?=[A-Za-z](?:平方|立方|等于))|(?<=[A-Za-z]平方)-(?=\d)", "减"),
        (rf"(?<![\d.A-Za-z-])({_N})({_DASH})({_N})(?![\d.]|-\d)", _range),
        (rf"(?<=[\d零一二三四五六七八九十百千万亿])({MEASURE}|{ORDINAL}){_DASH}(?=\d)", r"\1到"),
        (r"(?<=[周週][一二三四五六日])\s?[-~–—]\s?(?=[周週]?[一二三四五六日])", "到"),
        (r"(?<![\d.])\d+(?:\.\d+){2,}", lambda m: "点".join(map(read_digits, m[0].split(".")))),
        (r"(?<![\w.)])-(?=\d)|(?<![\dA-Za-z.)])−(?=\d)|(?<=[是为係約约达到于至得在])-(?=\d)", "负"),
        (r"±", "正负"),
        (rf"(?<=\d)\+(?={MEASURE})", "多"),
    )  # fmt: skip


def _before(match: re.Match[str]) -> str:
    """Return what stands before a match, as far as a rule looks back."""
    return match.string[max(0, match.start() - 12) : match.start()]


def _power(written: str) -> str:
    figures = written.translate(SUPERSCRIPTS)
    return f"的{'负' if figures[0] == '-' else ''}{read_number(figures.strip('-'))}次方"


def _range(match: re.Match[str]) -> str:
    """Read two numbers with a dash between them: a range if they ascend, else a score, else two parts of a code."""
    first, dash, second = match[1], match[2].strip(), match[3]
    if _SCORED.search(_before(match)) or _WON.match(match.string, match.end()):
        return f"{read_number(first)}比{read_number(second)}"
    numbered = dash == "-" and len(first) <= 2 < len(second) and second.isdigit() and second[-1] != "0"
    if dash != "-" or (float(first) < float(second) and not numbered):
        return f"{first}到{second}"
    short = max(len(first), len(second)) <= 2
    return f"{read_number(first)}{'比' if short else '杠'}{read_number(second) if short else read_digits(second)}"


def _latin(code: Callable[[re.Match[str]], str]) -> tuple[Rule, ...]:
    """Figures beside Latin letters: a model, a version, a size. Those between English words are left to English."""
    return rules(
        (r"(?<![\d.])\d{3,4}(?=[pP](?![A-Za-z]))", code),
        (r"(?<=[A-Za-z])[- ]?((?<![a-z] )\d{3,}|(?<=[a-z] )\d{3,}(?! [a-z]))(?!\d|\.\d)", code),
        (r"(?<=[A-Za-z])-?(\d+(?:\.\d+)?)", lambda m: read_number(m[1])),
        (r"(?<![\d.])(\d+(?:\.\d+)?)(?=[A-Za-z])", lambda m: read_number(m[1])),
        (r"(?<=[A-Za-z])\+(?![\w])", "加"),
    )


def _counts() -> tuple[Rule, ...]:
    more = "[多余几]?"
    return rules(
        (rf"(?<![\d.第])2(?=到\d+(?:{MEASURE})(?!{ORDINAL}))", "两"),
        (r"(?<![\d.])2(?=两(?!个|[年天岁]))", "二"),
        (rf"(?<![\d.第])2(?={more}(?:{MEASURE})(?!{ORDINAL}))", "两"),
        (rf"(?<![\d.])\d+(?={more}(?:{MEASURE}|{ORDINAL}))", lambda m: read_number(m[0])),
        (rf"(?<![a-z] )(?<!\d){_N}|(?<=[a-z] ){_N}(?! [a-z])", lambda m: read_number(m[0])),
        (r"(?<![A-Za-z\d])\.\d+", lambda m: read_number("0" + m[0])),
        (r"(?<=[元米里克斤升吨块次个转帧])/(?=[小时分钟秒天日月年人次个平立斤米升克千])", "每"),
    )
