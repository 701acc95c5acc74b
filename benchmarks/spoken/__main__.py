"""How many faults of speech `train sample` notices, and how often it is wrong about good speech.

    python -m benchmarks.spoken CORPUS FOLDER [--save]

CORPUS is a GPT-SoVITS list of recordings of one voice. Two thirds of them teach the phone models. The others, of at
most MOST_S, are what is said: as they are, and with a fault each. A word is cut out of the recording, or said twice;
two or three words are said twice; the recording ends before its last word; a second of another recording follows; or
the text has a word more or less than was said. Words of at most SHORT phones, such as `to`, are counted by themselves.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks import report
from headrace import store as stores
from headrace.featurize.features.derived import Part
from headrace.featurize.forced_alignment.hmm_aligner import StoreAligner, base_phone
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.languages.frontend import Reading
from headrace.featurize.text.symbols import ids
from headrace.store.reader import Store
from headrace.train.inference.speech_check import WORDS, Faults, PhoneModels, SpeechCheck

HEAD = ("what was said", "word", "utterances", "noticed", "with the word")
LANGUAGE, MOST_S, SHORT, RATE = "en", 16.0, 3, 32_000


class Spoken(NamedTuple):
    """A recording that was not learned from."""

    wave_S: np.ndarray
    """(S,) float32."""
    text: str
    reading: Reading
    words: list[int]
    """Numbers of its words that sound."""
    bounds: list[tuple[int, int]]
    """Samples of each word."""

    def phones(self, place: int) -> int:
        return int((self.reading.phone_word == self.words[place]).sum())

    def named(self, place: int) -> str:
        """The word of a place, as it is read."""
        ends = [*self.words, len(self.reading.text)]
        return self.reading.text[ends[place] : ends[place + 1]].strip(" ,.!?-…")


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--save", is_flag=True, help="Keep the table in benchmarks/results/ too.")
def main(corpus: Path, folder: Path, save: bool) -> None:
    models, held = prepared(corpus, folder)
    speaker = str(held.speakers[0])
    check, chance = SpeechCheck(models, speaker, np.zeros(0, np.int16)), random.Random(5)
    spoken = list(recordings(held, models))
    rows, began = [], time.perf_counter()
    rows.append(row("as it is written", "", [(check.faults(one.wave_S, one.reading), "") for one in spoken]))
    each = (time.perf_counter() - began) / sum(len(one.wave_S) / RATE for one in spoken)
    references = [one.wave_S for one in spoken if 3 <= len(one.wave_S) / RATE <= 10]
    heard = [stranger(models, chance.choice(references)).faults(one.wave_S, one.reading) for one in spoken]
    rows.append(row("the same, a voice that is not known", "", [(faults, "") for faults in heard]))
    for kind, make in FAULTS.items():
        rows += of_fault(kind, make, [one for one in spoken if len(one.words) > 2], check, chance)
    notes = [
        f"{len(spoken)} utterances of at most {MOST_S:g} s, that were not learned from; "
        f"a second of speech is checked in {1000 * each:.0f} ms"
    ]
    markdown = "\n".join([report.table(HEAD, rows), "", *(f"- {note}" for note in notes)])
    click.echo(markdown)
    if save:
        report.save("spoken", markdown, {"rows": rows, "notes": notes})


def prepared(corpus: Path, folder: Path) -> tuple[PhoneModels, Store]:
    """The phone models of two thirds of a corpus, and a store of the rest."""
    lines = next(corpus.glob("*.list")).read_text(encoding="utf-8").splitlines()
    for name, chosen in (("taught", lambda n: n % 3 != 1), ("held", lambda n: n % 3 == 1)):
        if not (folder / name.upper()).exists():
            (folder / name).mkdir(parents=True, exist_ok=True)
            entries = [f"{corpus.resolve()}/{line}" for n, line in enumerate(lines) if chosen(n)]
            (folder / name / "corpus.list").write_text("\n".join(entries) + "\n", encoding="utf-8")
            features = "wave,mel,phones" + (",align" if name == "taught" else "")
            words = ["build", folder / name, "--out", folder / name.upper(), "--follow-outside", "--features", features]
            subprocess.run([str(Path(sys.executable).parent / "featurize"), *map(str, words)], check=True)
    return PhoneModels.of_store(folder / "TAUGHT", RATE), stores.open(folder / "HELD")


def stranger(models: PhoneModels, reference_S: np.ndarray) -> SpeechCheck:
    """A check of a voice that is known by a recording alone."""
    return SpeechCheck(models, "", np.rint(reference_S * 32767).astype(np.int16))


def recordings(held: Store, models: PhoneModels) -> Iterator[Spoken]:
    """The recordings of a store whose phones the models know, with the times of their words."""
    for number in range(len(held)):
        wave = np.array(held.read("wave", number))
        reading = phonemise(str(held.texts[number]), LANGUAGE)
        data = {"wave": [wave], "phones": [ids(reading.phones)], "phone_word": [reading.phone_word]}
        speaker = [str(held.speakers[number])]
        specs = {**models.specs, "phone_word": WORDS}
        part = Part(specs, data.__getitem__, learned=lambda _: models.learned, strings=lambda _, own=speaker: own)
        aligner = StoreAligner(part)
        times = aligner.times(aligner.utterances[0])
        if times is None or wave.size > MOST_S * RATE:
            continue
        sounding = np.array([bool(base_phone(phone)) for phone in reading.phones])
        words = np.unique(reading.phone_word[sounding]).tolist()
        own = [times[sounding & (reading.phone_word == word)] for word in words]
        bounds = [(int(one[0, 0]), int(one[-1, 1])) for one in own]
        yield Spoken(wave.reshape(-1) / np.float32(32768), str(held.texts[number]), reading, words, bounds)


Fault = Callable[[Spoken, int, random.Random, list[Spoken]], tuple[np.ndarray, Reading, int, str]]
"""Returns what is said, the reading of its text, the number of phones of the word that is wrong, and that word."""


def cut(one: Spoken, place: int, *_: object) -> tuple[np.ndarray, Reading, int, str]:
    start, stop = one.bounds[place]
    wave_S = np.concatenate((one.wave_S[:start], one.wave_S[stop:]))
    return wave_S, one.reading, one.phones(place), one.named(place)


def twice(one: Spoken, place: int, *_: object) -> tuple[np.ndarray, Reading, int, str]:
    start, stop = one.bounds[place]
    wave_S = np.concatenate((one.wave_S[:stop], one.wave_S[start:]))
    return wave_S, one.reading, one.phones(place), one.named(place)


def phrase_twice(one: Spoken, place: int, *_: object) -> tuple[np.ndarray, Reading, int, str]:
    start, stop = one.bounds[max(0, place - 2)][0], one.bounds[max(1, place)][1]
    wave_S = np.concatenate((one.wave_S[:stop], one.wave_S[start:]))
    return wave_S, one.reading, 0, one.named(max(1, place))


def ended(one: Spoken, *_: object) -> tuple[np.ndarray, Reading, int, str]:
    return one.wave_S[: one.bounds[-2][1]], one.reading, one.phones(-1), one.named(len(one.words) - 1)


def followed(one: Spoken, _: int, chance: random.Random, others: list[Spoken]) -> tuple[np.ndarray, Reading, int, str]:
    other = chance.choice([other for other in others if other is not one])
    begin = other.bounds[0][0]
    wave_S = np.concatenate((one.wave_S[: one.bounds[-1][1]], other.wave_S[begin : begin + RATE]))
    return wave_S, one.reading, 0, "something else"


def one_more(
    one: Spoken, place: int, chance: random.Random, others: list[Spoken]
) -> tuple[np.ndarray, Reading, int, str]:
    other = chance.choice(others)
    at = chance.randrange(len(other.words))
    text = one.reading.text
    reading = phonemise(f"{text[: one.words[place]]}{other.named(at)} {text[one.words[place] :]}", LANGUAGE)
    return one.wave_S, reading, other.phones(at), other.named(at)


def one_less(one: Spoken, place: int, *_: object) -> tuple[np.ndarray, Reading, int, str]:
    text, ends = one.reading.text, [*one.words, len(one.reading.text)]
    reading = phonemise(text[: ends[place]] + text[ends[place + 1] :], LANGUAGE)
    return one.wave_S, reading, one.phones(place), "something else"


FAULTS: dict[str, Fault] = {
    "a word is cut out": cut,
    "a word is said twice": twice,
    "two or three words are said twice": phrase_twice,
    "it ends before the last word": ended,
    "a second of another recording follows": followed,
    "the text has a word more": one_more,
    "the text has a word less": one_less,
}


def of_fault(
    kind: str, make: Fault, spoken: list[Spoken], check: SpeechCheck, chance: random.Random
) -> list[tuple[str, ...]]:
    """The rows of a kind of fault: of short words, and of longer ones."""
    found: dict[str, list[tuple[Faults | None, str]]] = {}
    for one in spoken:
        wave_S, reading, phones, named = make(one, chance.randrange(len(one.words)), chance, spoken)
        size = f"to {SHORT} phones" if 0 < phones <= SHORT else f"from {SHORT + 1} phones" if phones else ""
        found.setdefault(size, []).append((check.faults(wave_S, reading), named))
    return [row(kind, size, found[size]) for size in sorted(found)]


def row(kind: str, size: str, found: list[tuple[Faults | None, str]]) -> tuple[str, ...]:
    checked = [(faults, named) for faults, named in found if faults is not None]
    noticed = np.mean([bool(faults.number) for faults, _ in checked])
    right = np.mean([named in faults.text for faults, named in checked if faults.number]) if kind in FAULTS else None
    return kind, size, f"{len(checked)}", f"{noticed:.1%}", "" if right is None else f"{right:.0%}"


if __name__ == "__main__":
    main()
