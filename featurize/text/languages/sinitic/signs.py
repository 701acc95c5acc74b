"""Signs of Chinese texts that are words by themselves."""

from __future__ import annotations

import re

from headrace.featurize.text.languages.frontend import UnreadCharacter
from headrace.featurize.text.languages.unread import is_silent

_WORDS = {
    "+": "加", "=": "等于", "×": "乘", "÷": "除以", "±": "正负", "≠": "不等于", "≈": "约等于", "≥": "大于等于",
    "≤": "小于等于", ">": "大于", "<": "小于", "−": "负", "√": "根号", "∞": "无穷大", "∠": "角", "%": "百分号",
    "‰": "千分号", "&": "和", "@": "艾特", "$": "美元", "€": "欧元", "£": "英镑", "°": "度", "℃": "摄氏度",
    "℉": "华氏度", "µ": "微", "Ω": "欧姆", "/": ",", "α": "阿尔法", "β": "贝塔", "γ": "伽马", "δ": "德尔塔",
    "Δ": "德尔塔", "ε": "艾普西隆", "θ": "西塔", "λ": "兰姆达", "μ": "缪", "π": "派", "ρ": "柔", "σ": "西格马",
    "Σ": "西格马", "φ": "斐", "ω": "欧米伽",
}  # fmt: skip
"""A sign that no rule of figures took, and what is said for it; a slash is a pause. Between Latin letters it is of
their word, as in AT&T."""
_SIGN = re.compile(rf"[{re.escape(''.join(_WORDS))}]")
_BETWEEN_LETTERS = re.compile(r"(?<=[A-Za-z])[&/@](?=[A-Za-z])")


def write_out(text: str) -> str:
    """Write signs in words."""
    if not _SIGN.search(text):
        return text
    kept = {match.start() for match in _BETWEEN_LETTERS.finditer(text)}
    return _SIGN.sub(lambda match: match[0] if match.start() in kept else _WORDS[match[0]], text)


def keep_said(text: str, said: re.Pattern[str], language: str) -> str:
    """Return a text without marks that are not said: quotes, brackets, dashes, spaces.

    Args:
        text: normalised text in the characters of a frontend.
        said: matches a character that the frontend reads.
        language: named if it does not.
    Raises:
        UnreadCharacter: a character is neither.
    """
    others = said.sub("", text)
    for char in others:
        if not (char in "-— " or is_silent(char)):
            raise UnreadCharacter(char, f"is not read in {language}: write it in words, or take it out")
    return text.translate(dict.fromkeys(map(ord, others))) if others else text
