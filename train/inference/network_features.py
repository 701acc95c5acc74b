"""Features of what a store does not hold: codes of a reference recording, BERT features of a text to speak.

They are made by the features of stores, so that they are the numbers that training had.

Shapes: S samples, Q codes, P phones, E channels of BERT.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from headrace.featurize.features.bert import LANGUAGE, Bert
from headrace.featurize.features.content import HubertContent
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.huggingface import load_network
from headrace.featurize.spectral.dsp import SpectralRecipe
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.languages.frontend import PHONE_WORD_RECIPE
from headrace.featurize.text.languages.language_tags import language_code
from headrace.featurize.text.reading_options import DEFAULT, ReadingOptions
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec
from headrace.train.inference.reference import with_silence
from headrace.train.models.sovits import SynthesizerTrn


@torch.no_grad()
def recording_codes(wave_S: np.ndarray, hubert: Path, generator: SynthesizerTrn) -> np.ndarray:
    """Return the (Q,) int64 codes of a recording, by HuBERT and the quantiser of a generator.

    Args:
        wave_S: int16, at the sample rate of the generator.
        hubert: folder of the network.
        generator: on the device to compute on.
    Raises:
        UsageError: the folder holds no HuBERT, or the quantiser of the generator is not one of its content.
    """
    _check_quantiser(generator)
    weight, recipe = generator.ssl_proj.weight, SpectralRecipe()
    wave_TH = with_silence(wave_S, recipe)
    content_TW = _compute(HubertContent(hubert=hubert), _wave_spec(recipe), wave_TH, {}, weight.device)
    content_1WT = torch.from_numpy(content_TW[: len(content_TW) // 2 * 2]).to(weight).mT[None]
    codes_1Q = generator.quantise(content_1WT, torch.ones_like(content_1WT[:, :1], dtype=torch.bool))[1]
    return codes_1Q[0].cpu().numpy()


def load_hubert(folder: Path, generator: SynthesizerTrn) -> nn.Module:
    """Load HuBERT in float32, on the CPU, for a generator whose codes are made from it.

    Raises:
        UsageError: as `recording_codes`.
    """
    _check_quantiser(generator)
    recipe = HubertContent(hubert=folder).recipe({"wave": _wave_spec(SpectralRecipe())})
    network: nn.Module = load_network("HubertModel", folder, "hubert", "--hubert", recipe["weights"], "cpu", "fp32")
    return network


def _wave_spec(recipe: SpectralRecipe) -> FeatureSpec:
    origin = {"sample_rate": recipe.sample_rate, "hop": recipe.hop, "level": "none"}
    return FeatureSpec(name="wave", axis="frames", dtype="int16", channels=recipe.hop, recipe=origin)


def _check_quantiser(generator: SynthesizerTrn) -> None:
    """Raise UsageError if the codes of a generator are not made from HuBERT's content."""
    if generator.config.ssl_channels != HubertContent.channels or not generator.ssl_proj.weight.any():
        raise UsageError(
            "The codes of this SoVITS generator are not made from HuBERT's content: leave out --hubert, and give those "
            "of the recording by --reference-semantic, or take an utterance of its store."
        )


def bert_features(
    text: str, language: str, folder: Path, device: torch.device, options: ReadingOptions = DEFAULT
) -> np.ndarray | None:
    """Return the (P, E) float32 BERT features of the phones of a text; None for a language that has none.

    Args:
        folder: of the network, such as chinese-roberta-wwm-ext-large.
        options: of reading the text.
    Raises:
        UsageError: the folder holds no BERT.
    """
    if language_code(language) != LANGUAGE:
        return None
    words_P = phonemise(text, language, options).phone_word
    phones = FeatureSpec(name="phones", axis="phones", dtype="int16", channels=None, recipe=options.recipe)
    columns = {"language": LANGUAGE, "text": text, "aligned": 0}
    words = FeatureSpec(name="phone_word", axis="phones", dtype="int16", channels=None, recipe=dict(PHONE_WORD_RECIPE))
    return _compute(Bert(bert=folder), words, words_P, columns, device, phones).astype(np.float32)


def _compute(
    feature: Derived,
    needed: FeatureSpec,
    rows: np.ndarray,
    columns: dict[str, object],
    device: torch.device,
    *others: FeatureSpec,
) -> np.ndarray:
    """Return the rows of a feature of one utterance.

    Args:
        needed: spec of the feature that it is computed from.
        rows: of that.
        columns: other values of the utterance, by name.
        others: further specs that it reads.
    """
    specs = {spec.name: spec for spec in (needed, *others)}
    specs[feature.name] = feature.spec(specs)
    part = Part(specs, lambda _: [rows], strings=lambda name: [columns[name]], device=str(device))  # type: ignore[list-item]
    return next(iter(feature.rows(part)))
