"""Thousands of utterances in archives, killed builds of them, and shards that are larger than memory should be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.archives import pack_parquet, pack_shar, pack_tars
from headrace.store.integrity.verify import verify
from tests.featurize.corpus.archives import build, contents, make_recordings

OPTIONS = ("--features", "wave,mel", "--part-hours", "0.02", "--workers", "1")


def start(corpus: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "headrace.featurize", "build", str(corpus), "--out", str(out), *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def sealed(out: Path) -> int:
    return len(list(out.glob("parts/0*")))


@pytest.mark.soak
@pytest.mark.parametrize("pack", [pack_tars, pack_parquet, pack_shar])
def test_two_thousand_utterances_killed_ten_times(tmp_path: Path, pack: Callable[..., Path]) -> None:
    folder = make_recordings(tmp_path / "speech", 2000, 0.25)
    build(folder, tmp_path / "FOLDER", part_hours=0.02)
    expected = contents(tmp_path / "FOLDER")
    corpus, out = pack(folder, tmp_path / "corpus", 100), tmp_path / "STORE"
    killed, parts = 0, sealed(tmp_path / "FOLDER")
    for moment in sorted(np.random.default_rng(0).uniform(0, 0.8 * parts, 10)):
        process = start(corpus, out)
        begun = time.monotonic()
        while process.poll() is None and sealed(out) < moment and time.monotonic() - begun < 300:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 10, "all moments lie before the end of the build"
    assert start(corpus, out).wait() == 0
    assert not list(verify(out))
    found = contents(out)
    assert sorted(found.values()) == sorted(expected.values())


MEASURE = """
import json, resource, sys
from pathlib import Path
from tests.featurize.corpus.archives import build
done = build(Path(sys.argv[1]), Path(sys.argv[2]), part_hours=1.0)
print(json.dumps([done["utterances"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10]))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow"])
def test_memory_with_a_shard_of_a_gigabyte(tmp_path: Path, kind: str) -> None:
    """Scan, plan and all parts in one process stay below 1.5 GB."""
    corpus, count = large_shard(tmp_path / "corpus", kind), 1100
    command = [sys.executable, "-c", MEASURE, str(corpus), str(tmp_path / "STORE")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    utterances, megabytes = json.loads(done.stdout.splitlines()[-1])
    assert utterances == count and megabytes < 1500, megabytes


def large_shard(corpus: Path, kind: str) -> Path:
    """1,100 recordings of 10 s in WAV, stereo at 24 kHz: 1.06 GB."""
    import io

    import pyarrow as pa
    import pyarrow.parquet

    corpus.mkdir()
    random, packed = np.random.default_rng(0), io.BytesIO()
    wave = random.normal(0, 2000, (240_000, 2)).astype(np.int16)
    soundfile.write(packed, wave, 24_000, format="WAV")
    content = packed.getvalue()
    if kind == "tar":
        with tarfile.open(corpus / "shard.tar", "w") as tar:
            for n in range(1100):
                for name, data in ((f"{n:05}.wav", content), (f"{n:05}.txt", f"Number {n}.".encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        return corpus
    schema = pa.schema([("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())])
    file = corpus / f"train.{kind}"
    writer = (
        pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False, compression="none")
        if kind == "parquet"
        else pa.ipc.new_stream(str(file), schema)
    )
    with writer:
        for start_row in range(0, 1100, 100):
            rows = [{"audio": {"bytes": content}, "text": f"Number {start_row + n}."} for n in range(100)]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return corpus
