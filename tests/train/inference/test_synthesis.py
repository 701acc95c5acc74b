"""`train sample`: where the voice, the prompt and the features of the text come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headrace import store as stores
from headrace.cli.train import main
from headrace.featurize.features.content import HubertContent
from headrace.featurize.features.derived import Part
from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
from headrace.store.reader import Store
from headrace.store.schema import FeatureSpec
from headrace.train.checkpoints import trained_models
from headrace.train.inference import reference, synthesis, torch_voice
from headrace.train.models import gpt_config, wave_output
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig, tiny
from headrace.train.models.speech_reference import Reference
from headrace.train.models.text_to_speech import synthesize
from headrace.train.trainer import auto_settings
from tests.helpers import networks
from tests.helpers.training_store import build

TEXT = "Hello world."


def generator(config: SovitsConfig) -> SynthesizerTrn:
    torch.manual_seed(1)
    model = SynthesizerTrn(config).eval()
    model.quantizer.codebook.embed.normal_()
    return model


class Bench:
    """The command, with small models in place of files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.generator = folder, generator(tiny())
        torch.manual_seed(2)
        self.decoder = Text2SemanticDecoder(gpt_config.tiny()).eval()
        monkeypatch.setattr(trained_models, "load_sovits", lambda path, *_: self.generator)
        monkeypatch.setattr(trained_models, "load_gpt", lambda path, *_: self.decoder)
        monkeypatch.setattr(synthesis, "scorer", lambda: None)
        monkeypatch.setattr(synthesis, "SamplingConfig", lambda **given: SamplingConfig(**given, max_codes=14))

    def sample(self, *words: object) -> Result:
        always = ("--sovits", "x", "--text", TEXT, "--out", self.folder / "speech.wav", "--device", "cpu")
        always += ("--attempts", "1")  # an untrained decoder rarely ends
        return CliRunner().invoke(main, ["sample", *map(str, (*always, *words))])

    def stream(self, *words: object) -> Result:
        always = ("--sovits", "x", "--device", "cpu", "--attempts", "1", "--stream")
        return CliRunner().invoke(main, ["sample", *map(str, (*always, *words))])

    def wave(self, *words: object) -> np.ndarray:
        result = self.sample(*words)
        assert result.exit_code == 0, result.output
        return np.asarray(soundfile.read(self.folder / "speech.wav", dtype="float32")[0])

    def expected(self, heard: Reference, **changes: Any) -> np.ndarray:
        """What the models make of it, as 16 bit."""
        bert_PE = changes.pop("bert_PE", None)
        phones = torch.from_numpy(reference.text_to_phones(TEXT, "en", 732))
        torch.manual_seed(0)
        config = replace(SamplingConfig(max_codes=14), **changes)
        wave = synthesize(self.decoder, self.generator, phones, heard, config, bert_PE=bert_PE)
        return np.asarray(wave.clamp(-1, 1 - 2**-15))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stores.open(build(tmp_path_factory.mktemp("speaking") / "store", frames=[40, 45, 51]).path)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speaking") / "voice.wav"
    time = np.arange(96_000) / 32_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 150 * time), 32_000)
    return path


def heard_in(store: Store, number: int) -> Reference:
    wave = torch.from_numpy(np.array(store.read("wave", number))).flatten().float() / 32768
    return Reference(
        spec=Spectral(SpectralRecipe()).magnitude(wave).mT.numpy(),
        phones=np.array(store.read("phones", number)).astype(np.int64),
        codes=np.array(store.read("semantic", number)).astype(np.int64)[: store.frames[number] // 2],
    )


def close(made: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(made, expected, atol=2e-4)


class TestReference:
    @pytest.mark.parametrize("name", ["utt2", "2"])
    def test_an_utterance_of_a_store_is_voice_and_prompt(self, bench: Bench, store: Store, name: str) -> None:
        made = bench.wave("--gpt", "y", "--store", store.path, "--utterance", name)
        close(made, bench.expected(heard_in(store, 2)))

    def test_a_recording_is_a_voice_with_or_without_its_transcript(self, bench: Bench, voice: Path) -> None:
        alone = reference.reference_from_recording(voice, None, "en", None, None, tiny())
        assert len(alone.phones) == len(alone.codes) == 0
        close(bench.wave("--gpt", "y", "--reference", voice), bench.expected(alone))
        prompt = replace(alone, phones=reference.text_to_phones("One two.", "en", 732), codes=np.array([5, 6, 7, 8]))
        transcript = ("--reference-text", "One two.", "--reference-semantic", "5 6 7 8")
        made = bench.wave("--gpt", "y", "--reference", voice, *transcript)
        close(made, bench.expected(prompt))

    def test_a_speaker_vector_comes_from_a_file(self, bench: Bench, voice: Path) -> None:
        bench.generator = generator(replace(tiny(), speaker_channels=6))
        vector = np.arange(6, dtype=np.float16)
        np.save(bench.folder / "v.npy", vector[None])
        words = ("--semantic", "1 2 3", "--reference", voice, "--speaker-vector")
        one = bench.wave(*words, bench.folder / "v.npy")
        np.save(bench.folder / "w.npy", 50 * vector)
        assert abs(one - bench.wave(*words, bench.folder / "w.npy")).max() > 1e-3
        np.save(bench.folder / "short.npy", vector[:5])
        assert "has 5 numbers, this model reads 6" in bench.sample(*words, bench.folder / "short.npy").stderr

    def test_a_store_without_speaker_vectors_is_no_voice_of_v2pro(self, bench: Bench, store: Store) -> None:
        bench.generator = generator(replace(tiny(), speaker_channels=6))
        result = bench.sample("--semantic", "1", "--store", store.path, "--utterance", "utt1")
        assert result.exit_code == 1 and "but speaking needs speaker_vector too" in result.stderr


class TestText:
    def test_bert_features_are_read(self, bench: Bench, voice: Path) -> None:
        count = len(reference.text_to_phones(TEXT, "en", 732))
        bert = np.random.default_rng(0).standard_normal((count, 1024)).astype(np.float16)
        np.save(bench.folder / "bert.npy", bert)
        made = bench.wave("--gpt", "y", "--reference", voice, "--bert", bench.folder / "bert.npy")
        alone = reference.reference_from_recording(voice, None, "en", None, None, tiny())
        close(made, bench.expected(alone, bert_PE=torch.from_numpy(bert).float()))
        np.save(bench.folder / "bert.npy", bert[1:])
        result = bench.sample("--gpt", "y", "--reference", voice, "--bert", bench.folder / "bert.npy")
        assert f"has shape ({count - 1}, 1024), the text and the decoder need ({count}, 1024)" in result.stderr

    def test_every_option_is_passed_to_the_sampler(self, bench: Bench, voice: Path) -> None:
        words = ("--top-k", 7, "--top-p", 0.8, "--temperature", 0.7, "--repetition-penalty", 1.1)
        alone = reference.reference_from_recording(voice, None, "en", None, None, tiny())
        expected = bench.expected(alone, top_k=7, top_p=0.8, temperature=0.7, repetition_penalty=1.1)
        close(bench.wave("--gpt", "y", "--reference", voice, *words), expected)


class TestSentences:
    """A text is said sentence by sentence."""

    TWO = ("--text", "Hello world. It is a fine day")

    def test_each_is_said_with_the_same_reference_and_they_are_joined_with_pauses(
        self, bench: Bench, voice: Path
    ) -> None:
        words = ("--gpt", "y", "--reference", voice)
        made = bench.wave(*words, *self.TWO, "--pause", 0.25)
        first, alone = bench.wave(*words), reference.reference_from_recording(voice, None, "en", None, None, tiny())
        np.testing.assert_array_equal(made[: len(first)], first)
        gap = made[len(first) : len(first) + 8000]
        assert not gap.any()
        phones = torch.from_numpy(reference.text_to_phones("It is a fine day.", "en", 732))
        torch.manual_seed(synthesis._seed(0, 1, 0))
        second = synthesize(bench.decoder, bench.generator, phones, alone, SamplingConfig(max_codes=14))
        close(made[len(first) + 8000 :], np.asarray(second.clamp(-1, 1 - 2**-15)))
        usual = bench.wave(*words, *self.TWO)
        assert len(usual) - len(made) == 0.05 * 32_000
        np.testing.assert_array_equal(bench.wave(*words, *self.TWO), usual)
        assert len(bench.wave(*words, *self.TWO, "--pause", 0)) == len(usual) - 9600

    def test_a_text_whose_codes_or_features_are_given_is_one_sentence(self, bench: Bench, voice: Path) -> None:
        assert len(bench.wave("--semantic", "1 2 3", "--reference", voice, *self.TWO)) == 3 * 1280

    def test_one_that_cannot_be_spoken_is_found_before_anything_is_said(self, bench: Bench, voice: Path) -> None:
        bench.decoder.embed_text = None  # type: ignore[assignment]
        result = bench.sample("--gpt", "y", "--reference", voice, "--text", "Hello there. Привет мир дорогой.")
        assert result.exit_code == 2 and "The text cannot be spoken" in result.stderr


class TestAttempts:
    """A sentence that does not end is said again with other random numbers, and then named."""

    def spoken(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, voice: Path, counts: list[int], *words: object
    ) -> Result:
        """Speak with a decoder that generates so many codes, attempt by attempt."""
        self.left, self.drawn = list(counts), []

        def generate(*_: object, **__: object) -> torch.Tensor:
            self.drawn.append(float(torch.rand(1)))
            return torch.full((self.left.pop(0),), 3)

        monkeypatch.setattr(torch_voice, "text_to_semantic", generate)
        return bench.sample("--gpt", "y", "--reference", voice, "--attempts", 4, *words)

    def test_it_is_said_again(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, voice: Path) -> None:
        result = self.spoken(bench, monkeypatch, voice, [14, 14, 9])
        assert result.exit_code == 0 and "breaks off" not in result.stderr
        assert len(soundfile.read(bench.folder / "speech.wav")[0]) == 9 * 1280
        assert len(set(self.drawn)) == 3 and not self.left

    def test_it_is_named_in_the_end(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, voice: Path) -> None:
        text = ("--text", "Hello world. It is a fine day. And then it rained.")
        result = self.spoken(bench, monkeypatch, voice, [9, 14, 14, 14, 14, 8], *text)
        assert result.exit_code == 0 and not self.left
        named = "sentence 2 (It is a fine day.): it does not end within 14 codes, and breaks off; said 4 times"
        assert result.stderr.splitlines()[0] == named
        assert result.stderr.splitlines()[1].endswith("s, 31 codes, 3 sentences")

    def test_greedy_decoding_is_not_tried_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, voice: Path
    ) -> None:
        result = self.spoken(bench, monkeypatch, voice, [14], "--top-k", 1)
        assert "breaks off; said once" in result.stderr and result.exit_code == 0


class TestStream:
    TEXT = ("--text", "Hello world. It is a fine day. And then it rained.")

    def test_it_is_the_audio_of_the_file(self, bench: Bench, voice: Path) -> None:
        words = ("--gpt", "y", "--reference", voice, *self.TEXT)
        bench.wave(*words)
        result = bench.stream(*words)
        assert result.exit_code == 0, result.stderr
        samples, _ = soundfile.read(bench.folder / "speech.wav", dtype="int16")
        np.testing.assert_array_equal(np.frombuffer(result.stdout_bytes, "<i2"), samples)
        assert result.stderr.startswith("first sound after ") and "mono, 32000 Hz" in result.stderr

    def test_each_sentence_is_written_before_the_next_is_spoken(
        self, bench: Bench, voice: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = wave_output.raw_audio
        order: list[str] = []
        monkeypatch.setattr(wave_output, "raw_audio", lambda *given: order.append("written") or encode(*given))
        monkeypatch.setattr(
            torch_voice, "text_to_semantic", lambda *a, **k: order.append("spoken") or torch.tensor([1, 2, 3])
        )
        words = ("--gpt", "y", "--reference", voice, *self.TEXT)
        bench.stream(*words)
        assert order == ["spoken", "written", *["spoken", "written", "written"] * 2]

    def test_the_first_sentence_does_not_wait_until_the_others_are_read(self, bench: Bench, voice: Path) -> None:
        text = "Hello world. Привет мир дорогой."
        words = ("--gpt", "y", "--reference", voice, "--text", text)
        result = bench.stream(*words)
        assert result.exit_code == 2 and "The text cannot be spoken" in result.stderr
        assert result.stderr.startswith("first sound after ") and len(result.stdout_bytes) >= 11 * 2560

    def test_a_terminal_gets_none(self, bench: Bench, voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("headrace.cli.speak.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
        result = CliRunner().invoke(main, ["sample", "--text", "Hi", "--stream"])
        assert result.exit_code == 2 and "which no terminal shows" in result.stderr


class TestTextFile:
    def speak(self, bench: Bench, voice: Path, content: bytes) -> Result:
        (bench.folder / "lines.txt").write_bytes(content)
        words = ("--gpt", "y", "--reference", voice, "--text-file", bench.folder / "lines.txt")
        always = ("--sovits", "x", "--device", "cpu", "--attempts", 1, "--out", bench.folder / "said")
        return CliRunner().invoke(main, ["sample", *map(str, (*always, *words))])

    def test_each_line_is_a_file(self, bench: Bench, voice: Path) -> None:
        alone = bench.wave("--gpt", "y", "--reference", voice)
        result = self.speak(bench, voice, b"\xef\xbb\xbfHow are you?\r\n\r\n" + TEXT.encode() + b"\n")
        assert result.exit_code == 0, result.stderr
        assert sorted(file.name for file in (bench.folder / "said").iterdir()) == ["0001.wav", "0003.wav"]
        np.testing.assert_array_equal(soundfile.read(bench.folder / "said/0003.wav", dtype="float32")[0], alone)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\n \n", "holds no text"),
            (b"caf\xe9", "is not in UTF-8, at byte 3"),
            ("Good day.\nПривет мир.".encode(), "The text cannot be spoken"),
        ],
    )
    def test_what_cannot_be_spoken_is_told_before_anything_is_said(
        self, bench: Bench, voice: Path, content: bytes, message: str
    ) -> None:
        result = self.speak(bench, voice, content)
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
        assert not list((bench.folder / "said").glob("*.wav"))


class TestNetworks:
    """HuBERT and BERT, where their folders are given."""

    def test_the_codes_of_the_recording_are_those_of_a_store(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        networks.hubert(bench.folder / "hubert")
        bench.generator = generator(replace(tiny(), ssl_channels=768, codebook_size=64))
        wave = np.random.default_rng(0).standard_normal(3 * 32_000) * np.hanning(96_000)
        samples = (9000 * wave / abs(wave).max()).astype(np.int16)
        soundfile.write(bench.folder / "r.wav", samples, 32_000)
        heard: list[Reference] = []

        def listen(decoder: object, phones: torch.Tensor, reference: Reference, *_: object, **__: Any) -> torch.Tensor:
            heard.append(reference)
            return torch.tensor([1, 2, 3])

        monkeypatch.setattr(torch_voice, "text_to_semantic", listen)
        words = ("--gpt", "y", "--reference", bench.folder / "r.wav", "--reference-text", "One two")
        assert bench.sample(*words, "--hubert", bench.folder / "hubert").exit_code == 0
        silent = np.concatenate((samples, np.zeros(9600, np.int16))).reshape(-1, 640)
        origin = {"sample_rate": 32_000, "hop": 640, "level": "none"}
        specs = {"wave": FeatureSpec(name="wave", axis="frames", dtype="int16", channels=640, recipe=origin)}
        made = HubertContent(hubert=bench.folder / "hubert")
        specs["content"] = made.spec(specs)
        content = torch.from_numpy(next(iter(made.rows(Part(specs, lambda _: [silent]))))).float()[:164]
        codes = bench.generator.quantise(content.T[None], torch.ones(1, 1, 164, dtype=torch.bool))[1][0]
        assert np.array_equal(heard[0].codes, codes) and len(codes.unique()) > 3
        assert np.array_equal(heard[0].phones, reference.text_to_phones("One two.", "en", 732))
        bench.generator = generator(tiny())
        refused = bench.sample(*words, "--hubert", bench.folder / "hubert")
        assert refused.exit_code == 2 and "are not made from HuBERT's content" in refused.stderr

    def test_features_of_chinese_are_made_on_the_way(
        self, bench: Bench, voice: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        networks.bert(bench.folder / "bert")
        given: list[tuple[np.ndarray | None, torch.Tensor | None]] = []

        def listen(decoder: object, phones: object, reference: Reference, *_: object, bert_PE: Any) -> torch.Tensor:
            given.append((reference.bert, bert_PE))
            return torch.tensor([1, 2, 3])

        monkeypatch.setattr(torch_voice, "text_to_semantic", listen)
        prompt = ("--reference-text", "世界你好世界", "--reference-semantic", "5 6 7")
        words = ("--gpt", "y", "--reference", voice, *prompt, "--bert", bench.folder / "bert")
        assert bench.sample(*words, "--language", "zh", "--text", "你好世界你好！世界世界你好").exit_code == 0
        assert bench.sample(*words, "--reference-language", "zh").exit_code == 0
        assert [(of_prompt.shape, of_text is not None) for of_prompt, of_text in given] == [  # type: ignore[union-attr]
            ((13, 1024), True),
            ((13, 1024), True),
            ((13, 1024), False),
        ]
        first, second = given[0][1], given[1][1]
        assert first is not None and second is not None and (len(first), len(second)) == (13, 13)
        assert torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])  # two phones of a character


class TestLengthOfTheReference:
    @pytest.mark.parametrize(("seconds", "usable"), [(2.9, False), (3.0, True), (10.0, True), (10.2, False)])
    def test_recordings_of_3_to_10_seconds_are_asked_for(self, bench: Bench, seconds: float, usable: bool) -> None:
        file = bench.folder / "r.wav"
        soundfile.write(file, 0.3 * np.sin(np.arange(round(seconds * 32_000)) / 40), 32_000)
        result = bench.sample("--semantic", "1 2 3", "--reference", file)
        assert (result.exit_code == 0) == usable
        if not usable:
            assert f"lasts {seconds} s" in result.stderr and "--any-length" in result.stderr
            assert bench.sample("--semantic", "1 2 3", "--reference", file, "--any-length").exit_code == 0


def test_a_reference_keeps_its_level(tmp_path: Path) -> None:
    loud = np.sin(2 * np.pi * 150 * np.arange(96_000) / 32_000)
    heard = []
    for level in (0.25, 0.5):
        soundfile.write(tmp_path / "r.wav", level * loud, 32_000)
        heard.append(reference.reference_from_recording(tmp_path / "r.wav", None, "en", None, None, tiny()).spec)
    np.testing.assert_allclose(heard[1], 2 * heard[0], rtol=1e-3, atol=0.1)


def test_the_reference_may_be_in_another_language(bench: Bench, voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    phones_of = reference.text_to_phones

    def listen(text: str, language: str, *rest: Any) -> np.ndarray:
        read.append((text, language))
        return phones_of(text, language, *rest)

    monkeypatch.setattr(reference, "text_to_phones", listen)
    prompt = ("--reference-text", "Guten Tag", "--reference-semantic", "5 6 7")
    words = ("--gpt", "y", "--reference", voice, *prompt)
    assert bench.sample(*words, "--reference-language", "ko", "--reference-text", "안녕하세요").exit_code == 0
    assert bench.sample(*words).exit_code == 0
    assert read == [("안녕하세요.", "ko"), ("Guten Tag.", "en")]


class TestApple:
    """Devices of Apple's: there is none here. They have no double precision, which is the difference that matters."""

    def test_it_is_taken_where_torch_has_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert auto_settings.choose_device("mps") == (torch.device("mps"), "asked for")
        assert auto_settings.choose_device("cpu")[0].type == "cpu"

    def test_speaking_makes_no_number_of_double_precision(self, bench: Bench, voice: Path) -> None:
        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = func(*args, **(kwargs or {}))
                kinds = {one.dtype for one in tree_leaves(made) if isinstance(one, torch.Tensor)}
                assert not kinds & {torch.float64, torch.complex128}, func
                seen.update(kinds)
                return made

        seen: set[torch.dtype] = set()
        request = synthesis.SynthesisRequest(
            text=TEXT, sovits=voice, gpt=voice, reference=voice, device="cpu", attempts=1, top_p=0.9, speed=1.2
        )
        speaker = synthesis.Speaker(request)
        with Watch():
            (sentence,) = speaker.speak(TEXT)
        assert len(sentence.wave) and seen >= {torch.float32, torch.int64}


class TestRefusals:
    """One clear line each."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "Give either --gpt"),
            (("--text-file", "VOICE"), "either by --text or by --text-file"),
            (("--stream",), "Say where the speech goes"),
            (("--semantic", "1", "--reference", "VOICE", "--hubert", "h"), "are read by --gpt: leave them out"),
            (("--gpt", "y", "--reference", "VOICE", "--hubert", "h"), "whose --reference-text is given"),
            (("--gpt", "y", "--reference", "VOICE", "--device", "mps"), "sees no device of Apple's here"),
            (("--gpt", "y"), "Give the voice either as a recording"),
            (("--gpt", "y", "--store", "s"), "Give the voice either as a recording"),
            (("--gpt", "y", "--reference", "VOICE", "--store", "s", "--utterance", "1"), "Give the voice either"),
            (("--gpt", "y", "--store", "s", "--utterance", "1", "--speaker-vector", "v"), "leave them out"),
            (("--semantic", "1", "--reference", "VOICE", "--bert", "v"), "are read by --gpt: leave them out"),
            (("--gpt", "y", "--reference", "VOICE", "--reference-text", "a"), "belongs together with the codes"),
            (("--gpt", "y", "--reference", "VOICE", "--bert", "/nowhere"), "Cannot read /nowhere"),
            (("--gpt", "y", "--reference", "VOICE", "--bert", "VOICE"), "is no array of numbers in an .npy file"),
            (("--semantic", "1", "--reference", "VOICE", "--out", "/nowhere/x.wav"), "No such file or directory"),
            (("--semantic", "1", "--store", "STORE", "--utterance", "utt9"), "holds no utterance 'utt9'"),
        ],
    )
    def test_in_a_line(self, bench: Bench, voice: Path, store: Store, words: tuple[object, ...], message: str) -> None:
        named = {"VOICE": voice, "STORE": store.path}
        result = bench.sample(*(named.get(str(word), word) for word in words))
        assert result.exit_code in (1, 2) and message in result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr

    def test_arrays_of_objects_are_not_unpickled(self, bench: Bench, voice: Path) -> None:
        np.save(bench.folder / "o.npy", np.array([print], object), allow_pickle=True)
        result = bench.sample("--gpt", "y", "--reference", voice, "--bert", bench.folder / "o.npy")
        assert result.exit_code == 2 and "is no array of numbers" in result.stderr
