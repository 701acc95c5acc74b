"""The report of a bug: what a maintainer needs to understand an error that nobody foresaw, and no secrets."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headrace.store.secrets import mask_secrets

LIBRARIES = ("headrace", "numpy", "numba", "torch", "zarr", "numcodecs", "obstore", "dask", "click", "transformers")
_VARIABLES = re.compile("(OMP|MKL|NUMBA|DASK|LC|PYTHON|CUDA|TORCH)_?[A-Z_0-9]*|LANG|TERM|COLUMNS|TMPDIR")
"""Names of environment variables that change how Headrace runs."""


def write_bug_report(error: BaseException) -> Path:
    """Write a report of an error to a new file that only this user can read, and return its path.

    It lies in `headrace` in the user's folder for states (XDG_STATE_HOME, ~/.local/state), or in the temporary folder
    if that cannot be written.

    Raises:
        OSError: neither folder can be written.
    """
    content = mask_secrets(_describe(error)).encode(errors="backslashreplace")
    try:
        folder = _state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _write(folder, content)
    except (OSError, RuntimeError):
        return _write(Path(tempfile.gettempdir()), content)


def _state_folder() -> Path:
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"], "headrace")
    given = os.environ.get("XDG_STATE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state") / "headrace"


def _write(folder: Path, content: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=time.strftime("bug-%Y%m%d-%H%M%S-"), suffix=".txt", dir=folder)
    with open(handle, "wb") as file:
        file.write(content)
    return Path(name)


def _describe(error: BaseException) -> str:
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)]
    lines = [
        f"{platform.platform()}, Python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in LIBRARIES),
        "",
        " ".join(sys.argv),
        *settings,
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(lines)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "is not installed"
