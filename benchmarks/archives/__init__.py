"""Recordings with a JSON beside each, packed into archives as those who publish corpora pack them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import soundfile


def pack_tars(folder: Path, out: Path, samples: int = 5, format: int = tarfile.USTAR_FORMAT) -> Path:
    """Shards as WebDataset has them, of so many keys each."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.iterdir())
    for number, start in enumerate(range(0, len(files), 2 * samples)):
        with tarfile.open(out / f"shard-{number:06}.tar", "w", format=format) as tar:
            for file in files[start : start + 2 * samples]:
                tar.add(file, file.name)
    return out


def pack_zip(folder: Path, out: Path, method: int = zipfile.ZIP_STORED, below: str = "speech/") -> Path:
    with zipfile.ZipFile(out, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, below + file.relative_to(folder).as_posix())
    return out


def pack_parquet(folder: Path, out: Path, rows: int = 5, group: int = 2) -> Path:
    """As `datasets` writes them: files of so many rows."""
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    table = dataset_table(folder)
    starts = range(0, len(table), rows)
    for number, start in enumerate(starts):
        file = out / f"train-{number:05}-of-{len(starts):05}.parquet"
        pyarrow.parquet.write_table(table.slice(start, rows), file, row_group_size=group)
    return out


def pack_arrow(folder: Path, out: Path, rows: int = 5, batch: int = 2) -> Path:
    """As `Dataset.save_to_disk` writes them."""
    import pyarrow

    out.mkdir(parents=True, exist_ok=True)
    table = dataset_table(folder)
    starts = range(0, len(table), rows)
    for number, start in enumerate(starts):
        file = out / f"data-{number:05}-of-{len(starts):05}.arrow"
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.slice(start, rows), max_chunksize=batch)
    (out / "state.json").write_text("{}")
    (out / "dataset_info.json").write_text("{}")
    return out


def dataset_table(folder: Path, names: tuple[str, ...] = ("s0", "s1", "s2")) -> Any:
    """Recordings with texts as a table, whose speakers are classes."""
    import pyarrow as pa

    rows = []
    for file in sorted(folder.glob("*.json")):
        document = json.loads(file.read_text())
        (audio,) = (other for other in folder.glob(f"{file.stem}.*") if other != file)
        rows.append(
            {
                **document,
                "speaker": names.index(document["speaker"]),
                "audio": {"bytes": audio.read_bytes(), "path": audio.name},
            }
        )
    kinds = {
        "audio": {"_type": "Audio"},
        "text": {"dtype": "string", "_type": "Value"},
        "speaker": {"names": [*names], "_type": "ClassLabel"},
        "language": {"dtype": "string", "_type": "Value"},
    }
    audio_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("audio", audio_type), ("text", pa.string()), ("speaker", pa.int64()), ("language", pa.string())]
    )
    metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
    return pa.Table.from_pylist(rows, schema.with_metadata(metadata))


def pack_shar(folder: Path, out: Path, shard: int = 5) -> Path:
    """As Lhotse's `SharWriter` writes them, the recordings as their own bytes."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*.json"))
    for number, start in enumerate(range(0, len(files), shard)):
        lines, members = "", []
        for file in files[start : start + shard]:
            (audio,) = (other for other in folder.glob(f"{file.stem}.*") if other != file)
            recording, cut = _shar_cut(file, audio)
            lines += json.dumps(cut) + "\n"
            members += [(audio.name, audio.read_bytes()), (file.name, json.dumps(recording).encode())]
        (out / f"cuts.{number:06}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        (out / f"recording.{number:06}.tar").write_bytes(tar_of(*members))
    return out


def _shar_cut(file: Path, audio: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    info, said = soundfile.info(audio), json.loads(file.read_text())
    source = {"type": "shar", "channels": [0], "source": ""}
    length = {"sampling_rate": info.samplerate, "num_samples": info.frames, "duration": info.duration}
    recording = {"id": "r", "sources": [source], **length, "channel_ids": [0]}
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": info.duration, "channel": 0, **said}
    cut = {"id": file.stem, "start": 0, "duration": info.duration, "channel": 0, "supervisions": [supervision]}
    return recording, {**cut, "recording": recording, "type": "MonoCut"}


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these names with their contents, or of headers without any."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return packed.getvalue()
