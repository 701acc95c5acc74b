"""One utterance as a corpus describes it, before anything about it is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.store.schema import Member, Reject

if TYPE_CHECKING:
    from headrace.featurize.audio.recording import Header


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One utterance as a corpus describes it, not yet validated."""

    location: str
    """File and line of the description; in a tree, the recording's path."""
    audio: str
    """POSIX path, absolute or relative to the corpus folder."""
    speaker: str
    language: str = ""
    """ISO code; empty if the corpus does not give it."""
    text: str = ""
    text_file: str = ""
    """Path of the file that contains the text, relative to the corpus folder, if no line gives the text."""
    phones: str = ""
    """Symbol names separated by spaces, if the corpus gives them."""
    alignment: str | None = None
    """Path of a TextGrid or a `.lab` with times, relative to the corpus folder, or an alignment in the form of
    `label_files.to_json`. Empty: the utterance has none. None: one may lie beside the recording."""
    name: str = ""
    """Name of the utterance in the corpus, if it is not the recording's path."""
    recording: str = ""
    """Name of the recording in the corpus, of which the utterance is a segment."""
    seconds: tuple[float, float] | None = None
    """Start and end of a segment, infinite for the recording's end; None for the whole recording."""
    member: Member | None = None
    """Where the recording lies, if it is in a row of a table; `audio` is then its name."""
    size: int = 0
    """Of such a recording, in bytes."""
    header: Header | None = None
    """Of such a recording."""
    channel: int = -1
    """Channel of the recording that is heard, from 0; -1 for the mean of all."""
    markup: tuple[str, ...] = ()
    """Marks that were dropped of the text, since the format says that they are none of it."""
    problem: str = ""
    """Why the entry cannot be an utterance, if the reader already knows."""


Entries = Iterator[Entry | Reject]
