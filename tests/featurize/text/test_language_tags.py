"""Tags of languages as corpora, tools and people write them, and texts in several languages."""

from __future__ import annotations

import pytest

from headrace.featurize.text import g2p
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import Rejected


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (
            "zh-CN zh_CN.UTF-8 zh-TW zh-SG cmn-Hans-CN Chinese Mandarin 中文 普通话 all_zh ZH 中英混合",
            "zh",
        ),
        ("zh-HK zh-Hant-HK zh-MO yue yue-HK Cantonese 粤语 廣東話 all_yue YUE 粤英混合", "yue"),
        ("ja-JP JP ja jpn Japanese 日本語 日文 all_ja 日英混合", "ja"),
        ("en-US en-GB EN eng English all_en 英文 English(US)", "en"),
        ("ko-KR KO kor Korean 한국어 韩文 all_ko 韩英混合", "ko"),
        ("de-DE German german Deutsch 德语", "de"),
        ("pt-BR pt_BR", "pt-br"),
        ("Español es-MX Spanish", "es"),
        ("auto AUTO 多语种混合", "auto"),
        ("auto_yue 多语种混合(粤语)", "auto-yue"),
    ],
)
def test_a_tag_is_its_language(tags: str, code: str) -> None:
    assert {tag: language_code(tag) for tag in tags.split()} == dict.fromkeys(tags.split(), code)


def test_names_of_several_words() -> None:
    assert [language_code(name) for name in ("Mandarin Chinese", "Chinese-English Mixed", "English (US)")] == [
        "zh",
        "zh",
        "en",
    ]


@pytest.mark.parametrize(("tag", "near"), [("Chinse", "chinese"), ("englsh", "english"), ("jap!", "")])
def test_an_unknown_tag_names_what_is_known(tag: str, near: str) -> None:
    told = unknown_tag(tag)
    assert f"nothing here reads language {tag!r}" + (f" (is it {near}?)" if near else ":") in told
    assert "zh, en, ja, ko, yue are read" in told


@pytest.mark.parametrize(
    ("text", "language", "as_language"),
    [
        ("今天天气很好。", "auto", "zh"),
        ("今天天气很好。", "auto_yue", "yue"),
        ("今日はhelloです。", "auto", "ja"),
        ("오늘은 좋아요.", "auto", "ko"),
        ("Fine weather today.", "auto", "en"),
    ],
)
def test_scripts_tell_the_language_where_it_is_left_to_them(text: str, language: str, as_language: str) -> None:
    assert g2p.phonemise(text, language) == g2p.phonemise(text, as_language)


@pytest.mark.parametrize(
    ("text", "language", "parts"),
    [
        ("今天天气不错。今日はいい天気です。", "auto", [("今天天气不错。", "zh"), ("今日はいい天気です。", "ja")]),
        ("今日は晴れ。我哋去食飯，好唔好？", "auto_yue", [("今日は晴れ。", "ja"), ("我哋去食飯，好唔好？", "yue")]),
        ("你好。Hello there! 明日は来る。", "auto", [("你好。Hello there!", "zh"), ("明日は来る。", "ja")]),
        ("東京都知事選挙。今日は投票日です。", "auto", [("東京都知事選挙。今日は投票日です。", "ja")]),
    ],
)
def test_chinese_sentences_among_japanese_ones_are_told(text: str, language: str, parts: list[tuple[str, str]]) -> None:
    read = [phone for part, code in parts for phone in g2p.phonemise(part, code).phones]
    assert list(g2p.phonemise(text, language).phones) == read


def test_an_unread_character_of_a_later_part_is_named_with_its_place() -> None:
    with pytest.raises(Rejected, match=r"'错' .*character 4 of '明日は错です'"):
        g2p.phonemise("今天天气很好。明日は错です。", "auto")


@pytest.mark.parametrize("text", ["Привет", "123"])
def test_other_scripts_do_not_tell_the_language(text: str) -> None:
    with pytest.raises(Rejected, match="does not tell its language: name it"):
        g2p.phonemise(text, "auto")


def test_a_part_of_a_text_may_be_marked_as_of_another_language() -> None:
    whole = g2p.phonemise('They said <lang xml:lang="ja-JP">今日</lang> and <lang lang="yue">今日</lang>.', "en").phones
    parts = [g2p.phonemise(text, code).phones for text, code in (("They said", "en"), ("今日", "ja"), ("and", "en"))]
    assert whole == (*parts[0], *parts[1], *parts[2][1:], *g2p.phonemise("今日", "yue").phones, ".")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('a <lang xml:lang="de">b', "character 3, is not closed by </lang>"),
        ("a b</lang> c", "'</lang>', character 4, closes nothing"),
        ('<lang xml:lang="de">b <lang xml:lang="fr">c</lang></lang>', "character 23, is inside of another one"),
        ('&amp; <lang xml:lang="qq">b</lang>', "nothing here reads language 'qq'"),
        ('a &amp; <lang xml:lang="ja">あ\U0001f600</lang>', "character 30 is a picture"),
        ('a &amp; <lang xml:lang="ja">あש</lang>', "'ש' (HEBREW LETTER SHIN), character 30 of"),
    ],
)
def test_a_wrong_mark_of_a_language_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        g2p.phonemise(text, "en")
    assert reason in caught.value.reason
