"""Languages of espeak-ng: times, dates, ratios, signs, units and currencies, and nothing dropped in silence."""

from __future__ import annotations

import pytest

from headrace.featurize.text import espeak, g2p
from headrace.featurize.text.languages import espeak_languages, number_words
from headrace.featurize.text.languages.spoken_numbers import verbalise
from headrace.store.errors import Rejected
from tests.featurize.text.spoken_texts import misread

WRITTEN_OUT = [*sorted(number_words.MONTHS), "vi"]


def phones(written: str, language: str) -> str:
    return "".join(phone.strip("/") for phone in g2p.phonemise(written, language).phones)


def test_figures_and_signs_are_said_as_the_table_has_it() -> None:
    assert misread("languages") == []


@pytest.mark.parametrize("figures", ["14:30", "3:2", "1:100", "2:1:1", "8:05:09", "25:70"])
def test_a_colon_between_figures_is_no_comma_in_any_language(figures: str) -> None:
    for language in sorted(set(espeak.voices().values())):
        if language not in g2p.FRONTENDS:
            said = espeak_languages.make_frontend(language).normalise(figures)
            assert not set(said) & set(":,"), (language, said)


@pytest.mark.parametrize(
    ("language", "word", "written"),
    [
        ("de", "Komma", "Um 14:30 Uhr."),
        ("es", "coma", "A las 15:30."),
        ("it", "virgola", "Alle 18:45."),
        ("fr", "virgule", "À 20:15."),
        ("de", "Strich", "Es sind 10-20."),
        ("pt", "menos", "São 10-20."),
    ],
)
def test_a_sign_is_not_said_by_its_name(language: str, word: str, written: str) -> None:
    def plain(text: str) -> str:
        return phones(text, language).translate(dict.fromkeys(map(ord, "ˈˌː.")))

    assert plain(word)[:4] not in plain(written)


def test_times_have_the_phones_of_their_words() -> None:
    assert phones("Um 14:30 Uhr.", "de") == phones("Um 14 Uhr 30.", "de")
    assert phones("À 20:15.", "fr") == phones("À 20 heures 15.", "fr")


@pytest.mark.parametrize("language", WRITTEN_OUT)
def test_every_language_has_words_for_what_the_rules_need(language: str) -> None:
    found = number_words.words(language)
    needed = {
        "time",
        "hours",
        "minus",
        "to",
        "ratio",
        "over",
        "point",
        "°C",
        "°",
        "m³",
        "±",
        "²",
        "³",
        "/h",
        "km",
        "m²",
        "€",
    }
    assert needed <= set(found) and all(found[unit] for unit in number_words._UNITS)
    assert len(number_words.ordinals(language)) in (0, 31)
    assert language == "vi" or len(number_words.MONTHS[language].split()) == 12
    assert len(number_words.FRACTIONS.get(language, " ".join("123456789")).split()) == 9


@pytest.mark.parametrize("language", WRITTEN_OUT)
def test_signs_are_read_in_the_language_or_refused_by_name(language: str) -> None:
    frontend = espeak_languages.make_frontend(language)
    for sign in "±×÷≥≤≈≠²³°%&@#+=<>§©®∞√∂∇€$£¥₹™♭⅞¹⁷":
        try:
            said = frontend.normalise(f"7 {sign} 8")
        except Rejected as error:
            assert f"{sign!r} (" in str(error) and "character 3 of" in str(error)
        else:
            assert len(said) > 3 and said.split() != ["7", "8"]


@pytest.mark.parametrize(
    ("count", "word"),
    [("1", "метр"), ("2", "метра"), ("4", "метра"), ("5", "метров"), ("11", "метров"), ("21", "метр")],
)
def test_units_have_the_form_of_their_number(count: str, word: str) -> None:
    assert verbalise(f"{count} m.", "ru") == f"{count} {word}."


@pytest.mark.parametrize(
    ("written", "said"),
    [("22 kg", "22 kilogramy"), ("1 kg", "1 kilogram"), ("12 kg", "12 kilogramów"), ("21 kg", "21 kilogramów")],
)
def test_polish_counts_by_the_last_figure_but_one_alone(written: str, said: str) -> None:
    assert verbalise(written, "pl") == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Er kam am 1. Mai.", "Er kam am ersten Mai."),
        ("Der 2. Mai", "Der zweite Mai"),
        ("Montag, 3. Mai", "Montag, dritter Mai"),
        ("Er hat 3. Dann ging er.", "Er hat 3. Dann ging er."),
        ("Version 3.5.", "Version 3 Punkt 5."),
        ("31.12.2023", "einunddreißigster Dezember 2023"),
        ("12.34.2023", "12 Punkt 34 Punkt 2023"),
        ("1.234,50", "1234,50"),
        ("1990-1995", "19 hundert 90 bis 19 hundert 95"),
    ],
)
def test_german_ordinals_stand_in_their_case(written: str, said: str) -> None:
    assert verbalise(written, "de") == said


def test_a_mark_of_another_script_is_a_pause() -> None:
    assert g2p.phonemise("नमस्ते। यह।", "hi").phones.count(".") == 2
    assert g2p.phonemise("مرحبا، كيف؟", "ar").phones[-1] == "?"


def test_one_to_a_hundred_is_a_ratio_and_three_two_a_score() -> None:
    assert [verbalise(figures, "nl") for figures in ("1:100", "3:2")] == ["1 op 100", "3 2"]


def test_an_exponent_is_no_number() -> None:
    with pytest.raises(Rejected, match=r"'⁷' .SUPERSCRIPT SEVEN., character 2 of 'x⁷', is not read"):
        espeak_languages.make_frontend("de").normalise("x⁷")
