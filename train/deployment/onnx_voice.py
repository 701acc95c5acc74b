"""A voice that `train export --to onnx` wrote, computed by ONNX Runtime. Needs no torch.

Random numbers are NumPy's: torch's own generator cannot be had without torch. Codes are drawn from the same
distributions, and are the same codes where nothing is drawn.

Shapes: P phones, Q codes of the reference, Y codes, E channels of BERT, V vocabulary, F spectrogram bins, T frames,
S samples, N layers, H heads, L positions, R capacity, D channels of a head, Z latent channels, M frames of speech.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load

from headrace.featurize.features.hubert_input import gain, resample
from headrace.featurize.spectral.recipe import SpectralRecipe
from headrace.store.errors import RunError, UsageError
from headrace.train.deployment import code_sampling, onnx_files
from headrace.train.deployment.onnx_files import OnnxNetwork
from headrace.train.inference.reference import EMPTY, with_silence
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference

CACHE_STEP = 128
"""Positions by which the cache grows. Every step of the decoder reads all of it: it is no longer than it must be."""
MAX_HEARD_S = 60
"""Longest recording of which codes are made, in seconds."""
MAX_REFERENCE_BYTES = 1 << 28
UNCHECKED = "phone models are computed by torch, without which this voice speaks"


class OnnxRuntimeVoice:
    """The networks of an exported folder. It is a `VoiceNetworks`."""

    bert_features = None

    def __init__(self, folder: Path, *, decoder: bool = True, threads: int = 0) -> None:
        """
        Args:
            decoder: whether codes are to be generated too.
            threads: threads of one operator; 0 for as many as there are cores.
        Raises:
            RunError: the folder holds no such voice, or is damaged.
            UsageError: onnx or onnxruntime is not installed.
        """
        onnx_files.import_runtime()
        voice = onnx_files.read_voice(folder)
        self.sovits = _speaking(voice, decoder)
        self.gpt: GptConfig | None = voice.gpt if decoder else None
        self._folder, self._threads = folder, threads
        self.reference = read_reference(folder, self.sovits, voice.gpt)
        self.same_codebook = None if self.gpt is None else voice.gpt_codebook in voice.codebooks - {""}
        self._speech = OnnxNetwork(folder / onnx_files.SOVITS, onnx_files.sovits_ports(self.sovits), threads)
        self._decoder = None if self.gpt is None else OnnxDecoder(folder, self.gpt, threads)
        self._random = np.random.default_rng(0)

    @property
    def recording_codes(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What makes the codes of a recording; None where HuBERT is not in the folder."""
        return self._recording_codes if (self._folder / onnx_files.RECORDING).exists() else None

    def _recording_codes(self, wave_S: np.ndarray) -> np.ndarray:
        """Return the (Q,) int64 codes of a recording, as `network_features.recording_codes` does by torch.

        Raises:
            UsageError: the recording is too long.
            RunError: the graph cannot be computed.
        """
        recipe = SpectralRecipe()
        wave_TH = with_silence(wave_S, recipe)
        if len(wave_TH) > MAX_HEARD_S * recipe.sample_rate // recipe.hop:
            raise UsageError(f"Codes are made of recordings of up to {MAX_HEARD_S} s: give a shorter --reference.")
        ports = onnx_files.recording_ports(self.sovits)
        network = OnnxNetwork(self._folder / onnx_files.RECORDING, ports, self._threads)
        heard_S = resample((wave_TH * gain(wave_TH, "none")).reshape(-1), recipe.sample_rate)
        content_TW, codes_Q = network.run({"wave": heard_S})
        fits = 0 <= len(wave_TH) - len(content_TW) <= 1 and len(codes_Q) == (len(content_TW) + 1) // 2
        if not fits or not 0 <= codes_Q.min() <= codes_Q.max() < self.sovits.codebook_size:
            raise RunError(f"{network.path} makes codes that this voice cannot read: export it again.")
        return codes_Q[: len(wave_TH) // 2]

    def word_check(self) -> tuple[None, str]:
        """Return the reason why words are not checked."""
        return None, UNCHECKED

    def seed(self, seed: int) -> None:
        """Let the random numbers of `codes` and `speech` follow from a seed."""
        self._random = np.random.default_rng(seed)

    def codes(
        self, phones_P: np.ndarray, reference: Reference, config: SamplingConfig, *, bert_PE: np.ndarray | None = None
    ) -> np.ndarray:
        """Generate the codes of a text, (Y,) int64, as `VoiceNetworks.codes`.

        Raises:
            RunError: the graphs cannot be computed.
        """
        assert self._decoder is not None and self.gpt is not None, "the voice has a decoder"
        phones = np.concatenate((reference.phones, phones_P))
        bert = np.zeros((len(phones), self.gpt.bert_channels), np.float32)
        if reference.bert is not None:
            bert[: len(reference.phones)] = reference.bert
        if bert_PE is not None:
            bert[len(reference.phones) :] = bert_PE
        return self._decoder.generate(phones, bert, reference.codes, config, self._random)

    def speech(
        self, codes_Y: np.ndarray, phones_P: np.ndarray, reference: Reference, *, speed: float = 1.0
    ) -> np.ndarray:
        """Decode codes to a waveform, (S,) float32 in [-1, 1], as `VoiceNetworks.speech`.

        Raises:
            RunError: the graph cannot be computed.
        """
        frames = 2 * len(codes_Y) if speed == 1 else int(2 * len(codes_Y) / speed) + 1
        noise_ZM = self._random.standard_normal((self.sovits.inter_channels, frames), np.float32)
        inputs = {"codes": codes_Y, "phones": phones_P, "reference": reference.spec, "noise": noise_ZM}
        if reference.speaker is not None:
            inputs["speaker"] = reference.speaker
        return self._speech.run(inputs)[0]


class OnnxDecoder:
    """Both graphs of a text-to-semantic decoder."""

    def __init__(self, folder: Path, config: GptConfig, threads: int) -> None:
        """
        Args, Raises:
            As `OnnxRuntimeVoice`.
        """
        self._config = config
        self._prompt = OnnxNetwork(folder / onnx_files.PROMPT, onnx_files.prompt_ports(config), threads)
        ports = onnx_files.step_ports(config)
        self._step = OnnxNetwork(folder / onnx_files.STEP, ports, threads)
        self._cached = [port.name for port in ports.inputs[3:]]
        self._cache_NHRD = np.zeros((0, 0, 0, 0), np.float32)
        self._position = self._codes = 0

    def begin(self, phones_P: np.ndarray, bert_PE: np.ndarray, codes_Q: np.ndarray) -> np.ndarray:
        """Read phones and codes, and return what is predicted after them: logits, (V,) float32."""
        logits_V, self._cache_NHRD = self._prompt.run({"phones": phones_P, "bert": bert_PE, "codes": codes_Q})
        self._position, self._codes = len(phones_P) + len(codes_Q), len(codes_Q)
        if self._cache_NHRD.shape[2] != self._position:
            raise RunError(f"{self._prompt.path} returns keys of positions that it has not read: export it again.")
        return self._checked(logits_V)

    def follow(self, code: int) -> np.ndarray:
        """Read one code more, and return what is predicted after it: logits, (V,) float32."""
        if self._position == self._cache_NHRD.shape[2]:
            self._cache_NHRD = np.pad(self._cache_NHRD, ((0, 0), (0, 0), (0, CACHE_STEP), (0, 0)))
        logits_V, rows_NHD = self._step.run(
            {"code": np.array([code]), "code_position": np.array(self._codes), "position": np.array(self._position)}
            | dict(zip(self._cached, self._cache_NHRD, strict=True))
        )
        self._cache_NHRD[:, :, self._position] = rows_NHD
        self._position, self._codes = self._position + 1, self._codes + 1
        return self._checked(logits_V)

    def _checked(self, logits_V: np.ndarray) -> np.ndarray:
        if not np.isfinite(logits_V).all():
            raise RunError(f"The predictions of {self._step.path.parent} are not finite: export the voice again.")
        return logits_V

    def generate(
        self,
        phones_P: np.ndarray,
        bert_PE: np.ndarray,
        prompt_Q: np.ndarray,
        config: SamplingConfig,
        random: np.random.Generator,
    ) -> np.ndarray:
        """Generate codes as `headrace.train.models.sampling.generate_semantic` does by torch: (Y,) int64."""
        end, codes = self._config.end, prompt_Q
        logits_V = self.begin(phones_P, bert_PE, prompt_Q)
        for count in range(config.max_codes):
            allowed_V = logits_V[:end] if count < config.min_codes else logits_V
            penalised_V = code_sampling.apply_repetition_penalty(allowed_V, codes, config.repetition_penalty)
            code = code_sampling.sample_token(penalised_V, config, random)
            if end in (code, int(penalised_V.argmax())):
                break
            codes = np.append(codes, code)
            if count + 1 < config.max_codes:
                logits_V = self.follow(code)
        return codes[len(prompt_Q) :]


def read_reference(folder: Path, sovits: SovitsConfig, gpt: GptConfig | None) -> Reference | None:
    """Read the reference of an exported folder; None where there is none.

    Raises:
        RunError: it is damaged, or is not one that the networks can read.
    """
    path = folder / onnx_files.REFERENCE_FILE
    try:
        arrays = load(onnx_files.read_regular_file(path, MAX_REFERENCE_BYTES))
        return _checked_reference(arrays, sovits, gpt)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise RunError(
            f"{path} holds no reference of this voice ({onnx_files.first_line(error)}): export the voice again."
        ) from error


def _checked_reference(arrays: Mapping[str, np.ndarray], sovits: SovitsConfig, gpt: GptConfig | None) -> Reference:
    """Return a reference. Raises ValueError where an array has another type, shape or content than it can have."""
    phones, codes = (arrays.get(name, EMPTY) for name in ("phones", "codes"))
    bert, speaker = arrays.get("bert"), arrays.get("speaker") if sovits.speaker_channels else None
    if "spec" not in arrays or (sovits.speaker_channels and speaker is None):
        raise ValueError("it lacks the spectrogram or the speaker vector")
    expected: list[tuple[str, np.ndarray | None, type, tuple[int | str, ...]]] = [
        ("spec", arrays["spec"], np.float32, (sovits.spec_bins, "frames")),
        ("phones", phones, np.int64, ("phones",)),
        ("codes", codes, np.int64, ("codes",)),
        ("bert", bert, np.float32, (len(phones), "channels" if gpt is None else gpt.bert_channels)),
        ("speaker", speaker, np.float32, (sovits.speaker_channels,)),
    ]
    for name, array, dtype, shape in expected:
        if array is None:
            continue
        if array.dtype != dtype or not onnx_files.has_shape(array, shape) or not np.isfinite(array).all():
            raise ValueError(f"{name} is {array.dtype} {array.shape}, or not finite")
    for name, ids, count in (("phones", phones, sovits.symbols), ("codes", codes, sovits.codebook_size)):
        if len(ids) and not 0 <= ids.min() <= ids.max() < count:
            raise ValueError(f"{name} are not from 0 to {count - 1}")
    if not arrays["spec"].shape[1]:
        raise ValueError("its spectrogram has no frame")
    return Reference(spec=arrays["spec"], phones=phones, codes=codes, bert=bert, speaker=speaker)


def _speaking(voice: onnx_files.OnnxVoice, decoder: bool) -> SovitsConfig:
    """Return the sizes of the generator of a voice. Raises RunError where it cannot speak."""
    missing = [name for name, one in (("sovits", voice.sovits), ("gpt", voice.gpt if decoder else "")) if one is None]
    if missing or voice.sovits is None:
        raise RunError(
            f"{voice.folder} holds no {' and no '.join(missing)}, and both speak: export a voice, or both runs of one."
        )
    recipe = SpectralRecipe()
    if (voice.sample_rate, voice.sovits.spec_bins) != (recipe.sample_rate, recipe.n_fft // 2 + 1):
        raise RunError(
            f"{voice.folder / onnx_files.FILE} speaks of {voice.sample_rate} Hz and {voice.sovits.spec_bins} bins, and "
            f"{recipe.sample_rate} Hz and {recipe.n_fft // 2 + 1} bins are what can be spoken: export the voice again."
        )
    if decoder and voice.gpt is not None and voice.gpt.codes != voice.sovits.codebook_size:
        raise RunError(
            f"{voice.folder / onnx_files.FILE} has a decoder of {voice.gpt.codes} codes, and its generator reads "
            f"{voice.sovits.codebook_size}: export the voice again."
        )
    return voice.sovits
