"""Apply Mandarin tone sandhi: 不 and 一, neutral tones, consecutive third tones, 儿.

`merge_words` joins the words of a sentence that are said together; `apply_sandhi` changes the tones within a word.

A syllable is its pinyin with a digit for its tone, 5 the neutral one: `hao3`. The rules are those that PaddleSpeech's
frontend made common (Zhang et al. 2022, "PaddleSpeech: An Easy-to-Use All-in-One Speech Toolkit"), on which
upstream's models were trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.featurize.text.languages.sinitic.mandarin_words import NEUTRAL, NOT_NEUTRAL, SYLLABIC_ER
from headrace.featurize.text.languages.sinitic.segmentation import Word

_PARTICLES = "吧呢哈啊呐噻嘛吖嗨呐哦哒额滴哩哟喽啰耶喔诶的地得"


ReadPinyin = Callable[[str, int], Sequence[str]]
"""Convert characters, which begin at an index of their text, to syllables, without sandhi."""
SplitWord = Callable[[str], int]
"""Return the length of the first of the two parts of a compound."""


def merge_words(words: Sequence[Word], read: ReadPinyin) -> list[Word]:
    """Merge words that are said as one: 不 and 一 with the next word, reduplication, third tones, 儿."""
    joined = _merge_reduplicated(_merge_yi(_merge_bu(words)))
    if _third_tones_meet(joined, read):
        for all_of_them in (True, False):
            joined = _merge_third_tones(joined, read, all_of_them=all_of_them)
    return _merge_er(joined)


def _merge_bu(words: Sequence[Word]) -> list[Word]:
    found: list[Word] = []
    for word in words:
        if found and found[-1].text == "不":
            found[-1] = Word("不" + word.text, word.pos)
        else:
            found.append(word)
    return [Word(word.text, "d") if word.text == "不" else word for word in found]


def _merge_yi(words: Sequence[Word]) -> list[Word]:
    if not any(word.text == "一" for word in words):
        return list(words)
    found: list[Word] = []
    for word in words:
        last = found[-1] if found else Word("", "")
        before = found[-2] if len(found) > 1 else Word("", "")
        if last.text == "一" and before == word and word.pos == "v":  # 看一看
            found[-2:] = [Word(f"{word.text}一{word.text}", "v")]
        else:
            found.append(word)
    parts: list[Word] = []
    for word in found:
        if parts and parts[-1].text == "一":
            parts[-1] = Word("一" + word.text, parts[-1].pos)
        else:
            parts.append(word)
    return parts


def _merge_reduplicated(words: Sequence[Word]) -> list[Word]:
    found: list[Word] = []
    for word in words:
        if found and found[-1].text == word.text:
            found[-1] = Word(found[-1].text + word.text, found[-1].pos)
        else:
            found.append(word)
    return found


def _third_tones_meet(words: Sequence[Word], read: ReadPinyin) -> bool:
    """Return whether a syllable in the third tone follows another one across words."""
    start, third = 0, False
    for word in words:
        syllables = read(word.text, start)
        if third and syllables[0][-1] == "3":
            return True
        third = syllables[-1][-1] == "3"
        start += len(word.text)
    return False


def _merge_third_tones(words: Sequence[Word], read: ReadPinyin, *, all_of_them: bool) -> list[Word]:
    """Merge two words of at most three characters in all whose syllables have the third tone.

    Either all of their syllables must have it, or only the two that meet.
    """
    found: list[Word] = []
    joined, start = False, 0
    before: Sequence[str] = ()
    for number, word in enumerate(words):
        syllables = read(word.text, start)
        if not number or syllables[0][-1] != "3" or before[-1][-1] != "3":
            joined = False
        else:
            meet = not all_of_them or (_all_third_tone(before) and _all_third_tone(syllables))
            last = words[number - 1].text
            joined = meet and not joined and not _is_doubled(last) and len(last) + len(word.text) <= 3
        before, start = syllables, start + len(word.text)
        if joined:
            found[-1] = Word(found[-1].text + word.text, found[-1].pos)
        else:
            found.append(word)
    return found


def _merge_er(words: Sequence[Word]) -> list[Word]:
    found: list[Word] = []
    for word in words:
        if found and word.text == "儿":
            found[-1] = Word(found[-1].text + word.text, found[-1].pos)
        else:
            found.append(word)
    return found


def apply_sandhi(word: Word, syllables: Sequence[str], halves: SplitWord) -> list[str]:
    """Return the syllables of a merged word with their tones in connected speech.

    Args:
        word: the word and its part of speech.
        syllables: one per character, without sandhi.
        halves: splits a compound into its two parts.
    """
    said = list(syllables)
    if len(said) != len(word.text) or not all(syllable[-1].isdigit() for syllable in said):
        return said
    _change_bu(word.text, said)
    _change_yi(word.text, said)
    _neutralise(word, said, halves)
    _change_third_tones(word.text, said, halves)
    return _change_er(word, said)


def _set_tone(said: list[str], place: int, tone: str) -> None:
    said[place] = said[place][:-1] + tone


def _change_bu(text: str, said: list[str]) -> None:
    if len(text) == 3 and text[1] == "不":  # 看不懂
        _set_tone(said, 1, "5")
        return
    for place, char in enumerate(text[:-1]):
        if char == "不" and said[place + 1][-1] == "4":  # 不怕
            _set_tone(said, place, "2")


def _change_yi(text: str, said: list[str]) -> None:
    if "一" not in text or all(char.isnumeric() for char in text):  # 二一零
        return
    if len(text) == 3 and text[1] == "一" and text[0] == text[2]:  # 看一看
        _set_tone(said, 1, "5")
    elif text.startswith("第一"):
        _set_tone(said, 1, "1")
    else:
        for place, char in enumerate(text[:-1]):
            if char == "一":  # 一段, 一天
                _set_tone(said, place, "2" if said[place + 1][-1] == "4" else "4")


def _neutralise(word: Word, said: list[str], halves: SplitWord) -> None:
    text, pos = word
    for place in range(1, len(text)):
        if text[place] == text[place - 1] and pos[:1] in "nva" and text not in NOT_NEUTRAL:  # 奶奶, 试试
            _set_tone(said, place, "5")
    counted = text.find("个")
    if _ends_neutral(text, pos):
        _set_tone(said, -1, "5")
    elif text == "个" or (
        counted > 0 and (text[counted - 1].isnumeric() or text[counted - 1] in "几有两半多各整每做是")
    ):
        _set_tone(said, counted, "5")
    elif _is_neutral(text):
        _set_tone(said, -1, "5")
    if len(text) < 3 or not any(text[place : place + 2] in NEUTRAL for place in range(len(text) - 1)):
        return
    cut = halves(text)
    for start, stop in ((0, cut), (cut, len(text))):
        if start < stop and _is_neutral(text[start:stop]):
            _set_tone(said, stop - 1, "5")


def _ends_neutral(text: str, pos: str) -> bool:
    last, several = text[-1], len(text) > 1
    return (
        last in _PARTICLES
        or (not several and last in "了着过" and pos in {"ul", "uz", "ug"})
        or (several and last in "们子" and pos in {"r", "n"} and text not in NOT_NEUTRAL)
        or (several and last in "上下里" and pos in {"s", "l", "f"})
        or (several and last in "来去" and text[-2] in "上下进出回过起开")
    )


def _is_neutral(text: str) -> bool:
    return text in NEUTRAL or text[-2:] in NEUTRAL


def _change_third_tones(text: str, said: list[str], halves: SplitWord) -> None:
    if len(text) == 2 and _all_third_tone(said):
        _set_tone(said, 0, "2")
    elif len(text) == 3:
        _change_three_third_tones(said, halves(text))
    elif len(text) == 4:
        for start in (0, 2):
            if _all_third_tone(said[start : start + 2]):
                _set_tone(said, start, "2")


def _change_three_third_tones(said: list[str], cut: int) -> None:
    if _all_third_tone(said):  # 蒙古/包, 纸/老虎
        for place in range(int(cut == 1), 2):
            _set_tone(said, place, "2")
        return
    for start, stop in ((0, cut), (cut, 3)):
        if stop - start == 2 and _all_third_tone(said[start:stop]):  # 所有/人
            _set_tone(said, start, "2")
        elif (
            start == cut and not _all_third_tone(said[start:stop]) and _all_third_tone(said[cut - 1 : cut + 1])
        ):  # 好/喜欢
            _set_tone(said, cut - 1, "2")


def _change_er(word: Word, said: list[str]) -> list[str]:
    """Give a final 儿 the tone of the syllable that it colours."""
    text, pos = word
    if text[-1] != "儿":
        return said
    if said[-1] == "er1":
        said[-1] = "er2"
    if len(text) > 1 and text[-2:] not in SYLLABIC_ER and text not in SYLLABIC_ER and pos not in {"a", "j", "nr"}:
        said[-1] = "er" + said[-2][-1]
    return said


def _all_third_tone(said: Sequence[str]) -> bool:
    return all(syllable[-1] == "3" for syllable in said)


def _is_doubled(text: str) -> bool:
    return len(text) == 2 and text[0] == text[1]
