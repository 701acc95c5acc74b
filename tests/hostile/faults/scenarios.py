"""The commands into whose writing faults are injected, and what must hold after each.

    python -m tests.hostile.faults.scenarios FOLDER COUNT SCENARIO...

runs in the environment that `injection.environment` returns, and prints a line of JSON for each fault. COUNT
faults are spread over the calls of the command; 0 stands for every fault of every call.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.output import handle_errors
from headrace.cli.store import main as store_command
from headrace.cli.train import main as train
from headrace.store.errors import HeadraceError, StoreError
from headrace.store.integrity.verify import verify
from headrace.train.checkpoints import checkpoint
from headrace.train.checkpoints import upstream_files as upstream
from headrace.train.monitoring import metrics
from tests.helpers import commands, training_store
from tests.helpers.corpora import make_tree
from tests.hostile.faults.injection import Scenario, every, injected, some

FEATURES = ("--features", "wave,mel,phones")


def run(command: click.Group, *words: object) -> int:
    """Run a command in this process and return its exit code."""
    try:
        command.main([str(word) for word in words], standalone_mode=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def build(folder: Path) -> int:
    words = ("build", folder / "inputs", "--out", folder / "STORE", "--scheduler", commands.scheduler())
    return run(featurize, *words, *FEATURES)


def add(folder: Path) -> int:
    return run(featurize, "add", folder / "STORE", "energy", "--scheduler", commands.scheduler())


def repair(folder: Path) -> int:
    return run(store_command, "repair", folder / "STORE")


def repair_and_build(folder: Path) -> int:
    repair(folder)  # 1 if a part is not there, as it then tells
    return build(folder)


def export(kind: str, folder: Path) -> int:
    return run(store_command, "export", folder / "inputs" / "STORE", "--to", kind, "--out", folder / "EXPORT")


def import_directory(folder: Path) -> int:
    words = ("--out", folder / "STORE", "--scheduler", commands.scheduler())
    return run(store_command, "import", folder / "inputs" / "EXPORT", *words)


def report(folder: Path) -> int:
    words = ("--out", folder / "report.html", "--mos", 0)
    return run(store_command, "report", folder / "inputs" / "STORE", *words)


def train_run(folder: Path) -> int:
    words = ("--stage", "gpt", "--preset", "tiny", "--max-steps", 3, "--checkpoint-every", 1, "--validate-every", 2)
    resume = ("--resume",) if (folder / "RUN" / "config.json").exists() else ()
    limits = ("--batch-frames", 200, "--device", "cpu")
    return run(train, "run", folder / "inputs" / "STORE", "--out", folder / "RUN", *words, *limits, *resume)


def export_weights(folder: Path) -> int:
    """Write a weight file as `train export` does, which exports models of published sizes only."""
    weights = {name: torch.full((64, 8), number) for number, name in enumerate(("enc.weight", "dec.weight"), 1)}
    write = handle_errors(lambda: upstream.write(folder / "voice.ckpt", weights, {"model": {}}, "GPT"))
    return run(click.Command("export", callback=write))


def corpus(folder: Path) -> None:
    make_tree(folder / "inputs", 3, seconds=0.6)


def built(folder: Path) -> None:
    corpus(folder)
    assert build(folder) == 0


def damaged(folder: Path) -> None:
    """Make a store that lacks its index and a chunk of its first part."""
    built(folder)
    chunk = sorted((folder / "STORE" / "parts").glob("*/mel/c/**/*"))[-1]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    shutil.rmtree(folder / "STORE" / "index")


def training_inputs(folder: Path) -> None:
    training_store.build(folder / "inputs" / "STORE")


def exportable(folder: Path) -> None:
    features = ("--features", "wave,phones,align,content,semantic", "--content-channels", 768, "--codes", 16)
    make_tree(folder / "corpus", 3, seconds=0.8)
    words = ("build", folder / "corpus", "--out", folder / "inputs" / "STORE", "--scheduler", commands.scheduler())
    assert run(featurize, *words, *features) == 0
    shutil.rmtree(folder / "corpus")


def exported(folder: Path) -> None:
    exportable(folder)
    words = ("--to", "gpt-sovits", "--out", folder / "inputs" / "EXPORT")
    assert run(store_command, "export", folder / "inputs" / "STORE", *words) == 0


def store_is_whole(folder: Path) -> None:
    """Raise if a part that is there is not as its checksums say, or cannot be read."""
    try:
        opened = store.open(folder / "STORE")
        problems = list(verify(folder / "STORE"))
    except HeadraceError:
        return
    half = [problem for problem in problems if not re.search("not sealed yet|is not there", problem.what)]
    assert not half, half
    for feature in opened.features:
        for number in range(len(opened)):
            opened.read(feature, number)


def damaged_store_is_named(folder: Path) -> None:
    """Raise if reading a store raises anything but an error that names the damage."""
    try:
        store.open(folder / "STORE")
        list(verify(folder / "STORE"))
    except StoreError:
        return


def same_bytes(name: str, folder: Path) -> dict[str, str]:
    """Return the digests of all files of a folder or a file, wherever it lies."""
    top = folder / name
    files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest_of_file(path, folder) for path in files}


def _digest_of_file(path: Path, folder: Path) -> str:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return hashlib.sha256(data.replace(bytes(folder), b"")).hexdigest()


def store_bytes(folder: Path) -> dict[str, str]:
    """Return the digests of what a store holds, without its lock and what it says about the time that it took."""
    return {name: digest for name, digest in same_bytes("STORE", folder).items() if not name.endswith(UNTIMED)}


UNTIMED = (".lock", "build.json", "add.json")


def nothing_half(name: str, folder: Path) -> None:
    """Raise if a file of an export is neither absent nor as a run that ended well leaves it."""
    found, whole = same_bytes(name, folder), same_bytes(name, folder.parent / "whole")
    half = [file for file, digest in found.items() if whole.get(file) != digest]
    assert not half, half


def checkpoints_are_whole(folder: Path) -> None:
    """Raise if a checkpoint under its own name cannot be read."""
    for file in (folder / "RUN" / "checkpoints").glob("step-*.pt"):
        checkpoint.load(file)


def run_result(folder: Path) -> dict[str, object]:
    """Return the lines of metrics, without times, and the weights of the last checkpoint."""
    lines = metrics.read(folder / "RUN" / "metrics.jsonl")
    last = checkpoint.load(sorted((folder / "RUN" / "checkpoints").glob("step-*.pt"))[-1])
    state = json.dumps(last["stage"]["model"] if "model" in last["stage"] else last["stage"], default=_digest)
    untimed = [{name: value for name, value in line.items() if not name.endswith(("_s", "seconds"))} for line in lines]
    return {"metrics": untimed, "weights": hashlib.sha256(state.encode()).hexdigest()}


def _digest(value: object) -> object:
    if hasattr(value, "numpy"):
        return hashlib.sha256(value.detach().float().numpy().tobytes()).hexdigest()
    return repr(value)


EXPORT: Callable[[Path], dict[str, str]] = partial(same_bytes, "EXPORT")

SCENARIOS = {
    "build": Scenario(prepare=corpus, command=build, check=store_is_whole, result=store_bytes),
    "add": Scenario(prepare=built, command=add, check=store_is_whole, result=store_bytes),
    "repair": Scenario(prepare=damaged, command=repair_and_build, check=damaged_store_is_named, result=store_bytes),
    "export-gpt-sovits": Scenario(
        prepare=exportable, command=partial(export, "gpt-sovits"), check=partial(nothing_half, "EXPORT"), result=EXPORT
    ),
    "export-lhotse": Scenario(
        prepare=exportable, command=partial(export, "lhotse"), check=partial(nothing_half, "EXPORT"), result=EXPORT
    ),
    "export-textgrid": Scenario(
        prepare=exportable, command=partial(export, "textgrid"), check=partial(nothing_half, "EXPORT"), result=EXPORT
    ),
    "import": Scenario(prepare=exported, command=import_directory, check=store_is_whole, result=store_bytes),
    "report": Scenario(
        prepare=exportable,
        command=report,
        check=partial(nothing_half, "report.html"),
        result=partial(same_bytes, "report.html"),
    ),
    "export-weights": Scenario(
        prepare=lambda _: None,
        command=export_weights,
        check=partial(nothing_half, "voice.ckpt"),
        result=partial(same_bytes, "voice.ckpt"),
    ),
    "train": Scenario(prepare=training_inputs, command=train_run, check=checkpoints_are_whole, result=run_result),
}


def main(folder: str, count: str, *names: str) -> None:
    """Print a line of JSON for each fault; the first one of a scenario has the number of calls."""
    chosen = partial(some, count=int(count)) if int(count) else every
    for name in names:
        for line in injected(SCENARIOS[name], Path(folder) / name, chosen):
            print(json.dumps({"scenario": name} | line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
