"""Nothing that only POSIX has is needed to import Headrace, to build a store and to train on it.

Runs on any system. `tests.helpers.without_posix` hides from Headrace's own modules what Windows does not have; the
libraries below them keep it.
"""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace import cli, featurize, store, train
from headrace.store.integrity.verify import verify
from tests.helpers import malformed_files
from tests.helpers.corpora import make_tree

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for package in (store, featurize, train, cli)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of processes in which POSIX is hidden, and those that they start. An ffmpeg is on the PATH, if there is one."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(
        "from tests.helpers import without_posix\nwithout_posix.install()\n", encoding="utf-8"
    )
    if program := malformed_files.ffmpeg():
        (folder / "ffmpeg").symlink_to(program)
    path = os.pathsep.join((str(folder), os.environ["PATH"]))
    packages = os.pathsep.join((str(folder), str(ROOT), *sys.path))
    return os.environ | {"PATH": path, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *words: object) -> str:
    """What a Python process says."""
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that the command built with a local worker, of WAV, FLAC and, where there is an ffmpeg, M4A."""
    folder = tmp_path_factory.mktemp("portability")
    corpus, out = make_tree(folder / "corpus", 6, seconds=2.5), folder / "STORE"
    if malformed_files.ffmpeg():
        malformed_files.with_text(corpus / "z.m4a").write_bytes(malformed_files.converted("ipod"))
    features = ("--features", "wave,mfcc,phones,semantic", "--codes", 40, "--workers", 1)
    run(environment, "-m", "headrace.featurize", "build", corpus, "--out", out, *features)
    return out


def test_what_is_hidden_is_hidden(environment: dict[str, str]) -> None:
    code = """
import os
names = "os.fork os.pread os.O_NONBLOCK os.sysconf signal.SIGKILL signal.pthread_sigmask mmap.MADV_WILLNEED"
for name in names.split():
    scope = {"__name__": "headrace.some"}
    try:
        exec(f"import {name.split('.')[0]}; {name}", scope)
    except AttributeError:
        print("hidden")
for line in ("import fcntl", "from os import fork", "import resource"):
    try:
        exec(line, {"__name__": "headrace.some"})
    except ImportError:
        print("hidden")
assert os.fork and os.pread
"""
    assert run(environment, "-c", code).split() == ["hidden"] * 10


def test_every_module_is_imported(environment: dict[str, str]) -> None:
    assert len(MODULES) > 150
    run(environment, "-c", "".join(f"import {name}\n" for name in MODULES))


def test_a_store_is_built(built: Path) -> None:
    opened = store.open(built)
    assert len(opened) == 6 + (malformed_files.ffmpeg() is not None) and not list(verify(built))
    assert {"wave", "mfcc", "phones", "semantic"} <= opened.features.keys()


@pytest.mark.parametrize("stage", ["sovits", "gpt"])
def test_both_stages_train(environment: dict[str, str], built: Path, tmp_path: Path, stage: str) -> None:
    words = ("--stage", stage, "--preset", "tiny", "--max-steps", 2, "--batch-frames", 600, "--device", "cpu")
    run(environment, "-m", "headrace.train", "run", built, "--out", tmp_path / "RUN", *words)
    assert (tmp_path / "RUN" / "checkpoints" / "step-00000002.pt").exists()


def test_an_isolated_decoder_crashes_and_hangs(environment: dict[str, str]) -> None:
    code = """
from pathlib import Path
from headrace.featurize.audio import decode_pool, recording
from tests.helpers import malformed_files
utterances = [malformed_files.described(name) for name in ("a", "crash", "hang", "b")]
limits, decoder = recording.Limits(hang_timeout_s=1.0), malformed_files.crashing_decoder
how = dict(isolated=True, threads=1, limits=limits, decoder=decoder)
for utterance, wave in decode_pool.decode_utterances(Path(), utterances, 32_000, "none", **how):
    print(utterance.id, getattr(wave, "reason", "decoded"))
"""
    lines = run(environment, "-c", code).splitlines()
    assert re.fullmatch("a decoded,crash .*crashes on it.*,hang .*takes more than 1 s,b decoded", ",".join(lines)), (
        lines
    )
