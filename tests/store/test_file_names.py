"""Names of files made of ids: usable on every file system, unique on the least attentive one, kept where possible."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.store.storage.file_names import (
    escape,
    file_names,
    file_paths,
    name_with_digest,
    portable_name,
    portable_path,
    unescape,
)

ODD = (
    "", ".", "..", "../x", "/etc/x", "a\0b", "a:b", "a*b?", "<a>|b", "a\tb\nc", 'a"b', "nul", "CON.wav", "com1 .txt",
    "lpt¹", "a.", "a ", "a\u2028b", "a\x85", " a", "a'", "x" * 300, "\u4f60" * 100, "\ud83d", "a\u202a", "%41", "%2F",
    "b~" + "0" * 24 + ".wav", "-rf",
)  # fmt: skip
ids = st.lists(
    st.one_of(st.sampled_from(ODD), st.text(max_size=12), st.text("aA./\u00e9e\u0301", max_size=4)), unique=True
)


def looks_to_a_file_system(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).lower())


@given(st.text())
def test_escapes_are_undone(id: str) -> None:
    assert unescape(escape(id)) == id and not set(escape(id)) & set('/\\:*?"<>|\t\n\r\0')


@pytest.mark.parametrize(
    "id", ["utt 0.wav", "anna_1", "é.WAV", "100 %.flac".replace("%", ""), ".hidden", "\u4f60\u597d.wav"]
)
def test_a_usual_id_is_its_own_name(id: str) -> None:
    assert portable_name(id) == id


@given(ids)
@example(list(ODD))
@example(["a.wav", "A.WAV", "\u00e9", "e\u0301", "stra\u00dfe", "STRASSE"])
@example(["../x", portable_name("../x"), portable_name("x" * 300), "x" * 300])
@example(["a.wav", "A.WAV", name_with_digest("a.wav", "a.wav")])
@example(["a.wav", "A.WAV", name_with_digest("a.wav", "a.wav").upper()])
def test_names_are_unique_and_usable(drawn: list[str]) -> None:
    names = file_names(drawn)
    assert len({looks_to_a_file_system(name) for name in names}) == len(drawn)
    for name in names:
        assert 0 < len(name.encode()) <= 255 - len(".TextGrid")
        assert (
            not set(name) & set('/\\:*?"<>|\0\t\n\r') and name.splitlines() == [name.strip()] and name[-1] not in ".' "
        )
        assert name.partition(".")[0].rstrip().lower() not in ("con", "nul", "aux", "prn", "com1", "lpt¹")
    assert file_names(drawn[::-1]) == names[::-1]


@given(ids)
@example(["../../x", "/etc/x", "etc/x", "ETC/x", "a/b/../c", "a", "a/b", "A/b"])
@example(["/".join(["long"] * 900)])
def test_paths_stay_inside_and_none_is_anothers_folder(drawn: list[str]) -> None:
    paths = file_paths(drawn, drawn)
    keys = {looks_to_a_file_system(path) for path in paths}
    assert len(keys) == len(drawn)
    for path in paths:
        parts = path.split("/")
        assert all(0 < len(part.encode()) <= 246 and part not in (".", "..") for part in parts) and len(path) <= 1300
        assert not keys & {looks_to_a_file_system("/".join(parts[:end])) for end in range(1, len(parts))}


def test_a_usual_path_is_kept() -> None:
    assert portable_path("anna/v.1/é.TextGrid") == "anna/v.1/é.TextGrid"
    assert file_paths(["a/1.TextGrid", "a/2.TextGrid"], ["a/1.wav", "a/2.wav"]) == ["a/1.TextGrid", "a/2.TextGrid"]
    same = file_paths(["a/1.TextGrid", "a/1.TextGrid"], ["a/1.wav", "a/1.flac"])
    assert len(set(same)) == 2 and all(path.startswith("a/1~") and path.endswith(".TextGrid") for path in same)
