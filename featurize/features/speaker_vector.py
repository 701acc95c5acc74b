"""The feature `speaker_vector`: the speaker's voice as one vector per utterance.

Shapes: S samples, T frames, M mel bands, N windows, W width of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.features import eres2net, weight_files
from headrace.featurize.features.derived import Derived, Part, require_package
from headrace.featurize.files.load_once import load_once
from headrace.featurize.spectral.dsp import SpectralRecipe, slaney_mel
from headrace.featurize.spectral.float32 import without_tf32
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec

RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class ERes2NetV2(Derived):
    """The vector that GPT-SoVITS v2Pro and v2ProPlus read: the mean over time of ERes2NetV2's feature map."""

    speaker: Path
    """The published weights, pretrained_eres2netv2w24s4ep4.ckpt."""

    name, needs, axis, dtype = "speaker_vector", ("wave",), "utterance", "float16"
    channels, on_gpu = eres2net.CHANNELS, True
    PIECE = 3000  # frames of 10 ms: 0.25 GB for each map of the first layers
    MIN_SAMPLES = 400  # samples at RATE: one frame of 25 ms

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        require_package("torchaudio", "--speaker-encoder", "torchaudio")
        features = {"features": "kaldi-fbank-80", "resampler": "sinc-hann", "piece_frames": self.PIECE}
        return {"network": "eres2netv2", "layer": "pooled", "weights": weight_files.digest([self.speaker]), **features}

    @torch.inference_mode()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        import torchaudio
        from torchaudio.compliance import kaldi

        rate, digest = part.specs["wave"].recipe["sample_rate"], part.specs[self.name].recipe["weights"]
        network = _eres2net(self.speaker, digest, part.device)
        resample = torchaudio.transforms.Resample(rate, RATE)
        for wave in part.utterances("wave"):
            samples_16k = resample(torch.from_numpy(wave.reshape(-1) / np.float32(32768)))
            samples_16k = F.pad(samples_16k, (0, max(0, self.MIN_SAMPLES - len(samples_16k))))
            fbank = kaldi.fbank(samples_16k[None], num_mel_bins=eres2net.MELS, sample_frequency=RATE, dither=0)
            pieces = [network(piece[None].to(part.device))[0] for piece in torch.split(fbank, self.PIECE)]
            yield torch.cat(pieces, 1).mean(1)[None].half().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Resemblyzer(Derived):
    """A GE2E speaker vector (Wan et al. 2018) of 256 channels, with the weights in the Python package Resemblyzer.

    It serves to compare and to cluster voices; GPT-SoVITS reads ERes2NetV2's vector instead. Resemblyzer's code is not
    run, and silences are not removed.
    """

    name, needs, axis, dtype, channels = "speaker_vector", ("wave",), "utterance", "float16", 256
    on_gpu = True
    MIN_RMS = 10 ** (-30 / 20)  # root mean square; quieter recordings are raised to it
    WINDOW, STEP = 160, 77  # frames of 10 ms; 1.3 windows a second
    HOP, MIN_SOUND = 160, 0.75  # samples; share of the last window that must not be padding
    MEL = SpectralRecipe(sample_rate=RATE, n_fft=400, win=400, hop=160, n_mels=40, fmax=RATE / 2)

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        windows = {"window_frames": self.WINDOW, "step_frames": self.STEP, "resampler": "soxr-hq", "trimmed": False}
        return {"network": "resemblyzer", "weights": weight_files.digest([_resemblyzer_file()]), **windows}

    @torch.inference_mode()
    def rows(self, part: Part) -> Iterator[np.ndarray]:
        rate, digest = part.specs["wave"].recipe["sample_rate"], part.specs[self.name].recipe["weights"]
        network = _ge2e(digest, part.device)
        for wave in part.utterances("wave"):
            windows_NTM = self._windows(soxr.resample(wave.reshape(-1) / np.float32(32768), rate, RATE, quality="HQ"))
            mean_W = F.normalize(network(windows_NTM.to(part.device)), dim=1).mean(0)
            yield F.normalize(mean_W, dim=0)[None].half().cpu().numpy()

    def _windows(self, samples_16k: np.ndarray) -> Tensor:
        """Return windows (N, WINDOW, 40) of mel power from (S,) float32. The last one may be padded with silence."""
        level = max(math.sqrt(np.square(samples_16k, dtype=np.float64).mean()), 1e-9)
        samples = torch.from_numpy(samples_16k * np.float32(max(1.0, self.MIN_RMS / level)))
        frames = math.ceil((len(samples) + 1) / self.HOP)
        starts = list(range(0, max(1, frames - self.WINDOW + self.STEP + 1), self.STEP))
        if len(starts) > 1 and (len(samples) / self.HOP - starts[-1]) / self.WINDOW < self.MIN_SOUND:
            starts.pop()
        missing = (starts[-1] + self.WINDOW) * self.HOP - len(samples)
        spectrum = torch.stft(
            F.pad(samples, (0, max(0, missing))),
            self.MEL.n_fft,
            self.HOP,
            window=torch.hann_window(self.MEL.win),
            pad_mode="constant",
            return_complex=True,
        )
        mel_TM = spectrum.abs().square().T @ torch.from_numpy(slaney_mel(self.MEL)).float()
        return torch.stack([mel_TM[start : start + self.WINDOW] for start in starts])


class GE2E(nn.Module):
    """Three LSTM layers over a window, and a projection of the last state. Parameters have the names of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    @without_tf32()
    def forward(self, windows_NTM: Tensor) -> Tensor:
        """Compute non-negative embeddings (N, W) of windows (N, T, M)."""
        _, (last_3NW, _) = self.lstm(windows_NTM)
        return torch.relu(self.linear(last_3NW[-1]))


def _resemblyzer_file() -> Path:
    """Return the file of weights in the package, without importing it: its modules have further requirements."""
    found = find_spec("resemblyzer")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (file := Path(folder) / "pretrained.pt").is_file():
            return file
    raise UsageError(
        "A speaker vector needs weights: give those of ERes2NetV2 by --speaker-encoder, or install Resemblyzer's by "
        "pip install --no-deps resemblyzer."
    )


@load_once
def _ge2e(digest: str, device: str) -> GE2E:
    file = _resemblyzer_file()
    state = weight_files.as_tensors(weight_files.read([file], digest).get("model_state"), file)
    network = GE2E()
    try:
        network.load_state_dict({name: state[name] for name in network.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"{file} holds other weights than Resemblyzer 0.1: {str(error).splitlines()[0]}.") from error
    weight_files.check_finite(network.state_dict(), str(file))
    return network.eval().requires_grad_(False).to(device)


@load_once
def _eres2net(file: Path, digest: str, device: str) -> eres2net.ERes2NetV2:
    content = weight_files.read([file], digest)
    return eres2net.load(
        {name: v for name, v in content.items() if isinstance(v, Tensor)}, f"--speaker-encoder {file}"
    ).to(device)
