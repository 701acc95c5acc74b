"""Texts of 3,500 characters: every sentence is heard, and the first one while the others are still to be spoken.

The models are small and untrained: what they say has no words, and no pauses of its own. So sentences are counted by
the silence that joins them, and what each was made from is compared with the text.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from headrace.featurize.text.symbols import TABLES
from headrace.train.checkpoints import trained_models
from headrace.train.inference import synthesis
from headrace.train.models import gpt_config
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny

SYMBOLS = len(TABLES["headrace-ipa"])
PAUSE_S = 0.3
MAX_CODES = 12
"""An untrained decoder seldom ends by itself; half a second of each sentence is enough to be heard."""
SENTENCES = {
    "zh": "今天天气很好。|我们一起去公园看花吧！|他说：“明天再来也可以。”|你知道图书馆在哪里吗？|价格是三块五毛钱。",
    "en": 'Dr. Meyer paid $3.50 for it.|Was it raining?|"Come in!" they shouted.|Nobody had seen the mill.',
    "ja": "今日はいい天気ですね。|「散歩に行きましょう！」|図書館はどこにありますか？|値段は三百円でした。",
    "ko": "오늘 날씨가 정말 좋네요.|어디로 가는 길입니까?|친구를 만나서 반가웠습니다!|값은 삼천 원이었습니다.",
    "de": "Hr. Meier kam am 3. Mai.|War es schon spät?|Niemand hatte die Mühle gesehen!|Es kostete 3,50 Euro.",
}


@pytest.mark.soak
@pytest.mark.parametrize("language", SENTENCES)
def test_as_many_sentences_are_heard_as_are_given(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, space = [], "" if language in ("zh", "ja") else " "
    for sentence in cycle(SENTENCES[language].split("|")):
        if len(space.join(given)) >= 3500:
            break
        given.append(sentence)
    speaker = small_speaker(tmp_path, monkeypatch, language)
    list(speaker.speak(given[0]))  # what a frontend loads once
    began = time.perf_counter()
    next(speaker.speak(given[0]))
    alone = time.perf_counter() - began
    began, spoken = time.perf_counter(), speaker.speak(space.join(given), check=False)
    sentences = [next(spoken)]
    first = time.perf_counter() - began
    sentences += spoken
    whole = time.perf_counter() - began
    assert [sentence.text for sentence in sentences] == given
    heard = runs_of_sound(speaker.join(sentences).wave, speaker.sample_rate)
    with capsys.disabled():
        print(
            f"\n{language}: {len(given)} sentences, {heard} heard; first sound after {first:.2f} s, that of the first "
            f"sentence alone {alone:.2f} s, ratio {first / alone:.2f}; all after {whole:.1f} s"
        )
    assert heard == len(given)
    assert first < 5 * alone < whole


def small_speaker(folder: Path, monkeypatch: pytest.MonkeyPatch, language: str) -> synthesis.Speaker:
    torch.manual_seed(1)
    generator = SynthesizerTrn(replace(tiny(), symbols=SYMBOLS)).eval()
    generator.quantizer.codebook.embed.normal_()
    decoder = Text2SemanticDecoder(replace(gpt_config.tiny(), symbols=SYMBOLS)).eval()
    monkeypatch.setattr(trained_models, "load_sovits", lambda *_, **__: generator)
    monkeypatch.setattr(trained_models, "load_gpt", lambda *_, **__: decoder)
    monkeypatch.setattr(synthesis, "scorer", lambda: None)
    monkeypatch.setattr(synthesis, "SamplingConfig", lambda **given: SamplingConfig(**given, max_codes=MAX_CODES))
    soundfile.write(folder / "r.wav", 0.3 * np.sin(np.arange(96_000) / 30), 32_000)
    x = Path("x")
    request = synthesis.SynthesisRequest(
        language=language, sovits=x, gpt=x, reference=folder / "r.wav", device="cpu", pause=PAUSE_S, attempts=1
    )
    return synthesis.Speaker(request)


def runs_of_sound(wave: np.ndarray, rate: int) -> int:
    """Return how many stretches of sound there are between silences that last PAUSE_S."""
    silent = np.flatnonzero(np.diff(np.concatenate(([0], abs(wave) < 1e-5, [0])).astype(int)))
    return 1 + int((np.diff(silent)[::2] >= 0.99 * PAUSE_S * rate).sum())
