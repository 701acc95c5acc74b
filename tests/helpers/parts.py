"""Parts and stores of random features, made without a corpus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace.store import added_arrays, index, layout, learned_models, rejects
from headrace.store.arrays.array_reader import load_array
from headrace.store.integrity import scan_record
from headrace.store.schema import FeatureSpec, Reject
from headrace.store.storage import StoragePath
from headrace.store.writer import Compression, Part, create_store, write_part

SPECS = (
    FeatureSpec(name="wave", axis="frames", dtype="int16", channels=640, recipe={"sample_rate": 32_000}),
    FeatureSpec(name="mel", axis="frames", dtype="float16", channels=128, recipe={"n_fft": 2048}),
    FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None),
    FeatureSpec(name="phone_end", axis="phones", dtype="int32", channels=None),
    FeatureSpec(name="phone_frames", axis="phones", dtype="int32", channels=None),
    FeatureSpec(name="speaker_vector", axis="utterance", dtype="float32", channels=8),
)
ATTRIBUTES = {
    "format": layout.FORMAT,
    "sample_rate": 32_000,
    "hop": 640,
    "preset": "gpt-sovits-v2",
    "features": [spec.to_json() for spec in SPECS],
    "plan": {"parts": 2, "utterances": 13, "digest": ""},
}


def make_part(number: int, frames: list[int], rejects: tuple[Reject, ...] = ()) -> Part:
    """Return a part of random features. Each utterance has three phones that share out its frames."""
    random = np.random.default_rng(number)
    total, count = sum(frames), len(frames)
    durations = np.asarray([[n - 2, 1, 1] for n in frames], np.int32).ravel()
    ends = np.concatenate([[0], *(640 * np.cumsum([n - 2, 1, 1]) for n in frames)])[1:]
    return Part(
        number=number,
        specs=SPECS,
        arrays={
            "wave": random.integers(-(2**15), 2**15, (total, 640), np.int16),
            "mel": random.normal(size=(total, 128)).astype(np.float16),
            "phones": random.integers(0, 732, 3 * count, np.int16),
            "phone_end": ends.astype(np.int32),
            "phone_frames": durations,
            "speaker_vector": random.normal(size=(count, 8)).astype(np.float32),
        },
        lengths={
            "frames": np.asarray(frames, np.int32),
            "phones_n": np.full(count, 3, np.int32),
            "aligned": np.ones(count, np.int32),
        },
        strings={
            "id": [f"s{number}/ünï {n}.wav" for n in range(count)],
            "speaker": [f"s{number}"] * count,
            "language": ["en"] * count,
            "text": [f"line {n}\nof part {number}" for n in range(count)],
        },
        rejects=rejects,
    )


def make_store(root: StoragePath, compression: Compression = "none") -> list[Part]:
    """Write a store of two parts, one of them with a reject, and return the parts."""
    parts = [
        make_part(0, [5, 6, 6, 40, 900], (Reject("x.wav", "decode", "broken"),)),
        make_part(1, [900, 901, 1000, 1200, 1500, 1800, 3000]),
    ]
    create_store(root, ATTRIBUTES)
    for part in parts:
        write_part(root, part, compression)
    index.write(root, index.derive(root))
    return parts


LOUDNESS = FeatureSpec(name="loudness", axis="frames", dtype="float32", channels=None, recipe={"of": "mel"})


def add_loudness(root: Path, compression: Compression = "none") -> None:
    """Add a feature of random numbers to all parts of a store."""
    numbers = layout.sealed_parts(root)
    for number in numbers:
        rows = int(load_array(root / layout.part_name(number) / "frames").sum())
        values = np.random.default_rng(number).normal(size=rows).astype(np.float32)
        inputs = added_arrays.input_digests(root, number, ["mel"])
        added_arrays.write(root, number, LOUDNESS, values, inputs, compression)
    added_arrays.publish(root, LOUDNESS, numbers)


SCANNED = Reject("lost.wav", "scan", "it has no header")


def make_built_store(root: Path, frames: Sequence[list[int]], compression: Compression = "none") -> None:
    """Write a store as a build leaves it, with an added feature, a learned model and rejects."""
    model = b"a model" + bytes(frames[0][:1])
    spec = FeatureSpec(
        name="speaker_vector", axis="utterance", dtype="float32", channels=8,
        recipe={learned_models.MODEL_DIGEST: learned_models.model_digest(model)},
    )  # fmt: skip
    features = [*(spec.to_json() for spec in SPECS if spec.name != "speaker_vector"), spec.to_json()]
    counted = sum(map(len, frames)) + 1
    plan = {"parts": len(frames), "utterances": counted, "digest": "", "grown": [[[0, 1]]]}
    create_store(root, ATTRIBUTES | {"features": features, "plan": plan, "compression": compression})
    for number, lengths in enumerate(frames):
        sealed = (Reject("x.wav", "decode", "broken"),) if not number else ()
        write_part(root, make_part(number, lengths, sealed), compression)
    index.write(root, index.derive(root))
    add_loudness(root, compression)
    (root / "models").mkdir()
    (root / learned_models.model_file("speaker_vector")).write_bytes(model)
    scan_record.write(root, scan_record.ScanRecord(counted + 1, (SCANNED,)))
    rejects.write_derived(root)
    (root / "build.json").write_text(json.dumps({"preset": "gpt-sovits-v2", "features": ["wave"], "rejects": 2}))
    (root / "add.json").write_text("{}")
