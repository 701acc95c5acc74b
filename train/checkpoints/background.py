"""Checkpoints that are written while training goes on.

The state of a run is copied to the memory of the host, which is all that a step waits for. A thread writes the copy:
one checkpoint at a time, and the last one is waited for when the run ends. Another thread copies what was written to a
second place, if there is one: the newest checkpoint each time, however many were written meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

import torch

from headrace.store.errors import HeadraceError
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.checkpoints.copies import CheckpointCopies
from headrace.train.distributed.phases import PHASES, SAVING


class BackgroundCall:
    """A thread that makes one call at a time. It does not keep the process from ending."""

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._fault: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a call has not yet returned."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, call: Callable[[], object]) -> None:
        """Make a call, once the one before it has returned. Raises what that one raised."""
        self.wait()
        self._thread = Thread(target=self._run, args=(call,), name="checkpoints", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the last call raised, if it has returned. Once."""
        if not self.busy:
            fault, self._fault, self._thread = self._fault, None, None
            if fault is not None:
                raise fault

    def wait(self) -> None:
        """Wait until the last call has returned. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
        self.check()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as fault:  # noqa: BLE001 - it is raised by the thread that checks or waits
            self._fault = fault


class BackgroundCopies:
    """A thread that keeps the copies of a run up to date. It does not keep the process from ending."""

    def __init__(self, copies: CheckpointCopies, log: Callable[[str], object]) -> None:
        """
        Args:
            log: is told why a checkpoint could not be copied, by the thread that checks or waits.
        """
        self._copies, self._log = copies, log
        self._changed = Condition()
        self._due: tuple[int, Collection[int]] | None = None
        self._busy = self._started = False
        self._faults: list[BaseException] = []

    def request(self, step: int, kept: Collection[int]) -> None:
        """Copy the checkpoint of a step, and what `CheckpointCopies.update` does beside, as soon as may be."""
        with self._changed:
            self._due = step, kept
            self._changed.notify_all()
            if not self._started:
                self._started = True
                Thread(target=self._run, name="checkpoint-copies", daemon=True).start()

    def check(self) -> None:
        """Tell why checkpoints could not be copied. That is tried again with the next one."""
        with self._changed:
            faults, self._faults = self._faults, []
        for fault in faults:
            if not isinstance(fault, HeadraceError | OSError):
                raise fault
            reason = getattr(fault, "strerror", None) or str(fault)
            self._log(f"checkpoints are not copied to {self._copies.place} ({reason}): tried again with the next one")

    def wait(self) -> None:
        """Wait until all is copied, or could not be."""
        with self._changed:
            while self._due is not None or self._busy:
                self._changed.wait(1.0)
                PHASES.beat()  # how long a copy may take is known to the client of its storage
        self.check()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._due is not None)
                assert self._due is not None
                (step, kept), self._due, self._busy = self._due, None, True
            try:
                self._copies.update(step, kept)
            except BaseException as fault:  # noqa: BLE001 - it is told by the thread that checks or waits
                with self._changed:
                    self._faults.append(fault)


class BackgroundCheckpoints:
    """Saves checkpoints in a thread. Use it in a `with` statement: the last one is whole when that ends."""

    def __init__(self, checkpoints: Checkpoints, copies: BackgroundCopies | None = None) -> None:
        """
        Args:
            copies: are kept up to date with the checkpoints.
        """
        self._checkpoints, self._copies = checkpoints, copies
        self._writing = BackgroundCall()

    def save(self, step: int, state: dict[str, Any], *, before: Callable[[], Collection[int]]) -> None:
        """Copy a state, and begin to write it as `Checkpoints.save` does, when the checkpoint before it is written.

        Args:
            before: is called by the thread first; what it raises is raised as a failure to write. It returns the steps
                whose checkpoints stay.
        Raises:
            RunError: the one before it could not be written.
        """
        self._writing.wait()
        copied = copied_to_host(state)

        def write() -> None:
            kept = before()
            self._checkpoints.save(step, copied, kept)
            if self._copies is not None:
                self._copies.request(step, kept)

        self._writing.start(write)

    def check(self) -> None:
        """Raise RunError if the last checkpoint could not be written. Does not wait for it."""
        self._writing.check()
        if self._copies is not None:
            self._copies.check()

    def wait(self) -> None:
        """Wait until the last checkpoint is written and copied. Raises RunError if it could not be written."""
        with PHASES.enter(SAVING):
            self._writing.wait()
            if self._copies is not None:
                self._copies.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.wait()
            return
        with suppress(Exception):  # the first error is the one to report
            if issubclass(kind, KeyboardInterrupt):  # the second signal: do not wait for a network
                self._writing.wait()
            else:
                self.wait()


def copied_to_host(state: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples of tensors, all on the CPU, that shares no memory with them."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # keeps the type, and the versions of modules that a state of theirs carries
        copied.update({key: copied_to_host(value) for key, value in state.items()})
        return copied
    if isinstance(state, list | tuple):
        return type(state)(copied_to_host(value) for value in state)
    return state
