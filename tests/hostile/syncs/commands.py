"""The commands whose syncs are checked, one after the other in one process, with marks around each.

    cd FOLDER; python -m tests.hostile.syncs.commands

They get relative paths. `featurize build` starts a cluster of its own, the others use one in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_command
from headrace.cli.train import main as train
from tests.helpers import commands, training_store
from tests.helpers.corpora import make_tree
from tests.hostile.faults import scenarios
from tests.hostile.syncs.trace import mark

STORE = Path("STORE")
VOICES = Path("VOICES")


def _featurize(*words: object) -> int:
    return scenarios.run(featurize, *words, "--scheduler", commands.scheduler())


def _store(*words: object) -> int:
    return scenarios.run(store_command, *words)


def _import() -> int:
    return _store("import", "gpt-sovits", "--out", "IMPORTED", "--scheduler", commands.scheduler())


def _damage() -> None:
    chunk = sorted((STORE / "parts").glob("*/wave/c/**/*"))[-1]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    (STORE / "parts" / "zarr.json").unlink()


def _train() -> int:
    words = ("--stage", "sovits", "--preset", "tiny", "--max-steps", 1)
    out = ("--out", "new/RUN", "--samples", 1, "--batch-frames", 200, "--device", "cpu")
    return scenarios.run(train, "run", VOICES, *words, *out)


COMMANDS: dict[str, Callable[[], int]] = {
    "build": lambda: scenarios.run(
        featurize, "build", "corpus", "--out", STORE, "--workers", 1, "--part-hours", 0.0003, "--features", "wave,mfcc"
    ),
    "add": lambda: _featurize("add", STORE, "energy,content,semantic", "--content-channels", 60, "--codes", 4),
    "export-gpt-sovits": lambda: _store("export", VOICES, "--to", "gpt-sovits", "--out", "gpt-sovits"),
    "export-lhotse": lambda: _store("export", VOICES, "--to", "lhotse", "--out", "lhotse"),
    "export-textgrid": lambda: _store("export", VOICES, "--to", "textgrid", "--out", "textgrid"),
    "import": _import,
    "report": lambda: _store("report", VOICES, "--out", "report.html", "--mos", 0),
    "repair": lambda: _store("repair", STORE),
    "train": _train,
    "export-weights": lambda: scenarios.export_weights(Path()),
}


def main() -> None:
    """Run all commands in the working directory."""
    make_tree(Path("corpus"), 4, seconds=0.8)
    training_store.build(VOICES, frames=(20, 24, 30, 33), parts=1)
    for name, command in COMMANDS.items():
        if name == "repair":
            _damage()
        mark(f"{name}-begins")
        code = command()
        mark(f"{name}-ends")
        assert code == 0, (name, code)


if __name__ == "__main__":
    main()
