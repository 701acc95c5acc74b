"""Every language that espeak-ng reads: how many sentences are rejected, and whether two of its phones become the same.

    python -m benchmarks.languages [--sentences 50]

Sentences are made of what Unicode's CLDR says in the language (package babel): countries, languages, days, months,
currencies, and numbers in figures, which espeak-ng says in words. For the languages that CLDR hardly knows, words are
made of the letters in espeak-ng's dictionary.
"""

from __future__ import annotations

import ctypes
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from random import Random

import babel
import click
import espeakng_loader

from benchmarks import report
from headrace.featurize.text import espeak, g2p
from headrace.featurize.text.languages import espeak_languages
from headrace.featurize.text.languages.language_tags import language_code
from headrace.featurize.text.symbols import ids
from headrace.store.errors import Rejected

TABLE = "headrace-ipa"
MIN_NAMES = 60
"""With fewer names CLDR does not know the language."""
LETTERS = 40
NOT_IN_ITS_SCRIPT = frozenset({"chr"})
"""Languages that espeak-ng reads in Latin letters, and CLDR writes in others."""
_REASON = re.compile(r"'[^']*'|\d+")


def languages() -> list[str]:
    """Return the languages that are read by espeak-ng, not by a frontend of Headrace's own."""
    return sorted({language_code(voice) for voice in espeak.voices().values()} - set(g2p.FRONTENDS))


def sentences(language: str, count: int) -> list[str]:
    """Return sentences in a language, the same ones each time."""
    random, names = Random(language), _names(language) if language not in NOT_IN_ITS_SCRIPT else []
    if len(names) < MIN_NAMES:
        names = names + [_word(random, _letters(language)) for _ in range(400)]
    return [_sentence(random, names) for _ in range(count)]


def _sentence(random: Random, names: Sequence[str]) -> str:
    words = random.choices(names, k=random.randint(3, 8))
    words.insert(random.randrange(len(words)), str(random.randint(0, random.choice((9, 99, 9999)))))
    middle = random.randrange(1, len(words))
    return f"{' '.join(words[:middle])}, {' '.join(words[middle:])}{random.choice('..?!')}"


@cache
def _names(language: str) -> list[str]:
    """Return what CLDR calls countries, languages, scripts, currencies, days and months in a language."""
    try:
        locale = babel.Locale.parse(language.partition("-")[0])
    except (babel.UnknownLocaleError, ValueError):
        return []
    calendar = [name for table in (locale.months, locale.days) for name in table["format"]["wide"].values()]
    names = [*calendar, *(name for table in (locale.territories, locale.languages) for name in table.values())]
    names += [*locale.scripts.values(), *locale.currencies.values()]
    spelled = {
        "".join(char for char in name if unicodedata.category(char) != "Cf" and char not in "[]") for name in names
    }
    return sorted(name for name in spelled if sum(map(str.isalpha, name)) >= 3)


@cache
def _letters(language: str) -> str:
    """Return the letters of a language, as far as its dictionary of espeak-ng has them, the commonest first."""
    base = language.partition("-")[0]
    file = next(Path(espeakng_loader.get_data_path()).glob(f"{base}_dict"), None)
    text = file.read_bytes().decode("utf-8", "ignore") if file else ""
    found = Counter(char for char in text.lower() if char.isalpha() and ord(char) < 0x10000)
    scripts = Counter(unicodedata.name(char, "? ").split()[0] for char in found if not char.isascii())
    script = scripts.most_common(1)[0][0] if scripts and scripts.most_common(1)[0][1] > 20 else "LATIN"
    own = [char for char, _ in found.most_common() if unicodedata.name(char, "? ").startswith(script)]
    read = [char for char in own if espeak.to_ipa(2 * char, language)]  # bytes of other meaning look like letters
    return "".join(read[:LETTERS]) or "aeioumnptks"


def _word(random: Random, letters: str) -> str:
    return "".join(random.choices(letters, k=random.randint(2, 7)))


def phone_names(language: str, written: Sequence[str]) -> set[str]:
    """Return the names in IPA of all phones in espeak-ng's table of a language, and of those in some sentences."""
    names = set(_table_names(language))
    for piece in (word for sentence in written for word in sentence.split()):
        said = espeak_languages.SWITCHES.sub("", espeak.to_ipa(piece, language, espeak_languages.SEPARATOR))
        names |= {phone.lstrip("ˈˌ") for group in said.split(" ") for phone in group.split(espeak_languages.SEPARATOR)}
    return names - {""}


def _table_names(language: str) -> list[str]:
    """Return what espeak-ng calls each phone of a language, given in its own notation between double brackets."""
    said = []
    with espeak._lock:
        library = espeak._library()
        espeak._set_voice(library, language)
        library.espeak_SetSynthCallback(_SILENT)
        library.espeak_Synth(b"", 1, 0, 0, 0, _READ_PHONES, None, None)  # what is read after it may be phones, too
        for mnemonic in _mnemonics(language):
            unread = ctypes.c_char_p(f"[[{mnemonic}]]".encode("latin-1"))
            said.append(library.espeak_TextToPhonemes(ctypes.byref(unread), 1, 0x02 | 0x1F << 8) or b"")
        library.espeak_Synth(b"", 1, 0, 0, 0, 1, None, None)
    return [name.lstrip("ˈˌ") for phones in said for name in re.split(r"[\x1f ]+", phones.decode())]


_READ_PHONES = 0x101
"""Text is UTF-8, and double brackets hold phones."""
_SILENT = espeak._Callback(lambda *_: 0)
_PAUSE, _STRESS = 0, 1
"""Types of phones without a sound."""


def _mnemonics(language: str) -> list[str]:
    """Return the phones of a language in espeak-ng's notation: those of its table, and of the tables it is based on."""
    tables = _phone_tables()
    numbers = {name: number for number, (name, _, _) in enumerate(tables)}
    number = numbers.get(_table_of(language), numbers.get(language.partition("-")[0], -1))
    found: dict[int, str] = {}
    while number >= 0:
        _, parent, phones = tables[number]
        for code, (mnemonic, kind) in phones.items():
            found.setdefault(code, mnemonic if kind not in (_PAUSE, _STRESS) else "")
        number = parent - 1
    return [mnemonic for mnemonic in found.values() if mnemonic]


def _table_of(language: str) -> str:
    folder = Path(espeakng_loader.get_data_path()) / "lang"
    file = next(file for file in folder.rglob("*") if file.name.lower() == language)
    named = re.search(r"^phonemes\s+(\S+)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return named[1] if named else language


@cache
def _phone_tables() -> list[tuple[str, int, dict[int, tuple[str, int]]]]:
    """Return espeak-ng's tables of phones: name, number of the table it is based on, and phones by their code."""
    data, at, tables = (Path(espeakng_loader.get_data_path()) / "phontab").read_bytes(), 4, []
    for _ in range(data[0]):
        count, parent = data[at], data[at + 1]
        name, at = data[at + 4 : at + 36].split(b"\0")[0].decode(), at + 36
        rows = [data[at + 16 * row : at + 16 * (row + 1)] for row in range(count)]
        tables.append((name, parent, {row[10]: (row[:4].rstrip(b"\0").decode("latin-1"), row[11]) for row in rows}))
        at += 16 * count
    return tables


def merged(language: str, names: Iterable[str]) -> list[str]:
    """Return the pairs of phones that are the same symbols, and phones that have none."""
    found: dict[tuple[str, ...], str] = {}
    pairs = []
    for name in sorted(names):
        try:
            symbols = tuple(espeak_languages.phone_symbols(name, language))
        except Rejected:
            pairs.append(f"{name} (none)")
            continue
        first = found.setdefault(symbols, name)
        if symbols and first != name:
            pairs.append(f"{first} {name}")
    return pairs


def measure(language: str, count: int) -> tuple[list[object], list[str]]:
    """Return a row of the table, and the reasons of the rejects."""
    written, reasons = sentences(language, count), list[str]()
    for sentence in written:
        try:
            ids(g2p.phonemise(sentence, language).phones, TABLE)
        except Rejected as error:
            reasons.append(error.reason)
    names = phone_names(language, written)
    source = "letters" if language in NOT_IN_ITS_SCRIPT or len(_names(language)) < MIN_NAMES else "CLDR"
    return [language, source, count, len(reasons), len(names), "; ".join(merged(language, names))], reasons


@click.command()
@click.option("--sentences", "count", default=50, show_default=True, help="For each language.")
def main(count: int) -> None:
    measured = {language: measure(language, count) for language in languages()}
    rows = [row for row, _ in measured.values()]
    reasons = Counter(_REASON.sub("…", reason) for _, found in measured.values() for reason in found)
    head = ("language", "words", "sentences", "rejected", "phones", "phones that become the same")
    total = ["all", "", *(sum(row[column] for row in rows) for column in (2, 3, 4)), sum(bool(row[5]) for row in rows)]
    table = report.table(head, [*rows, total])
    if reasons:
        table += "\n\n" + report.table(("rejects", "reason"), [[n, reason] for reason, n in reasons.most_common()])
    click.echo(table)
    report.save("languages", table, {"rows": [dict(zip(head, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
