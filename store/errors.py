"""The errors that Headrace reports to a person, as a hierarchy of types.

    HeadraceError             a fault that a person can act on; exit code 1
    ├── UsageError            an option or argument is not valid; exit code 2
    ├── CorpusError           recordings and transcripts cannot be read as a corpus
    ├── StoreError            a path is not a store, or not the store that was expected
    │   ├── NotAStore
    │   ├── DamagedStore      stored bytes are not those that were sealed
    │   └── RecipeMismatch    features were made by another recipe than the reader needs
    ├── StorageError          a bucket refuses, or does not answer despite retries
    ├── RunError              a training run cannot start or continue
    ├── RankFailed            another process of a training run failed, and has said why
    ├── Interrupted           a signal stopped the work; nothing sealed was lost
    └── Rejected              one utterance cannot be used, while the others can

A message is one line: what was given, what was expected, what to do. `details` are further lines, which are printed
below it, indented. Credentials in what was given, such as those of a URL, are not part of either.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.store.secrets import without_secrets

if TYPE_CHECKING:
    from headrace.store.schema import Stage


class HeadraceError(Exception):
    """Base of every error that Headrace reports to a person without a traceback."""

    exit_code = 1
    restart_helps = False
    """Whether the same command may succeed if it is started again, without anybody having done anything."""

    def __init__(self, message: str, *details: str) -> None:
        self.message = without_secrets(message)
        self.details = tuple(map(without_secrets, details))
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        """Pickle the error with its details: it crosses process boundaries."""
        return type(self), (self.message, *self.details)


class UsageError(HeadraceError):
    """An option or argument is not valid."""

    exit_code = 2


class CorpusError(HeadraceError):
    """Recordings and transcripts cannot be read as a corpus."""


class StoreError(HeadraceError):
    """A path is not a store, or not the store that was expected."""


class NotAStore(StoreError):
    """There is no store of this format."""


class DamagedStore(StoreError):
    """Stored bytes are not those that were sealed."""


class RecipeMismatch(StoreError):
    """Features were made by another recipe than the reader needs."""


class StorageError(HeadraceError):
    """A bucket refuses a request, or does not answer despite retries."""


class RunError(HeadraceError):
    """A training run cannot start or continue."""


class RunBusy(RunError):
    """Another process is writing the folder of a training run."""

    restart_helps = True


class RankFailed(HeadraceError):
    """Another process of a training run failed. The message is what that one has printed."""

    restart_helps = True
    """As far as this process knows: the one that failed knows better."""

    def __init__(self, message: str, exit_code: int) -> None:
        """
        Args:
            exit_code: of that process, which all others end with too.
        """
        super().__init__(message)
        self.exit_code = exit_code or 1

    def __reduce__(self) -> tuple[type, tuple[str, int]]:  # type: ignore[override]
        return type(self), (self.message, self.exit_code)


class Interrupted(HeadraceError):
    """A signal stopped the work. Nothing that was sealed is lost."""

    restart_helps = True


class Rejected(HeadraceError):
    """An utterance cannot be used.

    It is raised while the utterance is processed, and becomes a `headrace.store.schema.Reject`.
    """

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage: Stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.stage, self.reason)


_REMEDIES: dict[Stage, tuple[str, str]] = {
    "scan": ("entry", "write that entry otherwise"),
    "decode": ("recording", "encode it again from its source"),
    "text": ("text", "write that text otherwise"),
    "align": ("alignment", "align it again"),
    "features": ("recording", "encode it again from its source"),
}
_OF_A_FILE = {
    getattr(errno, name)
    for name in ("ENAMETOOLONG", "ELOOP", "EILSEQ", "EINVAL", "ENOENT", "ENOTDIR", "EISDIR", "EACCES", "EPERM", "ENXIO")
}
"""Errors of the system that concern the name or the kind of one file. All others are faults of the machine."""
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "CUDA error", "CUDA out of memory")
"""How a RuntimeError of torch begins to say that the machine failed."""


@contextmanager
def rejecting(stage: Stage) -> Iterator[None]:
    """Turn whatever the data of an utterance makes a library raise into the reject of that utterance.

    Faults of the machine pass: a HeadraceError, too little memory, a full disk, a library that is missing, Ctrl-C.

    Args:
        stage: of the reject, unless a Rejected with a stage of its own is raised.
    Raises:
        Rejected: a library failed.
    """
    try:
        yield
    except Exception as error:
        if _is_of_machine(error):
            raise
        what, remedy = _REMEDIES[stage]
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Rejected(stage, f"{_library(error)} fails on its {what} ({told:.200}): {remedy}") from error


def rejected_file(error: OSError, stage: Stage, reason: str) -> HeadraceError:
    """Return the error for a file of a corpus that cannot be read: its reject, or a fault of the machine."""
    if _is_of_machine(error):
        return HeadraceError(f"{reason}: this machine, its disk or its network fails ({error.filename or 'a corpus'}).")
    return Rejected(stage, reason)


def _is_of_machine(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_A_FILE
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _OUT_OF_MEMORY)
    return isinstance(error, HeadraceError | MemoryError | ImportError)


def _library(error: Exception) -> str:
    """Return the name of the package in whose code an error was raised."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return str(at.tb_frame.f_globals.get("__name__") or "Python").partition(".")[0] if at is not None else "Python"
