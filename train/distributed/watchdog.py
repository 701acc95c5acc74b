"""The watchdog of a job of several processes: it names the rank that stands still, and ends the job.

Each rank has two threads beside the one that trains. One tells the other ranks where this one is, through a side
channel. It may block, since the process that keeps the channel may be the one that is stopped. The other thread judges:
where this rank makes no progress, it asks which one keeps the job waiting. The first rank to come to a verdict prints
it. All write their stacks into RUN/hangs/ and leave with `STALL_EXIT`, so that a launcher starts the job again.

Time counts only while a process runs: a job that was suspended as a whole has not stood still.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from headrace.store.storage.local import atomic_file, make_folder
from headrace.train.distributed.phases import ENDED, SAVING, WAITING, Phases
from headrace.train.distributed.side_channel import LOST, STALL, JobEnd, SideChannel, Silence
from headrace.train.distributed.stalls import RankState, find_stalled

T = TypeVar("T")

STALL_EXIT = 75
"""Exit code of a job that stood still: EX_TEMPFAIL of sysexits.h, since it may go on when it is started again."""
TIMEOUT_S = 60.0
"""Seconds without progress, where no others are given."""
GRACE = 10
"""Time-outs that long operations may take: a start, the first steps, an utterance of a validation, a checkpoint."""
LEAVE_S = 5.0
"""Seconds in which a rank may leave by itself when another one has failed."""


class Watchdog:
    """Watches one rank of a job, and judges the others where it waits for them."""

    def __init__(
        self,
        channel: SideChannel,
        names: Sequence[str],
        rank: int,
        phases: Phases,
        *,
        keeper: int | None = 0,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """
        Args:
            names: of each rank, with its host.
            keeper: the rank whose process keeps the channel; None if it is the launcher.
            leave: ends this process with an exit code.
        """
        self._channel, self._names, self._rank, self._phases = channel, names, rank, phases
        self._keeper, self._leave = keeper, leave
        self.end: JobEnd | None = None
        self.set_limits(TIMEOUT_S, None)
        self._idle_s = self._unanswered_s = self._ending_s = 0.0
        self._changes = self._answers = self._answers_seen = 0
        self._urgent = self._channel_lost = False
        self._states: list[tuple[int, RankState]] = []
        self._silence = Silence()
        self._stopping = threading.Event()

    def set_limits(self, timeout_s: float, folder: Path | None) -> None:
        """Set the seconds without progress after which a rank stands still, and the folder for stacks."""
        self._timeout_s, self._folder = timeout_s, folder
        self.period_s = min(1.0, timeout_s / 10)

    def start(self) -> None:
        """Begin to watch."""
        self._channel.tell(self._own_state())
        for work in (self._tell, self._watch):
            threading.Thread(target=work, name=f"watchdog-{work.__name__}", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer. The others learn that this rank has ended."""
        self._phases.move(ENDED)
        _attempt(lambda: self._channel.tell(self._own_state()), 1.0)
        self._stopping.set()

    def offer_end(self, end: JobEnd) -> JobEnd | None:
        """End the job for this reason. Returns the one that was first; None if the channel does not answer."""
        first = None if self._channel_lost else _attempt(lambda: self._channel.offer_end(end), 3.0)
        self.end = first or self.end or end
        return first

    def find_end(self) -> JobEnd:
        """Return why the connection to another rank broke: what that one said, or that it is gone."""
        self._urgent = True
        deadline = time.monotonic() + LEAVE_S
        gone: list[RankState] = []
        while not (self.end or self._channel_lost or gone) and time.monotonic() < deadline:
            time.sleep(self.period_s / 4)
            silent_s = max(2.0, 3 * self.period_s)
            gone = [s for s in self._heard() if s.phase != ENDED and s.silent_s > silent_s]
        if self.end is not None:
            return self.end
        return self._give_reason(JobEnd(kind=LOST, line=self._describe_lost(gone), code=1))

    def _own_state(self) -> RankState:
        at = self._phases
        return RankState(
            rank=self._rank,
            step=at.step,
            phase=at.phase,
            collectives=at.collectives,
            idle_s=self._idle_s,
            limit_s=self._limit_s(),
            device=at.device,
        )

    def _limit_s(self) -> float:
        return self._phases.limit(self._timeout_s, GRACE * self._timeout_s)

    @property
    def _silence_s(self) -> float:
        """Seconds after which a rank that says nothing does not answer."""
        return 0.75 * self._timeout_s

    @property
    def _listening(self) -> bool:
        """Whether this rank asks what the others do: early enough to tell at the time-out who has been silent."""
        return self._urgent or self._idle_s > self._timeout_s / 5

    def _heard(self) -> list[RankState]:
        """Return the states of all ranks, with how long each has been silent."""
        return [replace(state, silent_s=self._silence.of(state.rank)) for _, state in self._states]

    def _tell(self) -> None:
        """Tell where this rank is, and listen why the job ends, until the channel is gone."""
        while not self._stopping.wait(self.period_s):
            try:
                self._channel.tell(self._own_state())
                self.end = self.end or self._channel.read_end()
                if self._listening:
                    self._states = self._channel.read_states()
            except RuntimeError:
                self._channel_lost = True
                return
            self._answers += 1

    def _watch(self) -> None:
        """Judge once a period. Of the time in which this process was stopped, no more than two periods count."""
        before = time.monotonic()
        while not self._stopping.wait(self.period_s):
            now = time.monotonic()
            self._advance(min(now - before, 2 * self.period_s))
            before = now
            self._judge()

    def _advance(self, seconds: float) -> None:
        """Count seconds in which this process was running."""
        self._idle_s = self._idle_s + seconds if self._changes == self._phases.changes else 0.0
        self._changes = self._phases.changes
        answered = self._answers != self._answers_seen
        self._unanswered_s = 0.0 if answered else self._unanswered_s + seconds
        self._answers_seen = self._answers
        if self.end is not None:
            self._ending_s += seconds
        if self._listening:
            self._silence.listen(self._states, seconds)
        else:
            self._states, self._silence = [], Silence()

    def _judge(self) -> None:
        """Leave if the job has ended, and end it if a rank stands still."""
        limit_s = self._limit_s()
        if self.end is not None:
            waits = LEAVE_S if self._phases.phase != SAVING else limit_s
            if self.end.kind == STALL or self._ending_s > waits:
                self._leave_job(self.end)
        elif not self._urgent and self._idle_s > self._timeout_s and (line := self._find_stalled()):
            end = JobEnd(kind=STALL, line=line + self._where_stacks(), code=STALL_EXIT)
            self._leave_job(self._give_reason(end))

    def _find_stalled(self) -> str:
        """Return a line that names the ranks that stand still; empty if none does."""
        if self._channel_lost or self._unanswered_s > self._silence_s:
            waits = self._phases.phase in WAITING or self._idle_s > self._limit_s()
            return f"{self._keeper_name()} does not answer, and this rank waits" if waits else ""
        verdict = find_stalled(self._heard(), silence_s=self._silence_s)
        return verdict.describe(self._names) if verdict else ""

    def _give_reason(self, end: JobEnd) -> JobEnd:
        """End the job for this reason unless there is one already, and print it if no other rank does."""
        first = None if self._unanswered_s > self._silence_s else self.offer_end(end)
        if first is None:  # the channel cannot tell who was first
            self.end = end
        speaks = self._rank == (1 if self._keeper == 0 else 0) if first is None else first.token == end.token
        if speaks:
            print_line(f"Error ({self._names[self._rank]}): {end.line}")
        return first or end

    def _describe_lost(self, gone: Sequence[RankState]) -> str:
        if self._channel_lost:
            return f"{self._keeper_name()} has ended, and the job with it."
        if not gone:
            return "The connection to another rank broke."
        ranks = "; ".join(f"{self._names[s.rank]}, {s.device}, in {s.phase} at step {s.step + 1}" for s in gone)
        return f"A rank ended without a message: {ranks}. It was killed, or ran out of memory."

    def _keeper_name(self) -> str:
        if self._keeper is not None:
            return self._names[self._keeper]
        return f"The launcher on {os.environ.get('MASTER_ADDR', 'the first host')}"

    def _where_stacks(self) -> str:
        return f". Stacks of all ranks: {self._folder}" if self._folder else ""

    def _leave_job(self, end: JobEnd) -> None:
        """End this process, and if a rank stands still, write the stacks of this one first."""
        if end.kind == STALL:
            _attempt(self._write_stacks, LEAVE_S)
            # Until the others have heard of it: the first to leave breaks the connections that their stacks wait in.
            time.sleep(max(1.0, 3 * self.period_s))
        _attempt(_flush, 1.0)
        self._leave(end.code)

    def _write_stacks(self) -> None:
        """Write the stacks of all threads of this process into the folder for them."""
        if self._folder is None:
            return
        at = self._phases
        make_folder(self._folder)
        with atomic_file(self._folder / f"step-{at.step + 1:08d}-rank-{self._rank}.txt") as file:
            name = f"{self._names[self._rank]}, {at.device}"
            file.write(f"{name}, in {at.phase} at step {at.step + 1} for {self._idle_s:.0f} s\n\n".encode())
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def _attempt(function: Callable[[], T], seconds: float) -> T | None:
    """Return what a function returns, or None if it fails or takes longer than this."""
    results: list[T] = []

    def run() -> None:
        with suppress(RuntimeError, OSError):
            results.append(function())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def print_line(line: str) -> None:
    """Print a line on stderr, past the buffers of a thread that may hold their locks."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
