"""Languages that espeak-ng reads: which tag is which language, that no sound is lost, and whose word a phone is."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest
import soundfile

from benchmarks import languages as sweep
from headrace.featurize.corpus import scanner
from headrace.featurize.text import espeak, g2p, symbols
from headrace.featurize.text.languages import espeak_languages, titles
from headrace.featurize.text.languages.language_tags import language_code
from headrace.featurize.text.languages.words_spoken import phones_by_word
from headrace.store.errors import Rejected
from headrace.store.schema import Utterance
from tests.helpers.corpora import buzz

SAMPLED = ("ar", "cs", "da", "fr", "gu", "is", "ky", "my", "pt-br", "ru", "th", "vi")


def words(written: str, language: str) -> list[tuple[str, str]]:
    """The words of a text, each with its phones in IPA."""
    reading = g2p.phonemise(written, language)
    found, at = list[tuple[str, str]](), 0
    for place, count in enumerate(reading.word2ph):
        if count:
            phones = "".join(phone.strip("/") for phone in reading.phones[at : at + count])
            found.append((reading.text[place:].split()[0].strip(",.?!"), unicodedata.normalize("NFC", phones)))
            at += count
    return [(word, phones) for word, phones in found if word]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ("es es-MX es_AR spa ES-es es_ES.UTF-8", "es"),
        ("es-419", "es-419"),
        ("fr-CA fr-FR fra fre fr_FR", "fr"),
        ("fr-CH", "fr-ch"),
        ("pt-br pt_BR pt-BR pt-Latn-BR por-BR", "pt-br"),
        ("pt pt-PT", "pt"),
        ("zh zh-CN zh-TW zh_Hans_CN cmn cmn-Hant-TW chi zho", "zh"),
        ("yue zh-HK zh-Hant-HK zh-yue yue-HK zh-MO", "yue"),
        ("en EN en-US en_GB eng en-IN", "en"),
        ("ja JP ja-JP jpn", "ja"),
        ("ko-KR kor", "ko"),
        ("de deu ger de-AT de_CH", "de"),
        ("nb no nb-NO nor nob", "nb"),
        ("he iw heb", "he"),
        ("sr sr-Latn-RS sr_RS@latin srp", "sr"),
        ("fa-Latn-IR", "fa-latn"),
        ("kok gom", "kok"),
        ("xx und", ""),
    ],
)
def test_a_tag_is_the_language_that_reads_it(tags: str, code: str) -> None:
    assert {language_code(tag) for tag in tags.split()} == ({code} if code else set(tags.split()))


def test_what_is_no_tag_has_no_language() -> None:
    assert [language_code(tag) for tag in ("", "e", "elvish", "de-", "é", "de" + "-a" * 5000)] == [""] * 6


def test_a_language_has_an_english_name() -> None:
    assert [language_code(name) for name in ("English", "chinese", "Cantonese", "French")] == ["en", "zh", "yue", "fr"]


def test_a_language_without_a_dictionary_is_not_read(capfd: pytest.CaptureFixture[str]) -> None:
    """The wheel of espeak-ng lacks the dictionary of Faroese: the voice answers, and reads nothing."""
    assert "fo" not in espeak.voices()
    with pytest.raises(Rejected, match="nothing here reads language 'fo'"):
        g2p.phonemise("Góðan dag", "fo")
    assert not capfd.readouterr().err


@pytest.mark.parametrize("language", SAMPLED)
def test_nothing_is_rejected_and_no_two_phones_are_merged(language: str) -> None:
    written = sweep.sentences(language, 4)
    for sentence in written:
        phones = g2p.phonemise(sentence, language).phones
        assert len(symbols.ids(phones, sweep.TABLE)) == len(phones) > 10
    names = sweep.phone_names(language, written)
    assert len(names) > 40 and sweep.merged(language, names) == []


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("cs", "řada", "rada"),
        ("ar", "طين", "تين"),
        ("vi", "ma mà má mã mạ", "ma ma ma ma ma"),
        ("vi", "tơ", "to"),
        ("fr", "bon", "beau"),
        ("ru", "брат", "брать"),
        ("is", "hlaupa", "laupa"),
        ("et", "palk", "palk'"),
    ],
)
def test_sounds_that_differ_stay_different(language: str, one: str, other: str) -> None:
    if language == "et":
        assert espeak_languages.phone_symbols("t^", "et") != espeak_languages.phone_symbols("t", "et")
        return
    assert g2p.phonemise(one, language).phones != g2p.phonemise(other, language).phones


@pytest.mark.parametrize(
    ("ipa", "spelled"),
    [
        ("r\u031d", "/r\u031d/"),
        ("t\u0361s", "/ts/"),
        ("ˈa\u0303ː", "/ˈa\u0303ː/"),
        ("ˈaː\u0303", "/ˈa\u0303ː/"),
        ("x\u032f\u0303", "/x/ /\u032f/ /\u0303/"),
        ("tˤ", "/tˤ/"),
        ("ɫ", "/ɫ/"),
        ("\u0144", "/n/ /\u0301/"),
        ("a²", "/a/ /2/"),
    ],
)
def test_a_mark_is_in_the_symbol_or_behind_it(ipa: str, spelled: str) -> None:
    assert espeak_languages.ipa_symbols(ipa) == spelled.split()


def test_ids_of_the_table_stay() -> None:
    first = symbols.TABLES["headrace-ipa"][: symbols.FIRST_IPA_COUNT]
    assert symbols.FIRST_IPA_COUNT == 1320
    assert hashlib.sha256("\n".join(first).encode()).hexdigest()[:16] == "e81370b29c63e679"


@pytest.mark.parametrize(
    ("language", "written", "read"),
    [
        ("de", "In 2024 kamen 35 Leute.", "In 2024 kamen 35 Leute"),
        ("fr", "Il y a de l'eau et les amis.", "Il y a de l'eau et les amis"),
        ("pt", "Vou dar-lhe o livro do menino.", "Vou dar-lhe o livro do menino"),
        ("sv", "Han sade 100 kronor i dag.", "Han sade 100 kronor i dag"),
        ("cs", "Ze sta na to.", "Ze sta na to"),  # four words in two groups
        ("pl", "W domu z nim nie wiem 101.", "W domu z nim nie wiem 101"),  # as many groups: one more, and one less
    ],
)
def test_every_word_has_its_phones(language: str, written: str, read: str) -> None:
    found = words(written, language)
    assert " ".join(word for word, _ in found) == read
    for word, phones in found:
        alone = unicodedata.normalize("NFC", "".join(p.strip("/") for p in g2p.phonemise(word, language).phones))
        if word.isdigit():
            assert phones.replace("ˈ", "").replace("ˌ", "")[:3] == alone.replace("ˈ", "").replace("ˌ", "")[:3]


@pytest.mark.parametrize(
    ("alone", "groups", "shares"),
    [
        ("ab cd", "abcd", "ab cd"),  # joined
        ("abcd", "ab cd", "abcd"),  # one word, read as two
        ("ab cd ef", "ab cdef", "ab cd ef"),
        ("abc def", "ab cdef", "abc def"),  # cut at another place
        ("le ami", "lez ami", "lez ami"),  # a liaison
        ("le ami", "le zami", "le zami"),
        ("ab c de", "ab de", "ab  de"),  # nothing is left of a word
        ("a d cab", "azcab", "a z cab"),  # another phone is likelier than one too many and one too few
        ("d b dab", "dzdab", "d z dab"),
        ("d dc da", "ddda", "d d da"),
        ("a b", "", " "),
    ],
)
def test_phones_are_divided_among_words(alone: str, groups: str, shares: str) -> None:
    divided = phones_by_word([*map(list, alone.split())], [*map(list, groups.split())])
    assert ["".join(word) for word in divided] == shares.split(" ")


@pytest.mark.parametrize(
    ("language", "written", "said"),
    [
        ("fr", "M. Dupont et Mme. de La Tour", "monsieur Dupont et madame de La Tour"),
        ("fr", "Il a 5 m. Il part.", "Il a 5 m. Il part."),
        ("nl", "Dhr. van der Berg, nr. 5", "meneer van der Berg, nummer 5"),
        ("it", "Il Sig. Rossi, la sig.ra Bianchi", "Il signor Rossi, la signora Bianchi"),
        ("es", "El Sr. López y el Dr.Pérez", "El señor López y el doctor Pérez"),
        ("es-419", "No. No. 5", "No. número 5"),
        ("de", "St. Pauli. Hr. Meier.", "Sankt Pauli. Herr Meier."),
        ("cs", "na s. 5 p. Novák", "na s. 5 pan Novák"),
        ("pt-br", "Sra. Silva", "senhora Silva"),
        ("xx", "Dr. X", "Dr. X"),
        ("ru", "Это г-н. Иванов", "Это господин Иванов"),
    ],
)
def test_a_title_ends_no_sentence(language: str, written: str, said: str) -> None:
    assert titles.write_out(written, language) == said


def test_a_title_is_no_pause() -> None:
    assert g2p.phonemise("Il Sig. Rossi.", "it").phones.count(".") == 1
    assert g2p.phonemise("M. Dupont est là.", "fr").phones.count(".") == 1


def test_long_words_lose_nothing() -> None:
    """espeak-ng cuts a word off at its buffers, without a sign."""
    word = "สวัสดีชาวโลก"
    alone = [phone for phone in g2p.phonemise(word, "th").phones if phone.strip("/ˈˌ")]
    many = [phone for phone in g2p.phonemise(word * 20, "th").phones if phone.strip("/ˈˌ")]
    assert len(many) > 19 * len(alone)
    with pytest.raises(Rejected, match="1000 characters without a space"):
        g2p.phonemise("donaudampf" * 100, "de")


def test_long_words_are_cut_as_late_as_can_be() -> None:
    """Only before syllables, into pieces of 150 bytes at most; a letter of Thai has three."""
    syllable, longest = "เ" + 24 * "ก", "เ" + 49 * "ก"
    assert espeak_languages._cut(3 * syllable) == [2 * syllable, syllable]
    assert espeak_languages._cut("ก" + longest) == ["ก", longest]
    assert espeak_languages._cut(150 * "a") == [150 * "a"]
    for long in (151 * "a", longest + "ก"):
        with pytest.raises(Rejected, match="put spaces between its words"):
            espeak_languages._cut(long)


@pytest.mark.parametrize(
    ("phone", "language", "symbol"),
    [("ɜ", "vi", "3"), ("ɜː", "vi", "ɜː"), ("ɜ", "bg", "ɜ"), ("ɜ", "vi-vn-x-south", "3")],
)
def test_the_third_tone_is_no_vowel_and_a_pause_no_phone(phone: str, language: str, symbol: str) -> None:
    assert espeak_languages.phone_symbols(phone, language) == [f"/{symbol}/"]


def test_many_words_of_burmese_are_read() -> None:
    """Seven of them at once overrun a buffer of espeak-ng 1.52, and end the process."""
    written = "အဟောင်း အီကွေဒေါ အန်ဟင်းဂတူ ကွန်ဟာ ဂမ်ဘီရာ ရေလက်ကြား ဒေါ်လာ"
    assert len(words(written, "my")) == len(written.split())


def test_a_word_that_is_not_read_is_named() -> None:
    with pytest.raises(Rejected, match="the voice chr of espeak-ng reads nothing in 'ᏎᏎᎵᏩ'"):
        g2p.phonemise("ᏎᏎᎵᏩ", "chr")
    assert espeak_languages._phones_alone("es", ["’"]) == [[]], "only a word with letters has to be read"


def test_corpora_name_languages_by_region(tmp_path: Path) -> None:
    lines = {"a.wav": "es-MX", "b.wav": "fr_CA", "c.wav": "zh-TW", "d.wav": "en-GB", "e.wav": "pt-BR", "f.wav": "no!"}
    for number, name in enumerate(lines):
        soundfile.write(tmp_path / name, buzz(0.3, 16_000, number), 16_000)
    listed = "".join(f"{name}|anna|{tag}|Text.\n" for name, tag in lines.items())
    (tmp_path / "all.list").write_text(listed, encoding="utf-8")
    found = list(scanner.scan(tmp_path, None, language="deu"))
    read = {one.audio: one.language for one in found if isinstance(one, Utterance)}
    assert read == {"a.wav": "es", "b.wav": "fr", "c.wav": "zh", "d.wav": "en", "e.wav": "pt-br"}
    assert "nothing here reads language 'no!'" in next(one.reason for one in found if not isinstance(one, Utterance))
