"""Directories like those that GPT-SoVITS' own preparation writes, made up."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch

TEXTS = (
    ("n i2 h ao3 , sh ir4", "[2, 2, 1, 2]", "你好,是"),
    ("HH AH0 L OW1 W ER1 L D .", "None", "hello world."),
    ("k o [ N n i ch i w a .", "None", "こんにちは."),
)
"""Phones, phones of each character and text: Chinese, English, Japanese."""


def write_wave(path: Path, samples: np.ndarray, rate: int = 32_000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.astype("<i2").tobytes())


def hubert_frames(samples: int) -> int:
    """Of upstream's HuBERT for a recording of 32 kHz."""
    return ((samples + 1) // 2 - 80) // 320


def make(root: Path, count: int = 6, *, seconds: float = 1.0, dtype: torch.dtype = torch.float16) -> Path:
    """`count` utterances of three languages, lengths from `seconds` to twice that, with every feature."""
    random = np.random.default_rng(count)
    for folder in ("3-bert", "4-cnhubert", "5-wav32k", "7-sv_cn"):
        (root / folder).mkdir(parents=True)
    texts, codes = "", "item_name\tsemantic_audio\n"
    for n in range(count):
        name, (phones, characters, text) = f"utt {n}.wav", TEXTS[n % len(TEXTS)]
        samples = int(32_000 * seconds * (1 + n / count)) + 37 * n
        frames, phones_n = hubert_frames(samples), len(phones.split())
        write_wave(root / "5-wav32k" / name, random.integers(-9000, 9000, samples))
        content = torch.from_numpy(random.standard_normal((1, frames, 768))).to(dtype).requires_grad_()
        torch.save(content.transpose(1, 2), root / "4-cnhubert" / f"{name}.pt")
        if characters != "None":
            torch.save(
                torch.from_numpy(random.standard_normal((phones_n, 1024))).to(dtype).T, root / "3-bert" / f"{name}.pt"
            )
        torch.save(torch.from_numpy(random.standard_normal((1, 20480))).to(dtype), root / "7-sv_cn" / f"{name}.pt")
        texts += f"{name}\t{phones}\t{characters}\t{text}\n"
        codes += f"{name}\t{' '.join(map(str, random.integers(0, 1024, frames // 2)))}\n"
    (root / "2-name2text.txt").write_text(texts, encoding="utf-8")
    (root / "6-name2semantic.tsv").write_text(codes, encoding="utf-8")
    return root
