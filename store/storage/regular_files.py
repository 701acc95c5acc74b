"""Open files where others may have put something else: a pipe or a device blocks who reads it, or has no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BinaryIO:
    """Open a file of this machine for reading; never blocks.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # to open a device may be enough to make it act
        raise _other_kind(path)
    file = os.fdopen(os.open(path, _FLAGS), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _other_kind(path)
    return file


def _other_kind(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file", str(path))
