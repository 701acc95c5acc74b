"""Interfaces through which builds and additions of features report their progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from headrace.featurize.scheduling.dask_cluster import WorkerObserver

if TYPE_CHECKING:
    from headrace.featurize.pipeline.part_worker import PartReport


class AddObserver(WorkerObserver, Protocol):
    """Receives the progress of adding features, one feature after the other."""

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None:
        """Receive the number of parts and their hours of audio, in total and already sealed."""

    def part_done(self, report: PartReport) -> None:
        """Receive the report of a part that was sealed."""

    def learning(self, feature: str, done: float, total: float, status: str) -> None:
        """Receive how far a feature is with learning from all parts, as `LearningLog.step` does."""


class BuildObserver(AddObserver, Protocol):
    """Receives the progress of building a store."""

    def scanning(self, utterances: int, rejects: int) -> None:
        """Receive the numbers of utterances and rejects scanned so far."""


class SilentObserver:
    """Implements `BuildObserver` and does nothing."""

    def note(self, line: str) -> None: ...

    def workers(self, count: int) -> None: ...

    def scanning(self, utterances: int, rejects: int) -> None: ...

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None: ...

    def part_done(self, report: PartReport) -> None: ...

    def learning(self, feature: str, done: float, total: float, status: str) -> None: ...


class CompositeBuildObserver:
    """Passes events of a build on to several observers."""

    def __init__(self, *observers: BuildObserver) -> None:
        self._observers = observers

    def note(self, line: str) -> None:
        """Pass a message on."""
        for observer in self._observers:
            observer.note(line)

    def workers(self, count: int) -> None:
        """Pass the number of workers on."""
        for observer in self._observers:
            observer.workers(count)

    def scanning(self, utterances: int, rejects: int) -> None:
        """Pass on what was scanned."""
        for observer in self._observers:
            observer.scanning(utterances, rejects)

    def planned(self, parts: int, sealed: int, hours: float, hours_sealed: float) -> None:
        """Pass a plan on."""
        for observer in self._observers:
            observer.planned(parts, sealed, hours, hours_sealed)

    def part_done(self, report: PartReport) -> None:
        """Pass a report on."""
        for observer in self._observers:
            observer.part_done(report)

    def learning(self, feature: str, done: float, total: float, status: str) -> None:
        """Pass on how far a feature is with learning."""
        for observer in self._observers:
            observer.learning(feature, done, total, status)


SILENT = SilentObserver()
