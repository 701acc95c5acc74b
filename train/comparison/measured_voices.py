"""Voices that are compared, whatever computes them: runs and files of weights by torch, exported folders by ONNX.

What needs torch is imported where it is used: the memory of a voice in ONNX is measured without it.

Shapes: P phones, Q codes, E channels of BERT, V vocabulary, S samples, Z latent channels, M frames of speech.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from headrace.store.errors import UsageError
from headrace.train.deployment import onnx_files
from headrace.train.deployment.onnx_files import OnnxNetwork
from headrace.train.deployment.onnx_voice import OnnxDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits_config import SovitsConfig

if TYPE_CHECKING:
    from headrace.train.models.gpt import Text2SemanticDecoder
    from headrace.train.models.sovits import SynthesizerTrn

Arrays = Mapping[str, np.ndarray]
"""Of an utterance: `spec`, `phones`, `codes`, and if the store has them `bert` and `speaker`."""


class MeasuredVoice(Protocol):
    """A voice that says utterances of a store in their own voices."""

    runtime: str
    """What computes it, and in which precision, in words."""
    size: int
    """Bytes of what speaks, where it is stored."""
    parameters: int
    sovits: SovitsConfig | None
    """Sizes of the SoVITS generator; None where there is none."""
    gpt: GptConfig | None
    codebooks: frozenset[str]
    """Digests of the codebooks of its codes; empty if they are not known."""

    def decode(self, utterance: Arrays, noise_ZM: np.ndarray) -> np.ndarray:
        """Say the codes of an utterance, (S,) float32."""

    def generate(self, utterance: Arrays) -> None:
        """Predict as many codes as an utterance has, one after the other."""

    def predict(self, utterance: Arrays) -> np.ndarray:
        """Return what is predicted for each code of an utterance after those before it, and then for its end.

        (Q + 1, V) float32 logits.
        """


def open_voice(path: Path, at: str, threads: int, log: Callable[[str], object] | None = None) -> MeasuredVoice:
    """Open a voice.

    Args:
        path: a voice, a run, a file of weights, or a folder that `train export --to onnx` has written.
        at, log: which checkpoint of a run, as for `trained_models.load_sovits`.
        threads: that it computes with.
    Raises:
        RunError, UsageError: it is none of these, or damaged; or what computes it is not installed.
    """
    if (path / onnx_files.FILE).exists():
        return OnnxMeasuredVoice(path, threads)
    return TorchMeasuredVoice(path, at, threads, log)


class TorchMeasuredVoice:
    """Networks of a voice, of a run or of a file of weights. A `MeasuredVoice`."""

    def __init__(self, path: Path, at: str, threads: int, log: Callable[[str], object] | None) -> None:
        """
        Args, Raises:
            As `open_voice`.
        """
        import torch

        from headrace.train.deployment.onnx_export import load_networks

        torch.set_num_threads(threads)
        networks = load_networks(path, at, log)
        self._generator: SynthesizerTrn | None = networks.generator
        self._decoder: Text2SemanticDecoder | None = networks.decoder
        self.runtime = "torch fp32"
        self.sovits = None if networks.generator is None else networks.generator.config
        self.gpt = None if networks.decoder is None else networks.decoder.config
        weights = [
            weight
            for network in (networks.generator, networks.decoder)
            if network is not None
            for weight in (*network.parameters(), *network.buffers())
        ]
        self.parameters = sum(
            weight.numel()
            for network in (networks.generator, networks.decoder)
            if network is not None
            for weight in network.parameters()
        )
        self.size = path.stat().st_size if path.is_file() else sum(weight.nbytes for weight in weights)
        known = frozenset() if networks.generator is None else networks.generator.codebooks
        self.codebooks = known | ({networks.decoder.codebook} - {""} if networks.decoder is not None else frozenset())

    def decode(self, utterance: Arrays, noise_ZM: np.ndarray) -> np.ndarray:
        """Say the codes of an utterance, (S,) float32."""
        import torch

        from headrace.train.deployment.onnx_networks import SpeechNetwork

        assert self._generator is not None, "it has a generator"
        names = ["codes", "phones", "spec"]
        given = [torch.from_numpy(utterance[name]) for name in names] + [torch.from_numpy(noise_ZM)]
        if self._generator.config.speaker_channels:
            given.append(torch.from_numpy(utterance["speaker"]))
        with torch.no_grad():
            wave_S: np.ndarray = SpeechNetwork(self._generator).eval()(*given).numpy()
        return wave_S

    def generate(self, utterance: Arrays) -> None:
        """Predict as many codes as an utterance has, one after the other."""
        import torch

        from headrace.train.models.sampling import generate_semantic

        assert self._decoder is not None, "it has a decoder"
        count = len(utterance["codes"])
        bert = torch.from_numpy(utterance["bert"]) if "bert" in utterance else None
        torch.manual_seed(0)
        phones, config = torch.from_numpy(utterance["phones"]), SamplingConfig(min_codes=count, max_codes=count)
        generate_semantic(self._decoder, phones, config, bert_PE=bert)

    def predict(self, utterance: Arrays) -> np.ndarray:
        """Return logits (Q + 1, V)."""
        import torch

        assert self._decoder is not None, "it has a decoder"
        phones, codes = (torch.from_numpy(utterance[name])[None] for name in ("phones", "codes"))
        bert = torch.from_numpy(utterance["bert"])[None] if "bert" in utterance else None
        lengths = (torch.tensor([one.shape[1]]) for one in (phones, codes))
        phones_n, codes_n = lengths
        with torch.no_grad():
            logits_QV: np.ndarray = self._decoder(phones, phones_n, codes, codes_n, bert)[0].numpy()
        return logits_QV


class OnnxMeasuredVoice:
    """Graphs of an exported folder, which ONNX Runtime computes. A `MeasuredVoice`."""

    def __init__(self, folder: Path, threads: int) -> None:
        """
        Args, Raises:
            As `open_voice`.
        """
        voice = onnx_files.read_voice(folder)
        self.runtime = f"onnx {voice.content.get('precision')}"
        self.sovits, self.gpt = voice.sovits, voice.gpt
        self.codebooks = voice.codebooks | ({voice.gpt_codebook} - {""})
        self.size = onnx_files.describe_weights(folder)["bytes"]
        self.parameters = _parameters(voice.content)
        if voice.sovits is not None:
            self._speech = OnnxNetwork(folder / onnx_files.SOVITS, onnx_files.sovits_ports(voice.sovits), threads)
        self._decoder = None if voice.gpt is None else OnnxDecoder(folder, voice.gpt, threads)

    def decode(self, utterance: Arrays, noise_ZM: np.ndarray) -> np.ndarray:
        """Say the codes of an utterance, (S,) float32."""
        assert self.sovits is not None, "it has a generator"
        inputs = {"reference": utterance["spec"], "noise": noise_ZM}
        inputs |= {name: utterance[name] for name in ("codes", "phones")}
        inputs |= {"speaker": utterance["speaker"]} if self.sovits.speaker_channels else {}
        return self._speech.run(inputs)[0]

    def generate(self, utterance: Arrays) -> None:
        """Predict as many codes as an utterance has, one after the other."""
        assert self._decoder is not None, "it has a decoder"
        count = len(utterance["codes"])
        config, random = SamplingConfig(min_codes=count, max_codes=count), np.random.default_rng(0)
        self._decoder.generate(utterance["phones"], self._bert(utterance), utterance["codes"][:0], config, random)

    def predict(self, utterance: Arrays) -> np.ndarray:
        """Return logits (Q + 1, V), of one code after the other."""
        assert self._decoder is not None, "it has a decoder"
        codes = utterance["codes"]
        first_V = self._decoder.begin(utterance["phones"], self._bert(utterance), codes[:0])
        return np.stack([first_V, *(self._decoder.follow(code) for code in codes.tolist())])

    def _bert(self, utterance: Arrays) -> np.ndarray:
        """Return BERT features of phones, zero where the utterance has none, (P, E)."""
        assert self.gpt is not None, "it has a decoder"
        found = utterance.get("bert")
        return np.zeros((len(utterance["phones"]), self.gpt.bert_channels), np.float32) if found is None else found


def _parameters(content: Mapping[str, Any]) -> int:
    """Return the parameters of graphs; those of gpt share theirs."""
    graphs = {file: graph["parameters"] for file, graph in content["graphs"].items()}
    return int(graphs.get(onnx_files.SOVITS, 0)) + int(graphs.get(onnx_files.STEP, 0))


def check_codes(voice: MeasuredVoice, path: Path, codebook: str, utterances: list[Arrays]) -> None:
    """Check that a voice knows the codes and phones of utterances.

    Args:
        codebook: digest of that of the codes; empty if it is not known.
    Raises:
        UsageError: it does not.
    """
    if codebook and voice.codebooks and codebook not in voice.codebooks:
        raise UsageError(
            f"The codes of the store are of another codebook ({codebook}) than those of {path} "
            f"({', '.join(sorted(voice.codebooks))}): give the store that it was trained on."
        )
    codes = [config for config in (voice.sovits, voice.gpt) if config is not None]
    limits = {
        "codes": min(one.codes if isinstance(one, GptConfig) else one.codebook_size for one in codes),
        "phones": min(one.symbols for one in codes),
    }
    for name, limit in limits.items():
        largest = max(int(utterance[name].max()) for utterance in utterances)
        if largest >= limit:
            raise UsageError(
                f"{path} knows {limit} {name}, and the store has {largest}: give the one that it was trained on."
            )
    if voice.sovits is not None and (wanted := voice.sovits.speaker_channels):
        found = len(utterances[0].get("speaker", ()))
        if found != wanted:
            raise UsageError(
                f"{path} reads speaker vectors of {wanted} numbers, and those of the store have {found}: add "
                "speaker_vector to it."
            )


def next_codes(logits_QV: np.ndarray, codes: np.ndarray, end: int, likeliest: int) -> tuple[float, int]:
    """Return the summed negative log likelihood of codes and their end, and how many codes are among the likeliest."""
    targets = np.append(codes, end)
    rows = np.arange(len(targets))
    logits_QV = logits_QV.astype(np.float64)
    shifted_QV = logits_QV - logits_QV.max(1, keepdims=True)
    log_QV = shifted_QV - np.log(np.exp(shifted_QV).sum(1, keepdims=True))
    above = (logits_QV > logits_QV[rows, targets][:, None]).sum(1)[:-1]
    return -math.fsum(log_QV[rows, targets]), int((above < likeliest).sum())
