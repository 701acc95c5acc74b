"""The networks of a voice, computed by torch.

Shapes: P phones, E channels of BERT, Y codes, S samples, Q codes of a recording.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from headrace import store as stores
from headrace.featurize.spectral.recipe import SpectralRecipe
from headrace.featurize.text.reading_options import ReadingOptions
from headrace.store.errors import StoreError, UsageError
from headrace.store.multi_store import store_paths
from headrace.train.checkpoints import trained_models
from headrace.train.checkpoints.origin import check_same_codes
from headrace.train.inference.network_features import bert_features, recording_codes
from headrace.train.inference.reference import read_recording
from headrace.train.inference.speech_check import PhoneModels, SpeechCheck
from headrace.train.inference.synthesis import NO_VOICE, SynthesisRequest
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.speech_reference import Reference
from headrace.train.models.text_to_speech import decode_semantic, text_to_semantic
from headrace.train.trainer import auto_settings


class TorchVoice:
    """The networks of runs or of files of weights. It is a `VoiceNetworks`."""

    reference = None

    def __init__(self, request: SynthesisRequest, log: Callable[[str], object] | None = None) -> None:
        """
        Args:
            request: names the networks, and those that make features.
            log: is told which checkpoints of runs speak.
        Raises:
            UsageError: no voice is given, or the networks do not belong together.
            RunError: weights cannot be loaded.
        """
        if request.reference is None and request.store is None:
            raise UsageError(NO_VOICE)
        self._request = request
        self._device, _ = auto_settings.choose_device(request.device)
        self._generator = trained_models.load_sovits(request.sovits, request.at, log).to(self._device)
        self._decoder = None
        self.same_codebook: bool | None = None
        if request.gpt is not None:
            self._decoder = trained_models.load_gpt(request.gpt, request.at, log).to(self._device)
            self.same_codebook = check_same_codes(self._decoder, self._generator, mixed_origins=request.mixed_origins)

    @property
    def sovits(self) -> SovitsConfig:
        """Sizes of the SoVITS generator."""
        return self._generator.config

    @property
    def gpt(self) -> GptConfig | None:
        """Sizes of the decoder; None where there is none."""
        return None if self._decoder is None else self._decoder.config

    @property
    def recording_codes(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What makes the codes of a recording, by HuBERT; None where the request names none."""
        hubert = self._request.hubert
        return None if hubert is None else lambda wave_S: recording_codes(wave_S, hubert, self._generator)

    @property
    def bert_features(self) -> Callable[[str, str, ReadingOptions], np.ndarray | None] | None:
        """What makes BERT features of a text; None where the request names no network for it."""
        folder = self._request.bert
        if folder is None or not folder.is_dir():
            return None
        return lambda text, language, options: bert_features(text, language, folder, self._device, options)

    def seed(self, seed: int) -> None:
        """Let the random numbers of `codes` and `speech` follow from a seed."""
        torch.manual_seed(seed)

    def codes(
        self, phones_P: np.ndarray, reference: Reference, config: SamplingConfig, *, bert_PE: np.ndarray | None = None
    ) -> np.ndarray:
        """Generate the codes of a text, (Y,) int64, as `VoiceNetworks.codes`."""
        assert self._decoder is not None, "the voice has a decoder"
        bert = None if bert_PE is None else self._tensor(bert_PE)
        return text_to_semantic(self._decoder, self._tensor(phones_P), reference, config, bert_PE=bert).cpu().numpy()

    def speech(
        self, codes_Y: np.ndarray, phones_P: np.ndarray, reference: Reference, *, speed: float = 1.0
    ) -> np.ndarray:
        """Decode codes to a waveform, (S,) float32 in [-1, 1], as `VoiceNetworks.speech`."""
        wave_S = decode_semantic(
            self._generator,
            self._tensor(codes_Y),
            self._tensor(phones_P),
            self._tensor(reference.spec),
            speed=speed,
            speaker_V=None if reference.speaker is None else self._tensor(reference.speaker),
        )
        return wave_S.cpu().numpy()

    def word_check(self) -> tuple[SpeechCheck | None, str]:
        """Return what checks the words that are said; or None and the reason, in words.

        Raises:
            UsageError: the store that is named for it has no phone models.
        """
        request = self._request
        asked = request.phone_models
        runs = ((request.gpt, "gpt"), (request.sovits, "sovits"))
        used = (trained_models.store_of(run, stage) for run, stage in runs)
        reason = "name a store with phone models by --phone-models; featurize add STORE align makes them"
        locations = [asked] if asked is not None else [place for place in (request.store, *used) if place is not None]
        for location in locations:
            try:
                models = PhoneModels.of_store(location, SpectralRecipe().sample_rate)
            except StoreError as error:
                if asked is not None:
                    raise UsageError(f"--phone-models: {error.message}.") from error
                reason = error.message
            else:
                return SpeechCheck(models, *_voice(request, models)), ""
        return None, reason

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def _voice(request: SynthesisRequest, models: PhoneModels) -> tuple[str, np.ndarray]:
    """Return the name that the voice has where the phone models are, if any, and its recording: (S,) int16."""
    if request.store is None or request.utterance is None:
        assert request.reference is not None, "a voice is given"
        return "", read_recording(request.reference, SpectralRecipe())
    store = stores.open(request.store)
    number = store.number_of(request.utterance)
    is_there = models.store in store_paths(request.store)
    return str(store.speakers[number]) if is_there else "", np.array(store.read("wave", number)).reshape(-1)
