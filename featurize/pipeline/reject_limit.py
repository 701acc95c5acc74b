"""Stops a build that rejects too much of its corpus, as soon as that is evident."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

from headrace.featurize.pipeline.text_check import TextCheck
from headrace.store import rejects
from headrace.store.errors import CorpusError
from headrace.store.integrity.scan_record import ScanRecord
from headrace.store.schema import Reject
from headrace.store.storage import StoragePath

DEFAULT_SHARE = 0.5
MIN_TEXTS = 200
"""Texts of a larger corpus are read before its parts are made. Of a smaller one the parts tell as soon."""
TEXT_SECONDS = 5.0
_KINDS = 5


class RejectLimit:
    """Counts the rejects of a build, and raises once they are more than a share of what the corpus lists."""

    def __init__(self, share: float, scanned: ScanRecord, corpus: StoragePath, out: StoragePath) -> None:
        """
        Args:
            share: 0 to 1; 1 never stops a build.
            scanned: what the scan listed and rejected.
        """
        self._share, self._listed, self._corpus, self._out = share, scanned.listed, corpus, out
        self._rejects = list(scanned.rejects)

    def add(self, found: Iterable[Reject]) -> None:
        """Count rejects of parts, which are sealed.

        Raises:
            CorpusError: there are too many; the list of rejects is written before. If all is rejected, that is told
                when the build ends.
        """
        self._rejects += found
        if self._share * self._listed < len(self._rejects) < self._listed:
            rejects.write_derived(self._out)
            counted = f"{len(self._rejects):,} of the {self._listed:,} utterances of {self._corpus} are rejected"
            raise self._error(f"{counted}, and listed in {self._out / rejects.FILE}", self._rejects)

    def check_texts(self, check: TextCheck) -> None:
        """Compare the share of texts that are rejected.

        Raises:
            CorpusError: there are too many of them; of a sample, by more than two standard errors.
        """
        if not check.rejects:
            return
        error = 2 * sqrt(0.25 / check.read) if check.is_sample else 0.0
        expected = len(self._rejects) + (len(check.rejects) / check.read - error) * check.utterances
        if expected > self._share * self._listed:
            counted = f"{len(check.rejects):,} of {check.read:,} texts of {self._corpus} that were read are rejected"
            raise self._error(counted, check.rejects)

    def _error(self, counted: str, found: Sequence[Reject]) -> CorpusError:
        return CorpusError(
            f"{counted}: more than the {100 * self._share:g} % of --max-rejects. Mend them, or go on with "
            "--max-rejects 100. The most frequent reasons:",
            *describe(found),
        )


def nothing_usable(found: Sequence[Reject], corpus: str, where: str = "") -> CorpusError:
    """Return the error for a corpus of which everything was rejected.

    Args:
        where: a sentence that says where the rejects are listed.
    """
    return CorpusError(
        f"None of the {len(found)} utterances of {corpus} can be used.{where} The most frequent reasons:",
        *describe(found),
    )


def describe(found: Iterable[Reject]) -> list[str]:
    """Return the most frequent kinds of rejects, one a line."""
    return [str(kind) for kind in rejects.group(found)[:_KINDS]]
