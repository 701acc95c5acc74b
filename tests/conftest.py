import os
from pathlib import Path

import pytest

# Before torch is loaded: threads of an idle OpenMP loop would spin, and a test beside a busy process take ten times as
# long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference fixtures made with upstream GPT-SoVITS; see README, "Testing"."""
    folder = os.environ.get("HEADRACE_GOLDEN")
    if not folder:
        pytest.skip("HEADRACE_GOLDEN is not set: parity with upstream's own numbers is not checked")
    assert Path(folder).is_dir(), f"HEADRACE_GOLDEN={folder} is not a folder"
    return Path(folder).resolve()
