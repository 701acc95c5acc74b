"""GPT-SoVITS' own loader, as it is, on its own layout, beside a store of the same recordings.

Run by `benchmarks.peers --upstream DIR`, where DIR is a copy of GPT-SoVITS. Its loader runs in a process of its own:

    python -m benchmarks.peer_upstream DIR EXPERIMENT SITE ffmpeg|pcm

`pcm` replaces its ffmpeg by a plain read of the samples, which gives the same numbers.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report

COUNT, BATCH, SECONDS, ROUNDS = 512, 16, 20.0, 3
FEATURES = ("wave", "content", "phones")
TITLE = (
    "GPT-SoVITS' own SoVITS loader in batches of {batch}, without workers, and a store imported from its directory: "
    "{count} utterances of 3 to 10 s, warm, CPU time of all threads and of ffmpeg. Both deliver waveforms, content and "
    "phones; upstream's also computes the spectrogram, which here is the device's work."
)


def make_experiment(folder: Path) -> None:
    """A prepared directory of noise."""
    random = np.random.default_rng(0)
    for name in ("4-cnhubert", "5-wav32k"):
        (folder / name).mkdir(parents=True)
    lines = []
    for n in range(COUNT):
        samples = int(random.uniform(3, 10) * 32_000)
        with wave.open(str(folder / "5-wav32k" / f"{n}.wav"), "wb") as file:
            file.setparams((1, 2, 32_000, 0, "NONE", "not compressed"))
            file.writeframes(random.integers(-9000, 9000, samples).astype("<i2").tobytes())
        frames = ((samples + 1) // 2 - 80) // 320
        content = torch.from_numpy(random.standard_normal((frames, 768), np.float32)).half().T[None]
        torch.save(content, folder / "4-cnhubert" / f"{n}.wav.pt")
        lines.append(f"{n}.wav\t{' '.join(['HH', 'AH0', 'L', 'OW1'] * (samples // 10_000))}\tNone\thello\n")
    (folder / "2-name2text.txt").write_text("".join(lines), encoding="utf-8")


class Quiet:
    """An observer of an import that says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def compare(folder: Path, upstream: Path, site: Path | None) -> dict[str, Any]:
    """Utterances per second of CPU time, by loader; one value a round."""
    from headrace.featurize.exchange.import_gpt_sovits import ImportConfig, import_directory

    make_experiment(folder / "experiment")
    import_directory(ImportConfig(folder=folder / "experiment", out=folder / "store", workers=1), Quiet())
    rates: dict[str, list[float]] = {"upstream": [], "upstream, PCM read in place of ffmpeg": [], "Headrace": []}
    for _ in range(ROUNDS):
        for name, audio in zip(rates, ("ffmpeg", "pcm"), strict=False):
            words = [str(upstream), str(folder / "experiment"), str(site or ""), audio]
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peer_upstream", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            rates[name].append(float(json.loads(done.stdout.splitlines()[-1])))
        rates["Headrace"].append(ours(folder / "store"))
    return {"rates": rates}


def described(result: dict[str, Any]) -> str:
    rates = result["rates"]
    rows = []
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["Headrace"], values, strict=True))
        rows.append((name, statistics.median(values), f"{min(values):.4g} to {max(values):.4g}", ratio))
    head = ("loader", "utterances per CPU second", "range", "Headrace is faster by")
    return f"{TITLE.format(batch=BATCH, count=COUNT)}\n\n{report.table(head, rows)}"


def ours(root: Path) -> float:
    """Utterances per second of CPU time of the stream, over an epoch that follows one that warms up."""
    from headrace import store
    from headrace.train.data.stream import Stream, StreamConfig

    corpus = store.open(root)
    config = StreamConfig(max_utterances=BATCH)
    with Stream(corpus, FEATURES, np.arange(len(corpus)), config) as stream:
        while stream.position.epoch == 0:
            next(stream)
        begun, utterances = time.process_time(), 0
        while (spent := time.process_time() - begun) < 3:
            utterances += len(next(stream))
    return utterances / spent


def loader_of(upstream: Path, experiment: Path) -> Any:
    """As its `s2_train.py` makes it, but for workers."""
    sys.modules["gradio"] = types.ModuleType("gradio")  # its tools import their web pages' library
    sys.path[:0] = [str(upstream), str(upstream / "GPT_SoVITS")]
    from module import data_utils  # type: ignore[import-not-found]

    config = json.loads((upstream / "GPT_SoVITS/configs/s2.json").read_text(encoding="utf-8"))["data"]
    data = types.SimpleNamespace(**config, exp_dir=str(experiment))
    dataset = data_utils.TextAudioSpeakerLoader(data, version="v2")
    bounds = [32, *range(300, 2000, 100)]
    sampler = data_utils.DistributedBucketSampler(dataset, BATCH, bounds, num_replicas=1, rank=0, shuffle=True)
    collate = data_utils.TextAudioSpeakerCollate(version="v2")
    return torch.utils.data.DataLoader(dataset, collate_fn=collate, batch_sampler=sampler)


def read_pcm(file: str, rate: int) -> np.ndarray:
    with wave.open(file, "rb") as opened:
        return np.frombuffer(opened.readframes(opened.getnframes()), "<i2").astype(np.float32) / 32768


def cpu_seconds() -> float:
    """Of this process and of the processes that it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def upstreams_rate(loader: Any) -> float:
    batches: Iterator[Any] = iter(loader)
    next(batches)
    begun, utterances = cpu_seconds(), 0
    for batch in batches:
        utterances += len(batch[0])
        if cpu_seconds() - begun > SECONDS:
            break
    return utterances / (cpu_seconds() - begun)


def main(upstream: str, experiment: str, site: str, audio: str) -> None:
    torch.set_num_threads(1)
    sys.path += [site] if site else []
    with tempfile.TemporaryDirectory() as folder:
        if audio == "ffmpeg":
            import imageio_ffmpeg

            Path(folder, "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
            os.environ["PATH"] += f":{folder}"
        loader = loader_of(Path(upstream), Path(experiment))
        if audio == "pcm":
            sys.modules["module.data_utils"].load_audio = read_pcm  # type: ignore[attr-defined]
        print(json.dumps(upstreams_rate(loader)))


if __name__ == "__main__":
    main(*sys.argv[1:])
