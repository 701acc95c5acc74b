"""Makes a small store and small runs with the code of commit 51cfe70, and writes down what that code reads from them.

Run it with that commit on the path, one thread, and the libraries of its constraints.txt:

    git worktree add OLD 51cfe70
    PYTHONPATH=$PWD/OLD OMP_NUM_THREADS=1 python tests/compatibility/make_fixture.py

It writes two files beside itself, which are kept in git: fixture.tar.xz and expected.json.

The archive holds:

    corpus/     recordings that repeat themselves, so that they compress; two of them cannot be used;
                with one come the times of its phones
    store/      `featurize build` of that corpus, and `featurize add` of some further features
    sovits/     a run of each stage with preset tiny, stopped at step 3
    gpt/
    export/sovits/    a run of each stage with preset v2, stopped at step 1; they are there to be exported
    export/gpt/

A checkpoint as it comes does not compress: one of preset tiny has up to 17 MB, one of v2 1.2 GB. So the values of
large tensors are replaced, and the checkpoint is saved again by `Checkpoints.save` of the old code. Its names, shapes,
types, numbers, random state and place in the epoch stay as the run left them.

- tiny: a tensor of more than KEPT values keeps its first KEPT, rounded to bfloat16, and repeats them to its end.
- v2: a tensor of more than KEPT values becomes a view of one shared pool of random numbers, at a place of its own.
  torch saves the pool once. That serves for exporting; an optimiser could not update such tensors, so these runs are
  not resumed.

The numbers in expected.json are those that the old code computed from these checkpoints: it went on with the tiny runs
to the steps in LAST, and exported the v2 runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import soundfile
import torch

HERE = Path(__file__).parent
RATE = 32_000
STEP = 3
"""Where the tiny runs were stopped."""
LAST = {"sovits": 5, "gpt": 7}
"""How far the old code went on with them. After more steps of sovits the last bits of another CPU's arithmetic have
grown to 1e-4 of a loss."""
KEPT = 67
"""Prime, so that the rows of a matrix differ; more than the 64 entries of the tiny codebook."""
BUILT = "wave,mel,mfcc,phones,content,semantic,align"
"""Features that the store was built with; tokens_n came along."""
ADDED = "f0,energy"
"""Features that joined it later."""
CHOICES = ("--codes", 24, "--compression", "zstd", "--part-hours", 0.0025, "--workers", 1)
ON_CPU = ("--device", "cpu", "--precision", "fp32")
TINY = (*ON_CPU, "--preset", "tiny", "--batch-frames", 260, "--max-utterances", 2)
UNTIMED = ("step_s", "wait_s", "seconds")

TEXTS = {
    "anna/001": "The river runs down.",
    "anna/002": "Seven dogs jump over a fence.",
    "anna/003": "Open the water gate.",
    "anna/004": "A lazy fox.",
    "ben/001": "Seven rivers run over the dogs.",
    "ben/002": "The quick fox jumps.",
    "ben/003": "Down to the gate.",
    "ben/004": "Water runs over a quick river.",
}

TIMES = "".join(
    f"{at * 0.08:.2f} {(at + 1) * 0.08:.2f} {phone}\n"
    for at, phone in enumerate("SP AH0 SP L EY1 Z IY0 SP F AA1 K SP SP".split())
)
"""Of anna/004: two columns of seconds and a phone."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root / "corpus")
        expected = {"store": make_store(root)}
        expected["runs"] = {stage: make_tiny_run(root, stage) for stage in ("sovits", "gpt")}
        expected["exports"] = make_exports(root)
        pack(root, ("corpus", "store", "sovits", "gpt", "export"), HERE / "fixture.tar.xz")
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_corpus(root: Path) -> None:
    """Recordings with a text beside each; one more has no text, and one is no recording."""
    for name, text in TEXTS.items():
        path = root / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, spoken(text, period=160 if name.startswith("anna") else 320), RATE)
        path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    (root / "anna" / "004.lab").write_text(TIMES, encoding="utf-8")
    soundfile.write(root / "anna" / "005.wav", np.zeros(RATE, np.float32), RATE)
    (root / "ben" / "005.wav").write_bytes(b"this is no recording")
    (root / "ben" / "005.txt").write_text("Nothing at all.\n", encoding="utf-8")


def spoken(text: str, period: int) -> np.ndarray:
    """A sound for each letter, 80 ms of one period over and over; silence for all other characters. (samples,)"""
    return np.concatenate([letter(character, period) for character in f" {text.lower()} "])


def letter(character: str, period: int) -> np.ndarray:
    samples = 2560
    if not character.isalpha():
        return np.zeros(samples, np.float32)
    random = np.random.default_rng(ord(character))
    if character not in "aeiouyrlmnw":
        block = 0.05 * random.standard_normal(320)
    else:
        harmonics = np.arange(1, 24)
        peaks = random.uniform(200, 3500, 3)
        strengths = np.exp(-(((harmonics[:, None] * RATE / period - peaks) / 300) ** 2)).sum(1) + 0.02
        phase = 2 * np.pi * np.arange(period) / period
        block = 0.1 * (strengths[:, None] * np.sin(harmonics[:, None] * phase)).sum(0)
    return np.resize(block, samples).astype(np.float32)


def make_store(root: Path) -> dict[str, Any]:
    """The store, and all that is to be read from it."""
    call(root, "featurize", "build", "corpus", "--out", "store", "--features", BUILT, *CHOICES)
    call(root, "featurize", "add", "store", ADDED, "--workers", 1)

    import store

    corpus = store.open(root / "store")
    return {
        "info": json.loads(call(root, "store", "info", "store", "--json")),
        "verify": json.loads(call(root, "store", "verify", "store", "--json")),
        "rejects": [json.loads(line) for line in (root / "store" / "rejects.jsonl").read_text().splitlines()],
        "utterances": [
            {
                "id": corpus.ids[n],
                "speaker": corpus.speakers[n],
                "language": corpus.languages[n],
                "text": corpus.texts[n],
                "frames": int(corpus.frames[n]),
                "phones_n": int(corpus.phones_n[n]),
                "arrays": {name: digest(corpus.read(name, n)) for name in corpus.features},
            }
            for n in range(len(corpus))
        ],
    }


def make_tiny_run(root: Path, stage: str) -> list[dict[str, Any]]:
    """A run that stopped at `STEP`; what it recorded when it went on."""
    train = ("train", "run", "store", "--out")
    batches = {"sovits": 1, "gpt": 2}[stage]
    call(root, *train, stage, "--stage", stage, "--max-steps", STEP, "--accumulate", batches, *TINY)
    rewrite(root / stage, repeated)
    shutil.copytree(root / stage, root / "resumed" / stage)
    call(root, *train, f"resumed/{stage}", "--resume", "--max-steps", LAST[stage])
    lines = (root / "resumed" / stage / "metrics.jsonl").read_text().splitlines()
    records = [{key: value for key, value in json.loads(line).items() if key not in UNTIMED} for line in lines]
    return [record for record in records if record["step"] > STEP]


def make_exports(root: Path) -> dict[str, Any]:
    """Runs of preset v2, on a store of their own that is not kept; what is in their exported files."""
    features = ("--features", "wave,mfcc,phones,content", "--content-width", 768, "--workers", 1)
    call(root, "featurize", "build", "corpus", "--out", "wide", *features)
    expected = {}
    for stage in ("sovits", "gpt"):
        sizes = ("--preset", "v2", "--max-steps", 1, "--batch-frames", 80, "--accumulate", 1, "--validate-every", 0)
        run = f"export/{stage}"
        call(root, "train", "run", "wide", "--out", run, "--stage", stage, *ON_CPU, *sizes)
        if stage == "sovits":
            call(root, "featurize", "add", "wide", "semantic", "--sovits", run, "--workers", 1)
        rewrite(root / run, pooled)
        said = call(root, "train", "export", run, "--out", f"{stage}.pth").strip()
        expected[stage] = {"version": said.rpartition(" ")[2], **exported(root / f"{stage}.pth")}
    return expected


def rewrite(run: Path, replace: Any) -> None:
    """Save the one checkpoint of a run again, with large tensors replaced."""
    from train.checkpoint import Checkpoints, load

    checkpoints = Checkpoints(run / "checkpoints")
    (step,) = checkpoints.steps()
    state = load(checkpoints.path(step))
    added = ("format", "step", "versions")
    checkpoints.save(step, {key: replaced(value, key, replace) for key, value in state.items() if key not in added})
    (run / "curves.png").unlink()


def replaced(value: Any, name: str, replace: Any) -> Any:
    """With all large floating tensors replaced, however deep."""
    if isinstance(value, dict):
        return type(value)((key, replaced(item, f"{name}.{key}", replace)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value)(replaced(item, f"{name}.{n}", replace) for n, item in enumerate(value))
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > KEPT:
        return replace(value, name)
    return value


def repeated(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The first `KEPT` values over and over."""
    first = tensor.flatten()[:KEPT].bfloat16().to(tensor.dtype)
    return first.repeat(-(-tensor.numel() // KEPT))[: tensor.numel()].reshape(tensor.shape)


POOL = 0.05 * torch.randn(8192, generator=torch.Generator().manual_seed(0))


def pooled(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """A view of the pool that begins where the name says: stride 1 along the longest axis, 3, 5 and 7 along others."""
    strides = dict(zip(np.argsort(-np.array(tensor.shape), kind="stable").tolist(), (1, 3, 5, 7), strict=False))
    reach = sum((tensor.shape[axis] - 1) * stride for axis, stride in strides.items()) + 1
    assert tensor.dtype == POOL.dtype and tensor.ndim == len(strides) and reach <= len(POOL), name
    start = crc32(name.encode()) % (len(POOL) - reach + 1)
    return POOL.as_strided(tensor.shape, [strides[axis] for axis in range(tensor.ndim)], start)


def exported(path: Path) -> dict[str, Any]:
    """What is in a file of upstream's format."""
    data = path.read_bytes()
    content = torch.load(io.BytesIO(b"PK" + data[2:]), weights_only=True)
    return {
        "head": data[:2].decode(),
        "config": content["config"],
        "info": content["info"],
        "weight": {name: digest(tensor.numpy()) for name, tensor in content["weight"].items()},
    }


def digest(array: np.ndarray) -> str:
    """Type, shape, and the first half of an MD5 of the bytes."""
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype} {shape} {hashlib.md5(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]}"


def call(root: Path, program: str, *words: object) -> str:
    """One of the three commands of the old code, in `root`. What it printed."""
    command = [sys.executable, "-P", "-c", f"from cli.{program} import main; main()", *map(str, words)]
    return subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout


def pack(root: Path, names: tuple[str, ...], archive: Path) -> None:
    """The same files give the same bytes."""

    def neutral(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return None if info.name.endswith(".lock") else info

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name in names:
            tar.add(root / name, name, filter=neutral)


if __name__ == "__main__":
    main()
