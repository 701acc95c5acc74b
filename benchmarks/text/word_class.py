"""Learn the weights that tell English verbs from nouns, and their past from their present.

    python -m benchmarks.text.word_class TREEBANK... --homographs FOLDER

TREEBANK are files in CoNLL-U with Penn tags: the weights in the source are from the English Web Treebank of Universal
Dependencies (Silveira et al. 2014; CC BY-SA 4.0) without its test sentences. FOLDER is a checkout of Wikipedia
Homograph Data (Gorman et al. 2018; Apache 2.0), of whose sentences the training part is used. The test sentences of
both tell how often a word is told right. Averaged perceptrons with a margin, in a fixed order: the same weights again.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random

import click

from headrace.featurize.text.languages.english import word_class

WEIGHTS = Path(word_class.__file__).with_name("word_class.txt.gz")
EPOCHS, FEWEST, MARGIN = 6, 3, 1.0
"""Rounds, the number of examples that a feature must occur in, and the score up to which an example still counts."""

Example = tuple[list[str], int, bool]
Features = Callable[[list[str], int], Iterable[str]]
_VERB = {"NN": False, "NNS": False, "JJ": False, "VB": True, "VBP": True, "VBZ": True}
_PAST = {"VB": False, "VBP": False, "VBD": True, "VBN": True}
_CLITICS = frozenset("n't 's 'll 've 're 'm 'd".split())
_TOKEN = re.compile(r"[\w'-]+|[^\w\s]")


def sentences(path: Path) -> Iterator[list[tuple[str, str]]]:
    """Words and tags of each sentence; a clitic belongs to the word before it."""
    words: list[tuple[str, str]] = []
    for line in (*path.read_text(encoding="utf-8", errors="replace").splitlines(), ""):
        if re.match(r"\d+\t", line):
            word, tag = line.replace("’", "'").split("\t")[1:5:3]
            if word in _CLITICS and words:
                words[-1] = words[-1][0] + word, words[-1][1]
            else:
                words.append((word, tag))
        elif not line and words:
            yield words
            words = []


def tagged(data: Iterable[list[tuple[str, str]]], classes: dict[str, bool]) -> Iterator[Example]:
    """Every word of a treebank whose tag is in one of two classes."""
    for sentence in data:
        words = [word for word, _ in sentence]
        for place, (word, tag) in enumerate(sentence):
            if tag in classes and word.isalpha() and not word_class.is_auxiliary(word):
                yield words, place, classes[tag]


def homographs(folder: Path, part: str) -> Iterator[tuple[list[str], int, str, str]]:
    """Words, place, homograph and label of the sentences of Wikipedia Homograph Data."""
    for path in sorted((folder / "data" / part).glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                text, start, stop = row["sentence"].encode(), int(row["start"]), int(row["end"])
                before = _TOKEN.findall(text[:start].decode(errors="ignore"))
                after = _TOKEN.findall(text[stop:].decode(errors="ignore"))
                word = text[start:stop].decode(errors="ignore")
                yield [*before, word, *after], len(before), row["homograph"], row["wordid"]


def verbs_of(rows: Iterable[tuple[list[str], int, str, str]]) -> Iterator[Example]:
    """Examples of homographs one of whose readings is that of the verb alone."""
    listed = list(rows)
    labels = defaultdict(set)
    for *_, word, label in listed:
        labels[word].add(label.removeprefix(word))
    for words, place, word, label in listed:
        if "_vrb" in labels[word] and len(labels[word]) == 2 and word not in ("wound", "learned", "moped", "blessed"):
            yield words, place, label.endswith("_vrb")


def reads_of(rows: Iterable[tuple[list[str], int, str, str]]) -> Iterator[Example]:
    yield from ((words, place, label == "read_past") for words, place, word, label in rows if word == "read")


def learn(examples: Iterable[Example], features: Features) -> dict[str, int]:
    """Return the weights of an averaged perceptron, in units of 1 / `word_class.SCALE`; small ones are left out."""
    listed = [([*features(words, place)], 1 if truth else -1) for words, place, truth in examples]
    counts = Counter(name for names, _ in listed for name in set(names))
    data = [([name for name in names if counts[name] >= FEWEST], sign) for names, sign in listed]
    weights: defaultdict[str, float] = defaultdict(float)
    moments: defaultdict[str, float] = defaultdict(float)
    random, seen = Random(1), 1
    for _ in range(EPOCHS):
        random.shuffle(data)
        for names, sign in data:
            if sign * sum(weights[name] for name in names) <= MARGIN:
                for name in names:
                    weights[name] += sign
                    moments[name] += sign * seen
            seen += 1
    averaged = {name: round(word_class.SCALE * (weights[name] - moments[name] / seen)) for name in weights}
    return {name: weight for name, weight in sorted(averaged.items()) if abs(weight) >= word_class.SCALE}


def right(weights: dict[str, int], examples: Iterable[Example], features: Features) -> str:
    found = [(sum(weights.get(n, 0) for n in features(words, at)) > 0) == truth for words, at, truth in examples]
    return f"{sum(found)} of {len(found)}"


@click.command()
@click.argument("treebanks", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--homographs", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--test", required=True, type=click.Path(exists=True, path_type=Path), help="Sentences to leave out.")
def main(treebanks: tuple[Path, ...], folder: Path, test: Path) -> None:
    held_out = list(sentences(test))
    left_out = {tuple(sentence) for sentence in held_out}
    bank = [found for path in treebanks for found in sentences(path) if tuple(found) not in left_out]
    rows, test_rows = list(homographs(folder, "train")), list(homographs(folder, "eval"))
    known = {row[2] for row in rows}
    verb = learn([*verbs_of(rows), *tagged(bank, _VERB)], word_class.features)
    past = learn([*list(reads_of(rows)) * 5, *tagged(bank, _PAST)], word_class.time_features)
    listed = [one for one in tagged(held_out, _VERB) if one[0][one[1]].lower() in known]
    click.echo(f"verbs:  {right(verb, verbs_of(test_rows), word_class.features)} homographs of Wikipedia")
    click.echo(f"        {right(verb, listed, word_class.features)} homographs of the treebank")
    click.echo(f"        {right(verb, tagged(held_out, _VERB), word_class.features)} words of the treebank")
    click.echo(f"past:   {right(past, reads_of(test_rows), word_class.time_features)} 'read' of Wikipedia")
    click.echo(f"        {right(past, tagged(held_out, _PAST), word_class.time_features)} words of the treebank")
    lines = [f"{which}\t{w}\t{name}" for which, found in (("verb", verb), ("past", past)) for name, w in found.items()]
    WEIGHTS.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    click.echo(f"{len(verb)} + {len(past)} weights, {WEIGHTS.stat().st_size / 1e3:.0f} kB in {WEIGHTS.name}")


if __name__ == "__main__":
    main()
