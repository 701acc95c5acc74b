"""Decode in a child process, so that a decoder which crashes or hangs costs only one recording.

The child is a new interpreter. It is not forked, and not a process of multiprocessing, whose daemonic workers, such as
Dask's, cannot have children. It does not load torch and starts in 0.2 s. Requests are pickled. Results are plain bytes
and not pickled, since a malicious recording may have taken over the decoder:

    int64 n >= 0, int64, then n int16   the number of dead channels, and the waveform
    int64 n < 0, then -n bytes          the reason for a reject, UTF-8
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

from headrace.featurize.audio.decode import Decoded, Decoder
from headrace.featurize.audio.recording import Limits
from headrace.store.errors import HeadraceError, Rejected, rejecting
from headrace.store.schema import Utterance

POLL_INTERVAL_S = 0.25
"""Timeouts are counted in intervals in which this process runs. None pass while it is suspended, as by Ctrl-Z."""
_READY = struct.pack("<q", 0)
_COUNTS = struct.Struct("<qq")
"""Of dead channels and of clipped samples."""
_MAX_ATTEMPTS = 3
_MAX_REASON_BYTES = 1 << 16
_MACHINE_FAULT_EXIT_CODE = 75
"""Exit code of a child that a fault of the machine ended, such as too little memory (`EX_TEMPFAIL` of sysexits.h)."""
_KILLED_EXIT_CODES = {-getattr(signal, name, 0) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")} - {0}
"""Exit codes of a process that was ended by another one: a crash of the decoder does not end with these signals."""
_CHILD_CODE = "from headrace.featurize.audio.subprocess_decoder import serve; serve()"

_Results: TypeAlias = "SimpleQueue[Decoded | Rejected | None]"


class DecoderProcess:
    """A child process that decodes recordings. It is started again whenever it has died."""

    def __init__(self, decoder: Decoder, sample_rate: int, level: str, limits: Limits) -> None:
        """Prepare to decode; the process starts with the first recording.

        Args:
            decoder: an importable function.
            sample_rate: of the results, in Hz.
            level: level normalisation.
            limits: maximum duration and decoding time.
        """
        self._settings = decoder, sample_rate, level, limits
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._results: _Results = SimpleQueue()

    def decode(self, root: Path, utterance: Utterance) -> Decoded | Rejected:
        """Return the waveform, or the reason why the recording is rejected.

        Args:
            root: of the corpus.
            utterance: to decode.
        """
        for _ in range(_MAX_ATTEMPTS):
            process = self._process = self._process or self._start()
            result = self._request(process, root, utterance)
            if result is not None:
                return result
            self.close()
            if process.returncode == _MACHINE_FAULT_EXIT_CODE:
                raise HeadraceError(
                    f"This machine has too little memory, or too few free files, for {utterance.audio}."
                )
            if process.returncode not in _KILLED_EXIT_CODES:
                return Rejected("decode", f"its decoder crashes on it ({_describe_exit(process.returncode)})")
        return Rejected("decode", f"its decoder was killed {_MAX_ATTEMPTS} times: is there too little memory for it?")

    def close(self) -> None:
        """End the process if it is running."""
        if self._process is not None:
            with suppress(BrokenPipeError), self._process as process:
                process.kill()  # has no effect on a process that has been waited for
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD_CODE],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        _send(process, self._settings)
        if _output(process).read(len(_READY)) != _READY:
            raise HeadraceError(f"The decoder's process does not start: {_describe_exit(process.wait())}.")
        self._results = SimpleQueue()
        _, sample_rate, _, limits = self._settings
        most = int((limits.max_duration_s + 1) * sample_rate) + 1
        threading.Thread(target=_read_results, args=(_output(process), self._results, most), daemon=True).start()
        return process

    def _request(self, process: subprocess.Popen[bytes], root: Path, utterance: Utterance) -> Decoded | Rejected | None:
        """Decode in the process. Return None if it died."""
        _send(process, (root, utterance))
        timeout_s = remaining_s = self._limits.decode_timeout_s(utterance)
        while remaining_s > 0:
            try:
                result = self._results.get(timeout=POLL_INTERVAL_S)
            except Empty:
                remaining_s -= POLL_INTERVAL_S
                continue
            if result is None:
                process.wait()
            return result
        self.close()
        return Rejected("decode", f"its decoder takes more than {timeout_s:.0f} s")


def _output(process: subprocess.Popen[bytes]) -> BufferedReader:
    return cast(BufferedReader, process.stdout)


def _read_results(output: BufferedReader, results: _Results, most: int) -> None:
    """Put the results of the process into a queue, and None once it has died, or sends more than `most` samples.

    Runs in a thread, since Windows cannot wait for a pipe with a timeout.
    """
    with suppress(ValueError):  # the pipe is closed
        while len(header := output.read(8)) == 8:
            (count,) = struct.unpack("<q", header)
            if not -_MAX_REASON_BYTES <= count <= most:
                break
            if count < 0:
                results.put(Rejected("decode", output.read(-count).decode(errors="replace")))
                continue
            counts, wave = output.read(_COUNTS.size), np.empty(count, np.int16)
            if len(counts) < _COUNTS.size or output.readinto(wave.data) < wave.nbytes:
                break
            results.put(Decoded(wave, *_COUNTS.unpack(counts)))
            del wave
    results.put(None)


def _send(process: subprocess.Popen[bytes], message: Any) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the process is dead, which is noticed when its result is read
        pickle.dump(message, process.stdin)
        process.stdin.flush()


def _describe_exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def serve() -> None:
    """Run the child process: decode the requests on standard input until it is closed."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not write into the results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    requests: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    decoder, *settings = requests.get()
    results.write(_READY)
    while True:
        results.flush()
        try:
            with rejecting("decode"):
                wave, *counts = decoder(*requests.get(), *settings)
        except Rejected as error:
            reason = error.reason.encode(errors="backslashreplace")[:_MAX_REASON_BYTES]
            results.write(struct.pack("<q", -len(reason)) + reason)
        except (HeadraceError, MemoryError, OSError):
            os._exit(_MACHINE_FAULT_EXIT_CODE)
        else:
            results.write(struct.pack("<q", len(wave)) + _COUNTS.pack(*counts))
            results.write(wave.data)


def _receive(requests: SimpleQueue[Any]) -> None:
    """Receive requests. End the process as soon as the parent is gone, even while it is decoding."""
    # Does not read sys.stdin: a process that exits normally, after an error for example, would wait for its lock.
    with suppress(EOFError), open(os.dup(0), "rb") as source:
        while True:
            requests.put(pickle.load(source))
    os._exit(0)
