"""Observers of builds: what is told of progress while a build or an addition of features runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from headrace.featurize.scheduling.dask_cluster import WorkerObserver

if TYPE_CHECKING:
    from headrace.featurize.pipeline.part_worker import PartReport


class AddObserver(WorkerObserver, Protocol):
    """Is told how features are added, one feature after the other."""

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None:
        """The parts of the store and their hours of audio, and how many of them are sealed already."""

    def part_done(self, report: PartReport) -> None:
        """A part is sealed."""


class BuildObserver(AddObserver, Protocol):
    """Is told how a store is built."""

    def scanning(self, utterances: int, rejects: int) -> None:
        """How much of the corpus is scanned so far."""


class SilentObserver:
    """Implements `BuildObserver` and does nothing."""

    def note(self, line: str) -> None: ...

    def workers(self, count: int) -> None: ...

    def scanning(self, utterances: int, rejects: int) -> None: ...

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None: ...

    def part_done(self, report: PartReport) -> None: ...


SILENT = SilentObserver()
