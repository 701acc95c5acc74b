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
    ├── Interrupted           a signal stopped the work; nothing sealed was lost
    └── Rejected              one utterance cannot be used, while the others can

A message is one line: what was given, what was expected, what to do. `details` are further lines, which are printed
below it, indented.
"""

from headrace.store.schema import Stage


class HeadraceError(Exception):
    """Base of every error that Headrace reports to a person without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *details: str) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

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


class Interrupted(HeadraceError):
    """A signal stopped the work. Nothing that was sealed is lost."""


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
