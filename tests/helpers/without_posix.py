"""Hides from Headrace's modules what only POSIX systems have, so that Linux shows what Windows would.

`install` replaces `__import__`. A module of Headrace that imports `fcntl`, `resource` and the like gets an ImportError.
One that imports `os`, `sys`, `signal`, `mmap`, `ctypes` or `subprocess` gets a view of it without the hidden names.
The system is called `nt` and `win32` there. Folders cannot be opened, files that were opened for reading cannot be
flushed, and child processes inherit no descriptors.

Only Headrace's own code is affected. torch, numba, zarr and Dask have a Windows build of their own, and the standard
library that runs here is that of Linux. Links are the exception: nobody may make any.

As `sitecustomize` on PYTHONPATH it is active in every process that a test starts.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NoReturn

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
"""Modules that Windows does not have."""
NAMES: dict[str, tuple[str, ...]] = {
    "mmap": ("MADV_", "MAP_", "PROT_"),
    "os": tuple(
        "O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_SYNC "
        "POSIX_ RTLD_ SCHED_ chown fchmod fchown fork forkpty getgid getgroups getloadavg geteuid getpgid getpgrp "
        "getpriority getsid getuid killpg lchown lockf memfd_create mkfifo mknod nice posix_ pread preadv pwrite "
        "pwritev register_at_fork sched_ sendfile setpriority setsid statvfs fstatvfs sync sysconf uname "
        "wait3 wait4".split()
    ),
    "select": ("epoll", "poll", "EPOLL"),
    "signal": tuple(
        "SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm "
        "pthread_ setitimer sigpending sigwait sigtimedwait siginterrupt".split()
    ),
    "socket": ("AF_UNIX",),
    "time": ("clock_gettime", "clock_settime", "pthread_getcpuclockid", "tzset"),
}
"""Beginnings of the names in modules that Windows has."""


def install() -> None:
    """Hide them from now on, in this process."""
    builtins.__import__ = _importing(builtins.__import__)
    os.symlink = os.link = _forbidden
    sys.addaudithook(_check_path)


def _importing(real: Callable[..., Any]) -> Callable[..., Any]:
    def load(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if globals is None or not str(globals.get("__name__", "")).startswith("headrace"):
            return real(name, globals, locals, fromlist, level)
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = real(name, globals, locals, fromlist, level)
        return _view(name) if name in NAMES or name in _REPLACED else module

    return load


class _View(types.ModuleType):
    """A module without some of its names, and with others replaced."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__dict__.update(_real=importlib.import_module(name), _replaced=_REPLACED.get(name, {}))

    def __getattr__(self, name: str) -> Any:
        if name in self._replaced:
            return self._replaced[name]
        if name.startswith(tuple(NAMES.get(self.__name__, ()))):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


_view = cache(_View)


def _forbidden(*_: Any, **__: Any) -> NoReturn:
    raise OSError(22, "A required privilege is not held by the client")


def _open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, flags, *rest, **more)


def _fsync(descriptor: int) -> None:
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    os.fsync(descriptor)


def _library(name: str | None, *rest: Any, **more: Any) -> ctypes.CDLL:
    if name is None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return ctypes.CDLL(name, *rest, **more)


class _Popen(subprocess.Popen[Any]):
    def __init__(self, *words: Any, **options: Any) -> None:
        _check_options(options)
        super().__init__(*words, **options)


def _run(*words: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    _check_options(options)
    return subprocess.run(*words, **options)


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("pass_fds", "preexec_fn", "start_new_session", "process_group", "umask", "user", "group"):
        if options.get(name):
            raise ValueError(f"{name} is not supported on Windows platforms")


_REPLACED: dict[str, dict[str, Any]] = {
    "ctypes": {"CDLL": _library},
    "os": {"name": "nt", "open": _open, "fsync": _fsync},
    "subprocess": {"Popen": _Popen, "run": _run},
    "sys": {"platform": "win32"},
}


def _check_path(event: str, arguments: tuple[Any, ...]) -> None:
    """Let Headrace open nothing below /proc and /dev."""
    if event != "open" or not str(arguments[0]).startswith(("/proc/", "/dev/fd/")):
        return
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")) in ("pathlib", "io", "os", "codecs", __name__):
        frame = frame.f_back
    if str(frame.f_globals.get("__name__")).startswith("headrace"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])
