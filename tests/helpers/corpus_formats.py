"""Small corpora in each of the formats that are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000


def record(path: Path, samples: int = 1600, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = (1000 * np.sin(np.arange(samples) / 7)).astype(np.int16)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for start in range(0, samples, 4096):  # libsndfile's Vorbis writer breaks on big blocks
            file.write(wave[start : start + 4096])
    return path


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_list(root: Path) -> Path:
    for name in ("a.wav", "sub/a.flac", "b.mp3"):
        record(root / name)
    return write(
        root / "train.list",
        f"a.wav|anna|EN|Hello there.\r\n\nsub/a.flac||en|Again, hello.\n'{root}/b.mp3'|ben|ZH|你好\n",
    )


def make_ljspeech(root: Path) -> Path:
    record(root / "wavs" / "LJ-1.wav")
    record(root / "wavs" / "LJ-2.flac")
    record(root / "wavs" / "LJ-3.ogg")
    write(root / "metadata.csv", "LJ-1|Dr. 1|Doctor one\nLJ-2|Just two\nLJ-3|Raw three|\n")
    return root


def make_kaldi(root: Path) -> Path:
    record(root / "audio" / "r1.wav", 5 * RATE)
    record(root / "r2.flac", 2 * RATE)
    write(root / "wav.scp", f"r1 audio/r1.wav\nr2 {root}/r2.flac\n")
    write(root / "segments", "u1 r1 0.00 1.50\nu2 r1 1.5 -1\nu3 r2 0.25 2.01\n")
    write(root / "text", "u1 first words\nu2 second words\nu3 third\n")
    write(root / "utt2spk", "u1 anna\nu2 ben\n")
    return root


def make_tree(root: Path) -> Path:
    for name in ("anna/1.wav", "anna/deep/1.FLAC", "ben/1.ogg", "loose.mp3"):
        record(root / name)
    write(root / "anna/1.txt", "\ufeffHello\n  there\r\n")
    write(root / "anna/deep/1.lab", "Deep hello")
    write(root / "ben/1.TXT", "Hello from ben")
    write(root / "loose.txt", "Loose")
    return root


def make_cuts(root: Path) -> Path:
    cuts = [cut(record(root / "a.wav"), "Hello there."), cut(record(root / "sub/b.flac"), "Hello again.")]
    cuts.append(cut(root / "a.wav", "Hello", start=0.02, duration=0.05))
    return write(root / "cuts.jsonl", "".join(json.dumps(one) + "\n" for one in cuts))


def cut(path: Path, text: str, start: float = 0.0, duration: float = 0.1, **changed: object) -> dict[str, Any]:
    """As Lhotse writes it."""
    source = {"type": "file", "channels": [0], "source": str(path)}
    recording = {"id": path.stem, "sources": [source], "sampling_rate": RATE, "num_samples": 1600, "duration": 0.1}
    said = {"id": "s", "recording_id": path.stem, "start": 0.0, "duration": duration, "channel": 0, "text": text}
    said |= {"speaker": "anna", "language": "English"}
    given = {"id": f"{path.stem}-{start}", "start": start, "duration": duration, "channel": 0, "supervisions": [said]}
    return {**given, "recording": recording, "type": "MonoCut", **changed}


def word(text: str, start: float, end: float) -> dict[str, Any]:
    return {"word": text, "start": start, "end": end, "probability": 0.9}


RECOGNISED: dict[str, Any] = {
    "Whisper with the times of words": {
        "text": " Good evening. Come in!",
        "segments": [
            {
                "start": 0.9,
                "end": 5.8,
                "text": " Good evening. Come in!",
                "words": [
                    word(" Good", 1, 1.5),
                    word(" evening.", 1.5, 2.9),
                    word(" Come", 4.1, 5),
                    word(" in!", 5, 5.8),
                ],
            }
        ],
        "language": "en",
    },
    "Whisper": {
        "segments": [
            {"id": 0, "start": 0.8, "end": 3.2, "text": " Good evening."},
            {"id": 1, "start": 3.9, "end": 6.1, "text": " Come in!"},
        ],
        "language": "en",
    },
    "OpenAI": {
        "task": "transcribe",
        "words": [word("Good", 1, 1.5), word("evening.", 1.5, 2.9), word("Come", 4.1, 5), word("in!", 5, 5.8)],
        "segments": [{"start": 0.8, "end": 6.0, "text": "Good evening. Come in!"}],
    },
    "WhisperX, of which a word has no times": {
        "segments": [
            {"start": 1, "end": 3, "text": "", "words": [word("Good", 1, 1.5), {"word": "evening."}]},
            {"start": 4, "end": 6, "text": "", "words": [word("Come", 4, 5), word("in!", 5, 6)]},
        ]
    },
    "Transformers": {
        "text": " Good evening. Come in!",
        "chunks": [
            {"timestamp": [1.0, 3.0], "text": " Good evening."},
            {"timestamp": [4.0, None], "text": " Come in!"},
        ],
    },
    "whisper.cpp": {
        "result": {"language": "en"},
        "transcription": [
            {"offsets": {"from": 1000, "to": 3000}, "text": " Good evening."},
            {"offsets": {"from": 4000, "to": 6000}, "text": " Come in!"},
        ],
    },
    "FunASR with sentences": [
        {
            "key": "one",
            "text": "Good evening. Come in!",
            "sentence_info": [
                {"text": "Good evening.", "start": 1000, "end": 2900, "timestamp": [[1000, 1500], [1500, 2900]]},
                {"text": "Come in!", "start": 4100, "end": 5800, "timestamp": [[4100, 5000], [5000, 5800]]},
            ],
        }
    ],
    "FunASR": [
        {
            "key": "one",
            "text": "Good evening. Come in!",
            "timestamp": [[1000, 1500], [1500, 2900], [4100, 5000], [5000, 5800]],
        }
    ],
    "of one's own": '{"audio_filepath": "/data/talks/one.wav", "offset": 1, "duration": 2, "text": "Good evening."}\n'
    '{"audio_filepath": "/data/talks/one.wav", "start": 4.1, "end": 5.9, "pred_text": "Come in!"}\n',
}
"""One result in the form of each recogniser that is read."""
