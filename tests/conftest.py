import os
import signal
from pathlib import Path

import pytest

# Before torch is loaded. The last bits of a training step depend on the number of threads, and Dask, once a test has
# started it, sets this for all processes to come: so it is set for all of them from the beginning. One thread is also
# the fastest where processes share two cores, since idle OpenMP threads spin.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference fixtures made with upstream GPT-SoVITS; see docs/installation.md, "Testing"."""
    folder = os.environ.get("HEADRACE_GOLDEN")
    if not folder:
        pytest.skip("HEADRACE_GOLDEN is not set: parity with upstream's own numbers is not checked")
    assert Path(folder).is_dir(), f"HEADRACE_GOLDEN={folder} is not a folder"
    return Path(folder).resolve()


def pytest_configure() -> None:
    """A shell without job control has what it starts in the background ignore Ctrl-C, and so all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
