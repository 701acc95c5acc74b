import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from headrace.store import layout, rejects
from headrace.store.errors import StoreError
from headrace.store.integrity.verify import check_sums
from headrace.store.library_settings import keep_compiled_kernels_private
from headrace.store.root_attributes import read_attributes
from headrace.store.storage import StoragePath

# Before torch is loaded. The last bits of a training step depend on the number of threads, and Dask, once a test has
# started it, sets this for all processes to come: so it is set for all of them from the beginning. One thread is also
# the fastest where processes share two cores, since idle OpenMP threads spin.
os.environ["OMP_NUM_THREADS"] = "1"

# What commands keep of archives is not that of the user who runs the tests; what torch compiled may be.
keep_compiled_kernels_private()
_CACHES = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _CACHES.name

TESTS = Path(__file__).parent


SLOW = {
    "benchmarks/test_demo_corpus.py",
    "compatibility/test_made_before.py",
    "docs/test_documented_commands.py",
    "featurize/audio/test_malformed_files.py",
    "featurize/corpus/test_archives_in_buckets.py",
    "featurize/exchange/test_gpt_sovits_dir.py",
    "featurize/features/test_network_features.py",
    "featurize/forced_alignment/test_hmm_aligner.py",
    "featurize/pipeline/test_add_features.py",
    "featurize/pipeline/test_build.py",
    "featurize/pipeline/test_corpus_growth.py",
    "featurize/pipeline/test_killed_builds.py",
    "featurize/pipeline/test_multilingual_build.py",
    "featurize/pipeline/test_scale.py",
    "featurize/quality/test_dnsmos.py",
    "featurize/scheduling/test_dask_cluster.py",
    "hostile/test_neighbours.py",
    "featurize/spectral/test_cpu_kernel.py",
    "featurize/spectral/test_engines.py",
    "store/test_s3.py",
    "test_corpus_to_both_models.py",
    "test_packaging.py",
    "test_portability.py",
    "train/checkpoints/test_upstream_files.py",
    "train/measure/test_bench.py",
    "train/measure/test_forecast.py",
    "train/models/test_sampling.py",
    "train/models/test_sovits.py",
    "train/monitoring/test_monitoring.py",
    "train/stages/test_activations_8bit.py",
    "train/stages/test_compiled_blocks.py",
    "train/stages/test_gpt_stage.py",
    "train/stages/test_simulated_cuda.py",
    "train/stages/test_sovits_stage.py",
    "train/stages/test_updates.py",
    "train/trainer/test_both_stages.py",
    "train/trainer/test_distributed.py",
    "train/trainer/test_resume.py",
    "train/trainer/test_run.py",
}
"""Modules that start clusters or other processes, train for more than moments, or load large libraries or networks.

`make test-fast` leaves them out, and everything in `hostile/`.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow modules as slow."""
    for item in items:
        path = item.path.relative_to(TESTS)
        if path.as_posix() in SLOW or path.parts[0] == "hostile":
            item.add_marker(pytest.mark.slow)


_WRONG: list[str] = []
"""What was found since the last test."""
_LEFT_OUT: list[Path] = []
"""Folders of tests that make stores whose utterances do not sum."""


def _wrong_sums(root: StoragePath) -> list[str]:
    """Return what is wrong with the sum of a store; nothing if it is incomplete, or cannot be read."""
    try:
        attributes, numbers = read_attributes(root), layout.sealed_parts(root)
        complete = len(numbers) == attributes["plan"]["parts"]
        problems = list(check_sums(root, attributes, numbers)) if complete else []
    except (StoreError, OSError):
        return []
    return [f"{root}: {problem.what}" for problem in problems if not problem.drop]


@contextmanager
def _checking_builds() -> Iterator[None]:
    """Check each store whose list of rejects is written, which is what a build does when its parts are sealed."""
    real = rejects.write_derived

    def write_and_check(root: StoragePath) -> None:
        real(root)
        _WRONG.extend(_wrong_sums(root))

    with mock.patch.object(rejects, "write_derived", write_and_check):
        yield


def _find_wrong(folder: Path) -> list[str]:
    """Return what is wrong with the sums of all stores below a folder."""
    wrong: list[str] = []
    for place, folders, files in os.walk(folder):
        if Path(place) in _LEFT_OUT:
            folders.clear()
        elif "zarr.json" in files and "parts" in folders:
            folders.clear()
            wrong += _wrong_sums(Path(place))
    return wrong


@pytest.fixture(autouse=True)
def _sums_hold(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check that stored + rejected = listed for the stores that the test, or a fixture for it, built by now."""
    is_checked = request.node.get_closest_marker("unaccounted") is None
    if not is_checked:
        _LEFT_OUT.append(request.getfixturevalue("tmp_path"))
    yield
    wrong, _WRONG[:] = list(_WRONG), []
    assert not (wrong and is_checked), "\n".join(wrong)


@pytest.fixture(scope="session", autouse=True)
def _all_sums_hold(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Check builds of this process when they end, and in the end the stores that all tests left, whoever built them."""
    with _checking_builds():
        yield
    wrong = _find_wrong(tmp_path_factory.getbasetemp())
    assert not wrong, "\n".join(wrong)


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
