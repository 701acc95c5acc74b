"""Our phones beside upstream's own, sentence by sentence.

    python -m benchmarks.phones UPSTREAM [--site FOLDER]

UPSTREAM is a checkout of GPT-SoVITS, whose modules run as they are, but for what needs a network or weights: Chinese
takes upstream's path without g2pW, English guesses that every word is a noun where its tagger's data is not there.
FOLDER holds libraries that upstream needs and we do not (g2pk2, jamo, ko_pron, jieba_fast, g2p_en, nltk, wordsegment,
inflect), as `pip install --target` writes them.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from headrace.featurize.text import g2p

SENTENCES = Path(__file__).parent.parent / "tests" / "featurize" / "text" / "sentences"
LANGUAGES = ("zh", "en", "ja", "ko", "yue")


def sentences(language: str) -> list[tuple[str, str, str]]:
    """Text, our phones as recorded, and why upstream's are others; empty where they are the same."""
    lines = (SENTENCES / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, phones, why) for text, phones, why in (line.split("\t") for line in lines)]


def clean_text(upstream: Path, language: str) -> Callable[[str], list[str]]:
    """Upstream's `text.cleaner.clean_text`, v2.

    Raises:
        ImportError: a library that it needs is missing.
    """
    folder = str(upstream / "GPT_SoVITS")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _without_network()
    if language == "zh":
        module: Any = importlib.import_module("text.chinese2")
        module.is_g2pw = False
        module.print = lambda *_: None
    cleaner = importlib.import_module("text.cleaner")

    def clean(written: str) -> list[str]:
        try:
            return list(cleaner.clean_text(written, language, "v2")[0])
        except (AssertionError, KeyError, IndexError, ValueError) as error:
            return [f"({type(error).__name__})"]

    return clean


def _without_network() -> None:
    """Stand-ins for what would be downloaded when it is imported."""
    sys.modules.setdefault("text.g2pw", _module(G2PWPinyin=lambda **_: None, correct_pronunciation=None))
    if "nltk" in sys.modules:
        return
    try:
        nltk: Any = importlib.import_module("nltk")
    except ImportError:
        return
    nltk.download = lambda *_, **__: None
    nltk.pos_tag = lambda words: [(word, "NN") for word in words]
    sys.modules["nltk.corpus"] = nltk.corpus = _module(cmudict=_module(dict=dict), stopwords=None)


def _module(**members: Any) -> Any:
    module = types.ModuleType("stand-in")
    module.__dict__.update(members)
    return module


def compare(upstream: Path, language: str) -> tuple[list[Any], list[str]]:
    """A row of the table, and a paragraph on each sentence that differs."""
    try:
        clean = clean_text(upstream, language)
        clean("")
    except ImportError as error:
        return [language, 0, 0, 0, f"not run: {error}"], []
    recorded = sentences(language)
    told, unexplained, changed = [], 0, 0
    for written, phones, why in recorded:
        theirs, ours = " ".join(clean(written)), " ".join(g2p.phonemise(written, language).phones)
        changed += ours != phones
        if ours != theirs:
            unexplained += not why
            told.append(f"{written}\n  ours      {ours}\n  upstream  {theirs}\n  {why or 'not explained'}")
    note = ", ".join(
        ["all explained" if not unexplained else f"{unexplained} not explained"]
        + [f"{changed} changed"] * bool(changed)
    )
    return [language, len(recorded), len(recorded) - len(told), len(told), note], told


@click.command()
@click.argument("upstream", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--site", type=click.Path(exists=True, file_okay=False), help="Libraries that only upstream needs.")
def main(upstream: Path, site: str | None) -> None:
    if site:
        sys.path.append(site)
    rows, paragraphs = [], []
    for language in LANGUAGES:
        row, told = compare(upstream, language)
        rows.append(row)
        paragraphs += told
    head = ("language", "sentences", "equal", "different", "")
    reasons = [
        [language, count, why]
        for language in LANGUAGES
        for why, count in Counter(why for *_, why in sentences(language) if why).most_common()
    ]
    table = f"{report.table(head, rows)}\n\n{report.table(('language', 'sentences', 'why they differ'), reasons)}"
    click.echo("\n\n".join([*paragraphs, table]))
    report.save("phones", table, {"rows": [dict(zip(head, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
