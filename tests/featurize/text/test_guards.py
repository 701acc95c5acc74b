"""Guards of rules: a rule that is tried only where its guard is found is tried wherever it would change something."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.featurize.text.languages import english
from headrace.featurize.text.languages.english import abbreviations, dates, initialisms, quantities, signs
from headrace.featurize.text.languages.rewriting import Guarded
from headrace.featurize.text.languages.sinitic import figures

HERE = Path(__file__).parent
ENGLISH = {
    f"{module.__name__.rpartition('.')[2]}.{name}": rule
    for module in (english, abbreviations, dates, initialisms, quantities, signs)
    for name, rule in vars(module).items()
    if isinstance(rule, Guarded)
}
PIECES = (
    "1 2 7 12 30 50 99 100 365 555-1234 1,000 12,345.67 3.14 0.5 .5 1990 1984 2024 1999-2001 2024-05-01 5/4 1/2 9/11 "
    "12/25/2023 2021/22 on 3/4 10:30 9:00 14:05:09 3pm 5 a.m. 10:00-11:30 7 o'clock 44 BC AD 79 100 CE the 1990s '90s "
    "in 1066 '68 May 5 5 May 2020 Jan. 3, 2019 June 2021 Sept 4th $5 $3.50 £3m €20-30 5€ 100 USD EUR 7 50¢ $5/day "
    "km/h 5'11\" 6' tall 30\" 4'x8' 5 km 10kg 20 °C 30°F 5-mm 3x4 cm 5% 10-20% 5%-6% 3‰ 20k 4K 1.5M 3bn a.b@c.com "
    "www.x.org/y_z https://a.io x.com. @me #tag #5 +49 30 12345 (555) 123-4567 030 1234567 call 911 dial 12345 code "
    "1234 pin 9876 10.0.0.1 1.2.3 v2.1 1 000 000 1.000.000 Boeing 747 Room 101 x^2 10⁵ 3:1 1st 22nd 3rd 4th 1,000th "
    "10-20 5 to 6 5 - 3 -5 −3 a − b <5 ≥ 3 5 + 6 = 11 a=b 3×4 10x 5*6 B2B 7up AK-47 R&D AT&T Dr. Smith Elm St. St Ann "
    "Mr. Bean no. 5 vol. 3 p. 7 vs. etc. w/o i.e. Henry VIII part II WWII XIX century J. K. hi,there wait…so 5in. 100W "
    "Mon. 5 Vol. IV Ph.D. Sat., Jan. 3 Mon-Fri Jan.–Mar. year 2525 MMXXIV Bowl LVI scene iv 30″ 5.5'' 999 or 112 ¼ oz "
    "½ 2½ 8% ~20 CA$5 Chapter IV 5g"
).split(" ")
CHINESE = (
    "今天 有 个 人 第 年 月 日 号 5 12 2024 1990年 2024-05-01 2024/5 90后 10:30 3:2 9am 5PM 13812345678 010-12345678 "
    'a@b.com www.x.cn 电话 $5 ¥100 5元 HK$20 -5℃ 20°C 3度 50% 10-20% 3‰ 1/2 3/4 x² 10³ 10⁵ 3^2 5km 10kg m² 5" 1.2.3 '
    "3-5 周一-周五 ± - + = × ÷ VIII 第III章 No.5 2B P2P B2B 1,234,567 ½ 5½ 5#楼 PM2.5 iPhone15 1080p 5G A+ .5 985高校 "
    "10086 101室 元/小时 2两 2个 300 到 IV世纪 < > ~ 3~5个 10+个 37°24′ 比 80后 −3 5号-7号"
    " №5 05-01 3/4楼 5'30\" 身高 5′10″ km 100€"
).split(" ")


def texts(pieces: tuple[str, ...] | list[str], count: int) -> Iterator[str]:
    """Yield pieces side by side, with spaces between them, signs, or nothing."""
    rng = random.Random(17)
    for _ in range(count):
        drawn = rng.choices(pieces, k=rng.randint(1, 6))
        yield "".join(piece + rng.choice(("", " ", " ", " ", ", ", "-", "/")) for piece in drawn)


def rows(*names: str) -> Iterator[str]:
    for name in names:
        for line in (HERE / name).read_text(encoding="utf-8").splitlines():
            yield from line.split("\t")[:2]


@pytest.fixture(scope="module")
def english_texts() -> list[str]:
    given = [*rows("figures_en.tsv", "initialisms.tsv", "sentences/en.tsv"), *texts(PIECES, 4000)]
    return [*given, *map(english.write_in_words, given[:1000])]


@pytest.mark.parametrize("name", ENGLISH)
def test_a_guard_is_found_wherever_its_pattern_is(name: str, english_texts: list[str]) -> None:
    rule = ENGLISH[name]
    found = [text for text in english_texts if rule.pattern.search(text)]
    assert found, "no text tries it"
    assert [text for text in found if not rule.guard.search(text)] == []


def test_a_guard_skips_what_it_is_not_found_in() -> None:
    rule = Guarded("b", "[ab]")
    assert (rule.sub("c", "aa"), rule.sub("c", "ab")) == ("aa", "cc")


def test_a_guard_is_found_wherever_a_rule_of_its_group_changes_something() -> None:
    given = [*rows("spoken/zh.tsv", "spoken/yue.tsv", "sentences/zh.tsv"), *texts(CHINESE, 3000)]
    for number, (guard, group) in enumerate(figures._groups("幺", "美元")):
        tried = 0
        for text in given:
            changing = [pattern.pattern for pattern, said in group if pattern.sub(said, text) != text]
            tried += bool(changing)
            assert not changing or guard.search(text), (number, text, changing)
        assert tried > 20
