import os
import signal
from pathlib import Path

import pytest

# Before torch is loaded. The last bits of a training step depend on the number of threads, and Dask, once a test has
# started it, sets this for all processes to come: so it is set for all of them from the beginning. One thread is also
# the fastest where processes share two cores, since idle OpenMP threads spin.
os.environ["OMP_NUM_THREADS"] = "1"

TESTS = Path(__file__).parent


SLOW = {
    "benchmarks/test_demo_corpus.py",
    "compatibility/test_made_before.py",
    "docs/test_documented_commands.py",
    "featurize/audio/test_malformed_files.py",
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
