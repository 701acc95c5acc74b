"""Where torchaudio is not installed, as in NVIDIA's PyTorch containers: what needs it says so, all else works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.featurize.features.speaker_vector import ERes2NetV2
from headrace.featurize.forced_alignment.ctc_aligner import CtcAlign, CtcConfidence
from headrace.store.errors import UsageError

IMPORT_ALL = """
import pkgutil, sys
sys.modules["torchaudio"] = None  # as `import` finds it where it is not installed
import headrace.cli, headrace.featurize, headrace.store, headrace.train
for package in (headrace.cli, headrace.featurize, headrace.store, headrace.train):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith((".__main__", ".dali")):
            __import__(module.name)
print(sum(name.startswith("headrace.") for name in sys.modules))
"""


@pytest.mark.slow
def test_all_modules_load() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


@pytest.mark.parametrize(
    "feature, option",
    [
        (ERes2NetV2(speaker=Path("nowhere")), "--speaker-encoder"),
        (CtcAlign(ctc=Path("nowhere")), "--ctc"),
        (CtcConfidence(ctc=Path("nowhere")), "--ctc"),
    ],
)
def test_what_needs_it_says_so(feature: ERes2NetV2 | CtcAlign, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(UsageError, match=rf"^{option} needs torchaudio: pip install 'headrace\[torchaudio\]'\.$"):
        feature.recipe({})
