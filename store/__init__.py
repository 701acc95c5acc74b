"""A chunked Zarr v3 store of speech features: one writer per part, readers without torch.

import store

corpus = store.open("STORE")
mel = corpus.read("mel", 0)     # (frames, 128) float16 of the shortest utterance
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.place import Place
    from store.reader import Store


def open(path: str | os.PathLike[str] | Place) -> Store:
    """Open a store for reading: a folder, or s3://BUCKET/PREFIX. It is never changed by that.

    Raises:
        NotAStore: `path` holds no store of this format.
        DamagedStore: a part's metadata cannot be read.
        StorageError: the bucket cannot be used, or does not answer; reading may raise it later too.
    """
    from store.reader import Store  # zarr takes 0.3 s to import: command-line help must not pay for it

    return Store(path)
