"""A process that decodes and does nothing else, so that a decoder which crashes or hangs costs one recording.

It is started by name, not forked and not through multiprocessing, which lets no worker of Dask have children. It loads
no torch, and is there in 0.2 s. What it is told comes pickled, from us; what it answers is plain bytes, since a
recording may have made a decoder do anything:

    int64 n >= 0, then n int16      the waveform
    int64 n < 0, then -n bytes      the reason for a reject, UTF-8
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, cast

import numpy as np

from headrace.featurize.audio.decode import Decoder
from headrace.featurize.audio.recording import Limits
from headrace.store.errors import HeadraceError, Rejected
from headrace.store.schema import Utterance

TICK_S = 0.25
"""An allowance is counted in ticks of a process that runs: to one that is stopped, by Ctrl-Z say, no time passes."""
_READY = struct.pack("<q", 0)
_TRIES = 3
_FROM_OUTSIDE = {-getattr(signal, name, 0) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")} - {0}
"""Exit codes of a process that another one ended: no decoder ends like this by itself."""
_CHILD = "from headrace.featurize.audio.subprocess_decoder import serve; serve()"


_Answers: TypeAlias = "SimpleQueue[np.ndarray | Rejected | None]"


class Child:
    """The process, begun anew whenever it has died."""

    def __init__(self, decoder: Decoder, sample_rate: int, level: str, limits: Limits) -> None:
        """
        Args:
            decoder: an importable function.
        """
        self._job = decoder, sample_rate, level, limits
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: _Answers = SimpleQueue()

    def decode(self, root: Path, utterance: Utterance) -> np.ndarray | Rejected:
        """(samples,) int16, or why there are none.

        Args:
            root: of the corpus.
        """
        for _ in range(_TRIES):
            process = self._process = self._process or self._started()
            answer = self._answer(process, root, utterance)
            if answer is not None:
                return answer
            self.close()
            if process.returncode not in _FROM_OUTSIDE:
                return Rejected("decode", f"its decoder crashes on it ({_cause(process.returncode)})")
        return Rejected("decode", f"its decoder was killed {_TRIES} times: is there too little memory for it?")

    def close(self) -> None:
        """End the process, if it has not ended already."""
        if self._process is not None:
            with suppress(BrokenPipeError), self._process as process:
                process.kill()  # which is nothing to one that has been waited for
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        _send(process, self._job)
        if _output(process).read(len(_READY)) != _READY:
            raise HeadraceError(f"A process to decode in does not start: {_cause(process.wait())}.")
        self._answers = SimpleQueue()
        threading.Thread(target=_read_answers, args=(_output(process), self._answers), daemon=True).start()
        return process

    def _answer(
        self, process: subprocess.Popen[bytes], root: Path, utterance: Utterance
    ) -> np.ndarray | Rejected | None:
        """None where the process died."""
        _send(process, (root, utterance))
        allowance = left = self._limits.allowance(utterance)
        while left > 0:
            try:
                answer = self._answers.get(timeout=TICK_S)
            except Empty:
                left -= TICK_S
                continue
            if answer is None:
                process.wait()
            return answer
        self.close()
        return Rejected("decode", f"its decoder takes more than {allowance:.0f} s")


def _output(process: subprocess.Popen[bytes]) -> BufferedReader:
    return cast(BufferedReader, process.stdout)


def _read_answers(output: BufferedReader, answers: _Answers) -> None:
    """Pass on what the process answers; None once it has died. A thread, since Windows waits for no pipe."""
    with suppress(ValueError):  # the pipe is closed
        while len(head := output.read(8)) == 8:
            (count,) = struct.unpack("<q", head)
            if count < 0:
                answers.put(Rejected("decode", output.read(-count).decode(errors="replace")))
                continue
            wave = np.empty(count, np.int16)
            if output.readinto(wave.data) < wave.nbytes:
                break
            answers.put(wave)
            del wave
    answers.put(None)


def _send(process: subprocess.Popen[bytes], message: Any) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is dead; that shows when it is to answer
        pickle.dump(message, process.stdin)
        process.stdin.flush()


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def serve() -> None:
    """The life of the process: decode what comes in on standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for whatever libraries print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the parent decides
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()
    decoder, *rest = messages.get()
    answers.write(_READY)
    while True:
        answers.flush()
        try:
            wave = decoder(*messages.get(), *rest)
        except Rejected as error:
            reason = error.reason.encode()
            answers.write(struct.pack("<q", -len(reason)) + reason)
        else:
            answers.write(struct.pack("<q", len(wave)))
            answers.write(wave.data)


def _receive(messages: SimpleQueue[Any]) -> None:
    """Also notices at once that the parent is gone, whatever the decoder is at."""
    # Not from sys.stdin: a process that ends in a regular way, by an error say, would wait for it.
    with suppress(EOFError), open(os.dup(0), "rb") as source:
        while True:
            messages.put(pickle.load(source))
    os._exit(0)
