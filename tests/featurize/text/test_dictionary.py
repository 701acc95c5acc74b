"""A dictionary of one's own: readings of names in every notation, what counts as the word, and files with faults."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from headrace.featurize.text import dictionary, g2p
from headrace.featurize.text.dictionary import Dictionary
from headrace.featurize.text.reading_options import ReadingOptions
from headrace.store.errors import UsageError

LINES = """\
# names
Kowalski\tK AA1 V AA0 L S K IY0\ten
Kowalski Senior\tS IY1\ten
naan\tN AA1 N\ten

Xyzzy\t/ˈzɪzi/\ten
GIF\tjif\ten
重庆\tchong2 qing4\tzh
长庆\tcháng qìng\tzh-CN
单\t善\tzh
iPhone\tai4 feng1\tzh
香港\thoeng1 gong2\tyue
大谷翔\tオオタニショウ\tja
神戸\tk o o b e\tja
서울\t써울\tko
Jürgen\t/ˈjʏʁɡŋ̩/\tde
Škoda\tSchkoda\tGerman
"""


@pytest.fixture
def own(tmp_path: Path) -> Dictionary:
    file = tmp_path / "names.tsv"
    file.write_text(LINES, encoding="utf-8")
    return dictionary.read(file)


@pytest.mark.parametrize(
    ("text", "language", "same"),
    [
        ("Ask Kowalski now.", "en", "Ask {K AA1 V AA0 L S K IY0} now."),
        ("Ask Kowalski Senior now.", "en", "Ask {S IY1} now."),
        ("KOWALSKI, Kowalskis, kowalski!", "en", "KOWALSKI, Kowalskis, kowalski!"),
        ("Naan and NAAN, no naans.", "en", "{N AA1 N} and {N AA1 N}, no naans."),
        ("Kowalski's car, Xyzzy's.", "en", "{K AA1 V AA0 L S K IY0 Z} car, {Z IH1 Z IY0 Z}."),
        ("GIF's not O'Kowalski.", "en", "{JH IH1 F S} not O'Kowalski."),
        ("去重庆吧", "zh", "去{ch ong2 q ing4}吧"),
        ("在长庆。", "zh", "在{ch ang2 q ing4}。"),
        ("买iPhone和Kowalski。", "zh", "买{AA ai4 f eng1}和{K AA1 V AA0 L S K IY0}。"),
        ("我在香港", "yue", "我在{Yh Yoeng1 Yg Yong2}"),
        ("神戸へ行く", "ja", "{k o o b e}へ行く"),
        ("I like 重庆.", "en", "I like {ch ong2 q ing4}."),
        ("Hallo Jürgen.", "de", "Hallo {/ˈ/ /j/ /ʏ/ /ʁ/ /ɡ/ /ŋ̩/}."),
    ],
)
def test_a_word_is_read_as_the_dictionary_says(own: Dictionary, text: str, language: str, same: str) -> None:
    if language == "de":
        assert g2p.phonemise(text, language, ReadingOptions(own)).phones != g2p.phonemise(text, language).phones
        return
    assert g2p.phonemise(text, language, ReadingOptions(own)).phones == g2p.phonemise(same, language).phones


def test_respellings_are_read_as_their_language_does(own: Dictionary) -> None:
    known = {(word, language): tuple(phones.split()) for word, language, phones in own.entries}
    assert known["大谷翔", "ja"] == g2p.phonemise("オオタニショウ", "ja").phones
    assert known["서울", "ko"] == g2p.phonemise("써울", "ko").phones[:-1]
    assert known["Škoda", "de"] == g2p.phonemise("Schkoda", "de").phones
    assert known["单", "zh"] == ("sh", "an4")


def test_a_particle_may_follow_a_word_in_hangul(own: Dictionary) -> None:
    phones = g2p.phonemise("나는 서울에 가요.", "ko", ReadingOptions(own)).phones
    alone = g2p.phonemise("써울", "ko").phones[:-1]
    assert any(phones[at : at + len(alone)] == alone for at in range(len(phones)))
    assert "." not in phones[:-1], "the text goes on"
    assert phones.count("空") == 2


def test_chinese_characters_have_their_own_phones(own: Dictionary) -> None:
    reading = g2p.phonemise("去重庆吧", "zh", ReadingOptions(own))
    assert (reading.text, reading.word2ph) == ("去重庆吧", (2, 2, 2, 2))


def test_it_travels_as_one_text(own: Dictionary) -> None:
    assert Dictionary.load(own.dump()) == own == pickle.loads(pickle.dumps(own))
    assert not Dictionary.load("")
    assert g2p.phonemise("Ask Kowalski now.", "en", ReadingOptions(Dictionary.load(""))) == g2p.phonemise(
        "Ask Kowalski now.", "en"
    )


def test_what_was_dumped_is_a_dictionary_with_the_same_readings(own: Dictionary, tmp_path: Path) -> None:
    file = tmp_path / "again.tsv"
    lines = (f"{word}\t{phones}\t{language}\n" for word, language, phones in own.entries)
    file.write_text("".join(lines), encoding="utf-8")
    assert dictionary.read(file) == own


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"# a\n\nword\treading\n", "line 3: .* is not word, reading and language"),
        (b"word\tW ER1 D\ten\textra\n", "line 1: .* is not word, reading and language"),
        (b"\tW ER1 D\ten\n", "line 1: .* is not word"),
        (b"word\tW ER9 D\ten\n", "line 1: 'W ER9 D' is neither phones of the symbol table nor IPA between slashes"),
        (b"word\tch0ng\tzh\n", "line 1: 'ch0ng' is neither phones of the symbol table nor pinyin"),
        (b"word\tchxng2\tzh\n", "line 1: 'chxng2' has 'xng2', which is no phone"),
        (b"word\tzzz1\tyue\n", "line 1: 'zzz1' has 'Yzz1', which is no phone"),
        (b"word\tkobe\tja\n", "line 1: 'kobe' is neither .* nor kana"),
        (b"word\tseoul\tko\n", "line 1: 'seoul' is neither .* nor Hangul"),
        ("word\t/xʘ/\ten\n".encode(), "line 1: 'ʘ' in"),
        (b"word\tW ER1 D\telvish\n", "line 1: nothing here reads language 'elvish'"),
        (b"word\tW ER1 D\tauto\n", "line 1: nothing here reads language 'auto'"),
        (b"word\tW ER1 D\ten\nword\tW AH1 D\ten\n", "line 2: 'word' has another reading in en in line 1"),
        (b"ok\tOW1 K\ten\nw\xff\tW\ten\n", "line 2: it is not UTF-8"),
        (b"w\x00rd\tW\ten\n", "line 1: character 2 is a control character"),
        (b"{w}\tW\ten\n", "line 1: '{w}' is no word"),
        (b"...\tW\ten\n", "line 1: '...' is no word"),
        (b"w" * 101 + b"\tW\ten\n", "line 1: a word has 1 to 100 characters"),
        (b"w\t" + b"W " * 600 + b"\ten\n", "line 1: .* a reading 1000 at most"),
        (b"#" * (dictionary.MAX_BYTES + 1), "larger than 1024 KiB"),
    ],
)
def test_a_fault_of_a_file_is_named_with_its_line(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "names.tsv"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        dictionary.read(file)
    assert len(caught.value.message) < 500


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.tsv"):
        with pytest.raises(UsageError, match="cannot be read: "):
            dictionary.read(path)
