"""English sentences by the thousand, from a small grammar: a word or two up to some 60, with names, numbers,
prices, dates and times of day that no pronouncing dictionary holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

CLAUSES = (0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5)
"""Clauses in a sentence, by how often. One takes about 3 s to say; 0 is a cry of a word or two."""

_RULES = """
cry      Yes. | Not yet. | {Name}! | Over here! | Why? | Thank you, {Name}. | Half past {small}. | Careful!
cry      Number {number}. | Good morning. | No, {small}. | Who told {Name}? | Platform {small}. | It is {clock}.
clause   {who} {did} {what} | {who} {did} {what} {where} | {when}, {who} {did} {what} | {who} {did} {what} {when}
clause   {what} cost {whom} {money} | {who} paid {money} for {what} | {where} there were {number} {things}
clause   only {number} of the {things} were {state} | {who} said that {what} was {state}
clause   nobody {where} had ever seen {what} so {state} | {who} counted {number} {things} and {small} {things}
clause   the road from {place} to {place} is {number} miles long | {who} would rather have {did} {what}
link     , and | , but | ; | because | , so | while | , although | before | , which was odd, since | : | - | until
who      {Name} | {Title} {Name} | the {trade} | the {age} {trade} | {Name}'s {kin} | {Name} and {Name}
whom     {Name} | the {trade} | {Name}'s {kin} | the {trade}s of {place}
what     the {quality} {thing} | a {quality} {thing} | {small} {quality} {things} | the {thing} of {place}
what     {Name}'s {thing} | every {thing} in the {room} | another {quality}, {quality} {thing}
where    in {place} | behind the {room} | near the {room} | at {number} Mill Lane | on the way to {place}
when     at {clock} | on the {ordinal} of {month} | in {year} | last {day} | {small} days later
when     one {month} morning | every {day} at {clock}
did      repaired | painted | lost | borrowed | measured | carried | described | remembered | sold | found | wrapped
did      photographed | weighed | opened | returned | ordered | admired | traded | cleaned | inspected
trade    miller | baker | surveyor | ferryman | teacher | weaver | pilot | gardener | printer | judge | vet
kin      brother | aunt | neighbour | daughter | cousin | grandfather | landlord
age      old | young | tired | new | cheerful | second | late
thing    wheel | bridge | kettle | ledger | violin | lantern | map | engine | parcel | clock | boat | gearbox | hat
things   wheels | sacks | apples | letters | candles | bolts | sheep | windows | tickets | barrels | oars
quality  broken | heavy | bright | borrowed | narrow | copper | unusual | wooden | quiet | blue | half-finished
state    empty | frozen | ready | expensive | dry | crooked | genuine | late | thoroughly soaked | too small
room     kitchen | mill | station | library | old church | workshop | weir | boathouse | market
place    Zelmbrook | Harrowgate | Llanfyn | Ostrava | Quillmere | Dunmarrow | Tbilisi | Lower Thixby
Name     Kowalczyk | Siobhan | Ngozi | Anna | Fenwicke | Peter | Rosalind | Okonkwo | Marguerite | Thaddeus
Name     Yevgenia | Tom | Brzezinska | Olaf
Title    Dr. | Mr. | Mrs. | Professor | Captain
day      Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
month    January | February | March | April | June | August | October | December
small    two | three | four | five | six | seven | eight | nine | ten | eleven | twelve
"""
_GRAMMAR: dict[str, list[str]] = {}
for _line in _RULES.strip().splitlines():
    _GRAMMAR.setdefault(_line.split()[0], []).extend(_line.split(maxsplit=1)[1].split(" | "))


def sentence(random: Random) -> str:
    clauses = random.choice(CLAUSES)
    if not clauses:
        return _capital(_expand("{cry}", random))
    text = _expand("{clause}", random)
    for _ in range(clauses - 1):
        link = _expand("{link}", random)
        text += f"{'' if link[0] in ',;:' else ' '}{link} {_expand('{clause}', random)}"
    return _capital(text) + random.choice("....!?")


def _expand(template: str, random: Random) -> str:
    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return _VALUES[name](random) if name in _VALUES else _expand(random.choice(_GRAMMAR[name]), random)

    return re.sub(r"\{(\w+)\}", fill, template)


def _ordinal(random: Random) -> str:
    day = random.randint(1, 28)
    return f"{day}{ {1: 'st', 2: 'nd', 3: 'rd', 21: 'st', 22: 'nd', 23: 'rd'}.get(day, 'th') }"


def _number(random: Random) -> str:
    return f"{random.randint(13, random.choice((99, 999, 90_000))):,}"


_VALUES: dict[str, Callable[[Random], str]] = {
    "number": _number,
    "ordinal": _ordinal,
    "year": lambda random: f"{random.randint(1780, 2025)}",
    "clock": lambda random: f"{random.randint(1, 12)}:{random.randint(10, 59)}",
    "money": lambda random: f"${random.randint(2, 90)}.{random.randint(10, 99)}",
}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
