"""A chunked Zarr v3 store of speech features: one writer for each part, readers that need no torch.

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


def open(location: Location | Sequence[Location], *, check: bool = False) -> Store:
    """Open a store for reading. Nothing in it is changed.

    Several stores can be read as one, without copying. The result has the features that all of them have, made by the
    same recipe, and the utterances of one store after those of the other. An utterance may not be in two of them; that
    is checked when the identities are first read.

    Args:
        location: a folder or s3://BUCKET/PREFIX; or several of them: a sequence, or a text file with one on each line.
        check: compare the checksum of every block before anything in it is returned.
    Raises:
        NotAStore: there is no store of this format.
        RecipeMismatch: the stores have a feature that was made by different recipes.
        DamagedStore: the metadata of a part cannot be read; or, when reading with `check`, a block is not what was
            sealed.
        StorageError: the bucket cannot be used, or does not answer; reading may raise it later too.
    """
    from headrace.store.reader import Store  # NumPy and codecs take 0.15 s to import: `--help` need not wait for them

    return Store(location, check=check)
