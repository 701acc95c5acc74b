"""What libraries do on their own account: where they keep caches that are executed, and what they send to their makers.

Settings of the user, in the same variables, come first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path


def quiet_onnxruntime() -> None:
    """Keep onnxruntime from sending usage data to Microsoft and from numbering this machine. To be called before it is
    imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def keep_compiled_kernels_private() -> None:
    """Let torch.compile keep its kernels in a folder of this user alone. To be called before it compiles.

    By default they are in the folder for temporary files, under the user's name. Whoever makes that folder first has
    their code run.
    """
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(private_cache("torch"))


def private_cache(name: str) -> Path:
    """Make a folder that only this user can enter, in `headrace` in the folder for caches (XDG_CACHE_HOME, ~/.cache).

    Where that cannot be, or somebody else could write there, the folder is a temporary one of this process.
    """
    try:
        caches = _caches()
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _private(_private(caches / "headrace") / name)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        folder = Path(tempfile.mkdtemp(prefix="headrace-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _caches() -> Path:
    if os.name == "nt" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


def _private(folder: Path) -> Path:
    """Make a folder if it is not there. Raises PermissionError unless nobody but this user could write to it so far."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    writable = hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022)
    if writable or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(folder)
    folder.chmod(0o700)
    return folder
