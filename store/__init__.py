"""A chunked Zarr v3 store of speech features: one writer per part, readers without torch.

from headrace import store

corpus = store.open("STORE")
mel = corpus.read("mel", 0)     # (frames, 128) float16 of the shortest utterance
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.store.multi_store import Location
    from headrace.store.reader import Store


def open(where: Location | Sequence[Location], *, check: bool = False) -> Store:
    """Open a store for reading: a folder, or s3://BUCKET/PREFIX. It is never changed by that.

    Several stores are opened as one, without copying: a list of them, or a text file that names them, one a line. It
    has the features that all of them have, made alike, and the utterances of one store after those of the other. An
    utterance may not be in two of them: whoever asks for the identities is told.

    Args:
        check: compare the checksum of every block before what it holds is first handed out.
    Raises:
        NotAStore: `where` holds no store of this format.
        RecipeMismatch: of several, one was made otherwise.
        DamagedStore: a part's metadata cannot be read; or, when reading with `check`, a block is not what was sealed.
        StorageError: the bucket cannot be used, or does not answer; reading may raise it later too.
    """
    from headrace.store.reader import (
        Store,  # NumPy and codecs take 0.15 s to import: command-line help must not pay for it
    )

    return Store(where, check=check)
