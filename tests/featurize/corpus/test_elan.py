"""Annotations of ELAN are utterances, with their times, speakers and languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.featurize.corpus import scanner
from headrace.store.schema import Reject, Utterance
from tests.featurize.corpus.layouts import eaf
from tests.helpers.corpus_formats import record, write


def scan(path: Path) -> tuple[dict[str, tuple[str, str, str]], dict[str, str]]:
    found = list(scanner.scan(path))
    utterances = {u.id: (u.speaker, u.language, u.text) for u in found if isinstance(u, Utterance)}
    return utterances, {reject.id: reject.reason for reject in found if isinstance(reject, Reject)}


def test_annotations_are_segments_with_speakers_and_languages(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 16_000 * 4)
    anna = ("one", "Anna", ((0, 1000, "Ja &amp; nein."), (2050, 3000, "Gut.")))
    write(tmp_path / "a.eaf", eaf("a.wav", anna, ("two", " ", ((1000, 2000, "Wie?"),))))
    assert scan(tmp_path) == (
        {
            "a.wav#0-16000": ("Anna", "de", "Ja & nein."),
            "a.wav#16000-32000": ("two", "de", "Wie?"),
            "a.wav#32800-48000": ("Anna", "de", "Gut."),
        },
        {},
    )


@pytest.mark.parametrize(("start", "end", "both"), [(950, 1950, 2), (949, 1950, 0), (1500, 2050, 2), (1500, 2051, 0)])
def test_what_two_tiers_annotate_at_once_is_rejected(tmp_path: Path, start: int, end: int, both: int) -> None:
    record(tmp_path / "a.wav", 16_000 * 4)
    anna = ("one", "Anna", ((0, 1000, "Ja."), (2000, 3000, "Gut.")))
    write(tmp_path / "a.eaf", eaf("a.wav", anna, ("two", "Ben", ((start, end, "Wie?"),))))
    utterances, rejects = scan(tmp_path)
    assert ("Ben" in {speaker for speaker, _, _ in utterances.values()}) == bool(both)
    assert len(utterances) == (3 if both else 1)
    assert all("has an annotation at the same time" in reason for reason in rejects.values())


def test_tiers_below_another_are_left_out(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 16_000)
    text = eaf("a.wav", ("one", "Anna", ((0, 500, "Ja."),)), ("gloss", "Anna", ((0, 500, "yes"),)))
    write(tmp_path / "a.eaf", text.replace('TIER_ID="gloss"', 'TIER_ID="gloss" PARENT_REF="one"'))
    assert scan(tmp_path) == ({"a.wav#0-8000": ("Anna", "de", "Ja.")}, {})


GOOD = eaf("a.wav", ("one", "Anna", ((0, 500, "Ja."),)))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (GOOD.replace("</TIER>", ""), "is not XML"),
        (GOOD.replace("ANNOTATION_DOCUMENT", "TRANS"), "no document of ELAN"),
        (GOOD.replace('TIME_VALUE="500"', ""), "has no value"),
        (GOOD.replace('TIME_VALUE="500"', 'TIME_VALUE="5e2"'), "has no value"),
        (GOOD.replace("milliseconds", "frames"), "'frames'"),
        (GOOD.replace("<ANNOTATION_DOCUMENT", '<!DOCTYPE a [<!ENTITY b "c">]><ANNOTATION_DOCUMENT'), "entities"),
        (GOOD.replace("a.wav", "a.mpg"), ""),
        (GOOD.replace("Ja.", " "), "the text is empty"),
        (GOOD.replace('encoding="UTF-8"', 'encoding="klingon"'), "is not XML"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, document: str, said: str) -> None:
    record(tmp_path / "a.wav", 16_000)
    write(tmp_path / "a.eaf", document)
    utterances, rejects = scan(tmp_path)
    assert bool(utterances) == (not said)
    assert said in "".join(rejects.values())


def test_a_document_without_a_recording(tmp_path: Path) -> None:
    record(tmp_path / "b.wav", 16_000)
    write(tmp_path / "a.eaf", GOOD.replace("a.wav", "a.mpg"))
    assert "names no recording" in scan(tmp_path)[1]["a.eaf"]
    write(tmp_path / "a.eaf", GOOD)
    assert "no such file" in scan(tmp_path)[1]["a.wav#0.0s-0.5s"]
