"""Divide the phones of a phrase among its words, where they are not divided already.

each word by itself   e l | a m i g o
the phrase            e l a m i ɣ o       --> least edit distance --> e l | a m i ɣ o
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_CELLS = 1 << 20
"""Pairs of phones that are compared: a phrase of about a thousand phones. A longer one counts as one word."""
_OTHER, _ALIKE, _GAP = 10, 3, 6
"""Costs of an edit: another phone, one that differs in stress, length or another mark, one that is missing."""


def phones_by_word(alone: Sequence[Sequence[str]], groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """Divide the phones of a phrase among its words.

    Args:
        alone: phones of each of W words when it is read by itself.
        groups: phones of the phrase, in groups. A word may be several of them, and one of them may be several words.
    Returns:
        The phones of each of W words, in order, every one once.
    """
    phones = [phone for group in groups for phone in group]
    expected = [(phone, number) for number, word in enumerate(alone) for phone in word]
    if not expected or len(expected) * len(phones) > MAX_CELLS:
        return [phones, *([] for _ in alone[1:])]
    starts = {sum(map(len, groups[:number])) for number in range(len(groups))}
    owners = _owners(expected, phones, starts)
    return [[phone for phone, owner in zip(phones, owners, strict=True) if owner == word] for word in range(len(alone))]


def _owners(expected: Sequence[tuple[str, int]], phones: Sequence[str], starts: set[int]) -> list[int]:
    """Return the number of the word of each phone, ascending.

    A phone that no word has by itself, such as a liaison, is of the word before it within its group, else of the next.
    """
    costs = _costs([phone for phone, _ in expected], phones)
    owners, row, column = [-1] * len(phones), len(expected), len(phones)
    while row and column:
        if costs[row, column] == costs[row - 1, column - 1] + _cost(expected[row - 1][0], phones[column - 1]):
            row, column = row - 1, column - 1
            owners[column] = expected[row][1]
        elif costs[row, column] == costs[row - 1, column] + _GAP:
            row -= 1
        else:
            column -= 1
    for place in range(len(phones) - 1, -1, -1):
        if owners[place] < 0 and place in starts and place + 1 < len(phones):
            owners[place] = owners[place + 1]
    before = 0
    for place, owner in enumerate(owners):
        before = owners[place] = owner if owner >= 0 else before
    return owners


def _costs(expected: Sequence[str], phones: Sequence[str]) -> np.ndarray:
    """Return the (E + 1, P + 1) least cost of editing the first phones of one list into the first of the other."""
    costs = np.zeros((len(expected) + 1, len(phones) + 1), np.int64)
    costs[0] = gaps = _GAP * np.arange(len(phones) + 1)
    for row, phone in enumerate(expected, 1):
        changed = costs[row - 1, :-1] + np.array([_cost(phone, other) for other in phones], np.int64)
        best = np.append(costs[row - 1, 0] + _GAP, np.minimum(changed, costs[row - 1, 1:] + _GAP))
        costs[row] = np.minimum.accumulate(best - gaps) + gaps
    return costs


def _cost(phone: str, other: str) -> int:
    if phone == other:
        return 0
    return _ALIKE if phone.strip("/ˈˌ")[:1] == other.strip("/ˈˌ")[:1] else _OTHER
