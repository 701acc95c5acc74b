"""A text that ends espeak-ng costs itself and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from headrace.featurize.text import espeak, espeak_process, g2p
from headrace.store.errors import Rejected


@pytest.mark.parametrize("text", ["⣟", "⣿⣿"])
def test_a_text_that_ends_espeak_is_refused_and_the_next_is_read(text: str) -> None:
    """A buffer overflows."""
    before = espeak.to_ipa("hello")
    with pytest.raises(Rejected, match="ar, breaks off at"):
        g2p.phonemise(text, "ar")
    assert espeak.to_ipa("hello") == before


def test_a_text_that_may_end_espeak_costs_nothing_else() -> None:
    """It reads memory that is not there, or is: that depends on what was read before."""
    before = espeak.to_ipa("hello")
    with contextlib.suppress(Rejected):
        g2p.phonemise("날씨芕दिनꩢgiornoيومденьيومดี²天氣", "hi")
    assert espeak.to_ipa("hello") == before


def test_what_is_refused_is_named() -> None:
    with pytest.raises(Rejected, match=r"espeak-ng, which reads ar, breaks off at '⣿{40}…': take it out"):
        espeak.to_ipa("⣿" * 50, "ar")


def test_a_process_that_is_killed_from_outside_costs_no_text() -> None:
    before = espeak.to_ipa("hello")
    (process,) = espeak_process._started
    os.kill(process.pid, signal.SIGKILL)
    assert espeak.to_ipa("hello") == before
    assert espeak_process._started != [process]


def test_signals_are_for_the_process_that_asks() -> None:
    espeak.to_ipa("hello")
    (process,) = espeak_process._started
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process.pid, number)
    assert espeak.to_ipa("hello world") and espeak_process._started == [process]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_one_of_its_own() -> None:
    here = espeak.to_ipa("Kowalczyk")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        there = pool.submit(espeak.to_ipa, "Kowalczyk")
        assert [espeak.to_ipa(f"number {n}") for n in range(50)] and there.result() == here
    with espeak_process._lock, ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(espeak.to_ipa, "Kowalczyk").result(timeout=60) == here


def test_it_ends_with_the_process_that_asks() -> None:
    code = (
        "import os; from headrace.featurize.text import espeak, espeak_process; espeak.to_ipa('hello')\n"
        "print(espeak_process._started[0].pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for _ in range(100):
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("it is still there after ten seconds")


def test_a_voice_reads_as_before_after_another_one_has() -> None:
    words = [("добрый день", "ru"), ("guten Tag", "de"), ("hello", "en-us"), ("bonjour", "fr")]
    alone = [espeak._to_ipa(text, voice, "_") for text, voice in words]
    assert [espeak._to_ipa(text, voice, "_") for text, voice in [*words, *words[::-1]]] == [*alone, *alone[::-1]]
    espeak.speak("hello", "en-us+f2")
    assert espeak._to_ipa("hello", "en-us", "_") == alone[2]
