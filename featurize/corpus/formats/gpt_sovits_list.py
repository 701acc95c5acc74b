"""Read the lists of GPT-SoVITS, and those of VITS and Bert-VITS2, whose fields are fewer or more."""

from __future__ import annotations

from sys import intern

from headrace.featurize.corpus.entry import Entries, Entry
from headrace.featurize.corpus.formats.lines import parse_lines
from headrace.featurize.files.folders import suffix
from headrace.featurize.files.source import Source
from headrace.featurize.text.languages.language_tags import language_code, unknown_tag
from headrace.store.errors import CorpusError, Rejected

ALIGNMENT_SUFFIXES = (".lab", ".textgrid")
_PATH_QUOTES = " '\"\u202a"  # which a path pasted from Windows may be enclosed in
_CLEANED_FIELDS = 7  # path|speaker|language|text|phones|tones|word2ph, as Bert-VITS2 writes it


def read_list(source: Source, file: str) -> Entries:
    """Read a list of GPT-SoVITS. A line is `path|speaker|language|text`.

    Two more fields are optional: `|phones`, symbols separated by spaces, and `|alignment`, a path.
    """

    def parse(location: str, line: str) -> Entry:
        fields = [field.strip() for field in line.split("|")]
        has_alignment = len(fields) > 4 and suffix(fields[-1]) in ALIGNMENT_SUFFIXES
        alignment = _clean_path(fields.pop()) if has_alignment else None
        phones = _phones(fields.pop()) if len(fields) == 5 else ""
        if len(fields) != 4:
            raise Rejected("scan", f"{len(fields)} fields between bars instead of path|speaker|language|text")
        return _entry(source, location, fields, phones=phones, alignment=alignment)

    return parse_lines(source, file, parse)


def read_vits_list(source: Source, file: str) -> Entries:
    """Read a list of VITS, `path|text` or `path|speaker|text`, or of Bert-VITS2, which adds the language and phones.

    Phones and tones that Bert-VITS2 added are not used: they are those of its own tables. The text is read instead.

    Raises:
        CorpusError: it is a list that VITS has cleaned: in place of texts it has phonemes.
    """
    if file.endswith(".cleaned") and not source.exists(file.removesuffix(".cleaned")):
        raise CorpusError(f"{source.root / file} has phonemes in place of texts: give the list that it was made from.")

    def parse(location: str, line: str) -> Entry:
        fields = [field.strip() for field in line.split("|")]
        if len(fields) in (2, 3):
            path, *speaker, text = fields
            return _entry(source, location, [path, "".join(speaker), "", text])
        if len(fields) not in (4, _CLEANED_FIELDS):
            raise Rejected("scan", f"{len(fields)} fields between bars instead of path|speaker|text")
        return _entry(source, location, fields[:4])

    return parse_lines(source, file.removesuffix(".cleaned"), parse)


def _entry(
    source: Source, location: str, fields: list[str], *, phones: str = "", alignment: str | None = None
) -> Entry:
    """Return the entry of the fields path, speaker, language and text."""
    path, speaker, tag, text = fields
    if not path:
        raise Rejected("scan", "no path before the first bar")
    language = language_code(tag) if tag else ""
    return Entry(
        location=location,
        audio=_clean_path(path),
        speaker=intern(speaker or source.root.name),
        language=language,
        text=text,
        phones=phones,
        alignment=alignment,
        problem=unknown_tag(tag),
    )


def _phones(field: str) -> str:
    """Return the fifth field of a line. Raise Rejected if it is the end of a text that has a bar in it."""
    from headrace.featurize.text.symbols import SYMBOLS  # not above: names of formats are in `--help`, without NumPy

    phones = field.split()
    if phones and not any(phone in SYMBOLS or phone[0] == phone[-1] == "/" for phone in phones):
        raise Rejected(
            "scan", f"the text has a bar, or its fifth field holds no phones ({field[:20]!r}): remove the bar"
        )
    return field


def _clean_path(path: str) -> str:
    return path.strip(_PATH_QUOTES).replace("\\", "/")
