"""Load `soundfile` with everything that it would otherwise prepare when it is first used.

soundfile calls libsndfile through cffi, which makes the types of a function when the function is first looked up. It
does so without a lock: if another thread looks it up meanwhile, an assertion in cffi 2.1 ends the process. The threads
that scan or decode a corpus all start with the same functions, and so a worker died now and then. Whoever imports
soundfile from here has all types, made in the one thread that imports this module.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import soundfile

__all__ = ["soundfile"]


def _make_types(library: Any, ffi: Any) -> None:
    """Look up all functions of a library, and make a value of each type that has a name, for the fields of structs."""
    for name in dir(library):
        getattr(library, name)
    for name in ffi.list_types()[0]:
        with suppress(TypeError):  # SNDFILE is opaque: there are only pointers to it
            ffi.new(f"{name} *")


_make_types(soundfile._snd, soundfile._ffi)
