"""Read arrays of numbers from `.npy` files, whose headers are checked against the file before memory is reserved."""

from __future__ import annotations

import math
import re
import stat
from pathlib import Path

import numpy as np

from headrace.store.errors import UsageError
from headrace.store.storage import read_file

MAGIC = b"\x93NUMPY"
MAX_BYTES, MAX_DIMENSIONS = 1 << 30, 8
_HEADER = re.compile(
    r"""\{\s*['"]descr['"]:\s*['"]([<>=|]?[fiu]\d{1,2})['"],\s*['"]fortran_order['"]:\s*(True|False),\s*"""
    r"""['"]shape['"]:\s*\(([\d, ]{0,100})\)\s*,?\s*\}\s*"""
)
"""NumPy writes the keys in this order. Arrays of objects, structures and texts do not match."""


def read_npy(path: Path, option: str) -> np.ndarray:
    """Read the array of an .npy file as float32. Nothing in it is executed.

    Raises:
        UsageError: it cannot be read, or is no such array; the message names `option`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise ValueError(f"it is no file of at most {MAX_BYTES:,} bytes")
        return _parse(read_file(path))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{option} {path} is no array of numbers in an .npy file: {error}.") from error


def _parse(data: bytes) -> np.ndarray:
    """Return the array of a file as float32. Raises ValueError or TypeError."""
    version, width = data[len(MAGIC) : len(MAGIC) + 2], 2 if data[len(MAGIC) : len(MAGIC) + 1] == b"\1" else 4
    if not data.startswith(MAGIC) or version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError("it does not begin as one")
    begin = len(MAGIC) + 2 + width
    end = begin + int.from_bytes(data[begin - width : begin], "little")
    header = _HEADER.fullmatch(data[begin : min(end, begin + 1000)].decode("latin-1"))
    if not header:
        raise ValueError("its header describes something else")
    dtype, shape = np.dtype(header[1]), tuple(map(int, re.findall(r"\d+", header[3])))
    size, found = math.prod(shape) * dtype.itemsize, len(data) - end
    if len(shape) > MAX_DIMENSIONS or size != found:
        raise ValueError(f"its header promises {size:,} bytes, and it has {max(0, found):,}")
    array = np.frombuffer(data, dtype, offset=end).reshape(shape, order="F" if header[2] == "True" else "C")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, order="C")
    if not np.isfinite(values).all():
        raise ValueError("it holds numbers that are not finite")
    return values
