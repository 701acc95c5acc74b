"""What can go wrong, as types.

    HeadraceError             a fault a person can act on; exit code 1
    ├── UsageError            the command was given something that cannot be; exit code 2
    ├── CorpusError           recordings and transcripts cannot be read as a corpus
    ├── StoreError            a path is not a store, or not the store that was expected
    │   ├── NotAStore
    │   ├── DamagedStore      bytes on disk are not those that were sealed
    │   └── RecipeMismatch    features were made otherwise than the reader needs
    ├── StorageError          a bucket refuses, or does not answer in spite of retries
    ├── RunError              a training run cannot start or go on
    ├── Interrupted           a signal stopped the work; nothing sealed was lost
    └── Rejected              one utterance cannot be used; the others can

A message is one line: what was given, what was expected, what to do. `details` are further lines that are
printed below it, indented.
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
        """Errors cross process boundaries whole, details included."""
        return type(self), (self.message, *self.details)


class UsageError(HeadraceError):
    exit_code = 2


class CorpusError(HeadraceError):
    pass


class StoreError(HeadraceError):
    pass


class NotAStore(StoreError):
    pass


class DamagedStore(StoreError):
    pass


class RecipeMismatch(StoreError):
    pass


class StorageError(HeadraceError):
    pass


class RunError(HeadraceError):
    pass


class Interrupted(HeadraceError):
    pass


class Rejected(HeadraceError):
    """One utterance cannot be used. Raised while it is worked on; ends as a `headrace.store.schema.Reject`."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage: Stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), (self.stage, self.reason)
