"""The folder of a run: one run at a time writes it, and none where anything else lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headrace.store.errors import RunBusy, RunError, UsageError
from headrace.store.names import LOCK_FILE
from headrace.store.storage.local import DRAFT_FILE, clear_drafts, folder_lock, make_folder
from headrace.train import distributed
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.checkpoints.copies import CHECKPOINTS, copies_of
from headrace.train.config import config_path, read_config
from headrace.train.launcher import launched_elastically

HANGS = "hangs"
EARLIER_START_S = 60.0
"""Seconds that a process waits under a launcher for one that an earlier start has left. torchrun kills what is stopped
after 30 s; where a machine is gone, a network file system releases its locks after some time."""


@contextmanager
def run_folder(out: Path, *, resume: bool, log: Callable[[str], object], copied_to: str = "") -> Iterator[None]:
    """Hold the folder of a run for as long as the context lasts; on every rank, though only the first one locks it.

    The lock ends with the process of the first rank, however that ends. A folder that got no config.json is left as it
    was found.

    Args:
        log: receives a message while another process is waited for, or when the run is restored.
        copied_to: where its checkpoints are copied, as `checkpoint_to`. With `resume`, a folder without a checkpoint is
            restored from there.
    Raises:
        UsageError: `out` is a file, or a folder that holds other things than a run. Nothing is written then.
        RunBusy: another process is writing it.
        RunError: it, or the place of its copies, holds a run already, or with `resume` none.
        StorageError, OSError: the place of its copies cannot be reached.
    """
    with ExitStack() as stack:
        distributed.on_first_rank(lambda: stack.enter_context(_locked(out, resume, log, copied_to)))
        yield


@contextmanager
def _locked(out: Path, resume: bool, log: Callable[[str], object], copied_to: str) -> Iterator[None]:
    """Check a folder, lock it, clear what killed runs left in it, and restore it where that is due."""
    copies = copies_of(out, copied_to)
    restoring = resume and copies is not None and not Checkpoints(out / CHECKPOINTS).steps() and bool(copies.steps())
    _check(out, resume and not restoring)
    if copies is not None and not resume:
        copies.check_unused()
    made = not out.exists()
    make_folder(out)
    try:
        with _lock(out, log):
            _check(out, resume and not restoring)  # another run may just have begun and ended here
            clear_drafts(out)
            clear_drafts(out / CHECKPOINTS)
            clear_drafts(out / HANGS)
            try:
                if restoring and copies is not None:
                    copies.restore(log)
                yield
            finally:
                if os.listdir(out) == [LOCK_FILE]:
                    (out / LOCK_FILE).unlink()
    finally:
        if made and not os.listdir(out):
            out.rmdir()


@contextmanager
def _lock(out: Path, log: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of a folder. Under a launcher, wait for a process of an earlier start that has it."""
    with ExitStack() as held:
        try:
            held.enter_context(folder_lock(out, RunError, busy=RunBusy))
        except RunBusy:
            if not launched_elastically():
                raise
            log(f"a process of an earlier start still holds {out}: waiting for its end, up to {EARLIER_START_S:.0f} s")
            held.enter_context(folder_lock(out, RunError, busy=RunBusy, wait_s=EARLIER_START_S))
        yield


def _check(out: Path, resume: bool) -> None:
    """Check that a run may begin, or be resumed, in a folder. Writes nothing.

    A run that was stopped before its first checkpoint may be started again.
    """
    if resume:
        if not Checkpoints(out / CHECKPOINTS).steps():
            if not config_path(out).exists():
                raise RunError(f"{out} holds no run to resume: leave out --resume to start one.")
            read_config(out)
        return
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: give the run a folder by --out.")
    names = sorted(os.listdir(out)) if out.exists() else []
    names = [name for name in names if name != LOCK_FILE and not DRAFT_FILE.fullmatch(name)]
    if not names:
        return
    if Checkpoints(out / CHECKPOINTS).steps():
        raise RunError(f"{out} holds a run: continue it with --resume, or choose another --out.")
    if "zarr.json" in names:
        raise UsageError(f"{out} is a store: give the run a folder of its own by --out.")
    try:
        read_config(out)
    except RunError:
        raise UsageError(
            f"{out} is not empty and holds no run ({names[0]!r} is there): give a new or an empty folder by --out."
        ) from None
