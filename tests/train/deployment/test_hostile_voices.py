"""Folders of unknown origin: `train sample` refuses with one line and its exit code, and writes nothing."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto
from safetensors.numpy import load_file, save_file

from headrace.cli.train import main
from headrace.train.deployment import onnx_files, onnx_voice
from tests.train.deployment import onnx_voices


def speak(voice: Path, *words: object) -> Result:
    always = ("--voice", voice, "--out", voice.parent / "speech.wav", "--text", "Hello.", "--top-k", 1)
    return CliRunner().invoke(main, ["sample", *map(str, (*always, *words))])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(onnx_voices.exported(), tmp_path / "voice")
    return tmp_path / "voice"


def refusal(voice: Path, code: int = 1, *words: object) -> str:
    result = speak(voice, *words)
    assert result.exit_code == code, (result.output, result.exception)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (voice.parent / "speech.wav").exists()
    return result.stderr


def changed(file: str, change: Callable[[ModelProto], object]) -> Callable[[Path], None]:
    def damage(voice: Path) -> None:
        model = onnx.load(voice / file, load_external_data=False)
        change(model)
        (voice / file).write_bytes(model.SerializeToString())

    return damage


def saying(**change: Any) -> Callable[[Path], None]:
    """Let onnx.json say something else."""

    def damage(voice: Path) -> None:
        content = json.loads((voice / onnx_files.FILE).read_text())
        for place, value in change.items():
            holder, (*parts, last) = content, place.split("__")
            for part in parts:
                holder = holder[part]
            holder[last] = value
        (voice / onnx_files.FILE).write_text(json.dumps(content))

    return damage


def referring(**change: Any) -> Callable[[Path], None]:
    """Let the reference hold other arrays; None leaves one out."""

    def damage(voice: Path) -> None:
        held = load_file(voice / onnx_files.REFERENCE_FILE) | change
        save_file({name: array for name, array in held.items() if array is not None}, voice / onnx_files.REFERENCE_FILE)

    return damage


def with_bytes(file: str, data: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(voice: Path) -> None:
        (voice / file).write_bytes(data((voice / file).read_bytes()))

    return damage


def outside(model: ModelProto) -> None:
    tensor = next(one for one in model.graph.initializer if one.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "../../secret"


def rename(model: ModelProto) -> None:
    model.graph.input[0].name = "token"


def shorter_rows(model: ModelProto) -> None:
    """Return the keys and values of one position less than it says, as only a computation shows."""
    node = next(node for node in model.graph.node if "rows" in node.output)
    node.output[list(node.output).index("rows")] = "all_rows"
    for name, value in (("zero", 0), ("one", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    model.graph.node.append(onnx.helper.make_node("Slice", ["all_rows", "zero", "one", "zero"], ["rows"]))


class Executed:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (with_bytes(onnx_files.SOVITS, lambda data: data[: len(data) // 2]), "is damaged|refused|can compute"),
    "garbage": (with_bytes(onnx_files.STEP, lambda _: b"GIF89a" * 99), "is no ONNX file, or is damaged"),
    "no step graph": (lambda voice: (voice / onnx_files.STEP).unlink(), "Cannot read"),
    "unknown opset": (
        changed(onnx_files.STEP, lambda model: setattr(model.opset_import[0], "version", 999)),
        "ONNX Runtime can compute",
    ),
    "another input": (changed(onnx_files.STEP, rename), "it takes token"),
    "another network's graph": (
        lambda voice: shutil.copy(voice / onnx_files.STEP, voice / onnx_files.PROMPT),
        "it takes code",
    ),
    "a path outside": (changed(onnx_files.PROMPT, outside), "lies in another file, which is not opened"),
    "outputs of another size": (
        changed(onnx_files.STEP, shorter_rows),
        "computes rows .float32, 1 x 2 x 8. where rows",
    ),
    "another rate": (saying(sample_rate=48_000), "48000 Hz and 1025 bins, and 32000 Hz"),
    "another network": (saying(gpt__sizes__heads=4), "is expected"),
    "more codes than are read": (saying(gpt__sizes__codes=65), "has a decoder of 65 codes"),
    "a million layers": (saying(gpt__sizes__layers=1 << 20), "tensors, and|is expected"),
    "no decoder": (saying(gpt=None), "holds no gpt"),
    "no json": (with_bytes(onnx_files.FILE, lambda data: data[:-9]), "or damaged"),
    "reference truncated": (with_bytes(onnx_files.REFERENCE_FILE, lambda data: data[:-9]), "holds no reference"),
    "reference pickled": (
        with_bytes(onnx_files.REFERENCE_FILE, lambda _: pickle.dumps(Executed())),
        "holds no reference",
    ),
    "reference without a spectrogram": (referring(spec=None), "lacks the spectrogram"),
    "reference of no frame": (referring(spec=np.zeros((1025, 0), np.float32)), "no frame"),
    "reference of other bins": (referring(spec=np.zeros((513, 9), np.float32)), "spec is float32 .513, 9."),
    "reference that is not finite": (referring(spec=np.full((1025, 9), np.nan, np.float32)), "not finite"),
    "reference of unknown phones": (referring(phones=np.array([3, 1, 4, 1, 99_999])), "phones are not from 0 to"),
    "reference of negative codes": (referring(codes=np.array([-1])), "codes are not from 0 to 63"),
    "reference of real codes": (referring(codes=np.array([1.5])), "codes is float64"),
    "features of fewer phones": (referring(bert=np.zeros((2, 5), np.float32)), "bert is float32 .2, 5."),
    "no speaker vector": (referring(speaker=None), "lacks the spectrogram or the speaker vector"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_it_is_refused(name: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy.parent)
    damage, message = DAMAGES[name]
    damage(copy)
    (copy.parent / "secret").write_bytes(bytes(1 << 20))
    assert re.search(message, refusal(copy)), speak(copy).stderr
    assert not Path("executed").exists()


def test_a_reference_that_is_no_file_is_refused(copy: Path) -> None:
    (copy / onnx_files.REFERENCE_FILE).unlink()
    os.mkfifo(copy / onnx_files.REFERENCE_FILE)
    assert "no file of at most" in refusal(copy)


def test_a_folder_without_a_reference_asks_for_one(copy: Path) -> None:
    (copy / onnx_files.REFERENCE_FILE).unlink()
    assert "Give the voice either as a recording" in refusal(copy, 2)


def test_predictions_that_are_not_finite_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = onnx_voice.OnnxNetwork.run
    monkeypatch.setattr(
        onnx_voice.OnnxNetwork, "run", lambda *given: [np.full_like(output, np.nan) for output in run(*given)]
    )
    assert "predictions of" in refusal(copy) and "not finite" in refusal(copy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sovits", "x"), "--sovits is not for an exported voice"),
        (("--gpt", "x"), "--gpt is not for an exported voice"),
        (("--at", "best"), "--at is not for an exported voice"),
        (("--mixed-origins",), "--mixed-origins is not for an exported voice"),
        (("--reference", "x", "--reference-text", "a", "--hubert", "x"), "--hubert is not for an exported voice"),
        (("--phone-models", "x"), "--phone-models is not for an exported voice"),
        (("--device", "cuda"), "--device cuda is not for an exported voice"),
        (("--bert", "/"), "BERT is computed by torch"),
        (("--reference-text", "a"), "belong to a recording"),
        (("--language", "de"), "needs others: take a model"),
        (("--semantic", "1", "--bert", "x.npy"), "are read by --gpt: leave them out"),
    ],
)
def test_what_an_exported_voice_cannot_do_is_one_line(words: tuple[object, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "voice").symlink_to(onnx_voices.exported())
    assert message in refusal(tmp_path / "voice", 2, *words)


def test_the_runtime_needs_a_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["sample", "--runtime", "onnx", "--text", "a", "--out", str(tmp_path / "x.wav")])
    assert result.exit_code == 2 and "give it by --voice" in result.stderr


def test_a_bare_generator_speaks_codes(copy: Path) -> None:
    for file in (onnx_files.PROMPT, onnx_files.STEP):
        (copy / file).unlink()
    saying(gpt=None)(copy)
    result = speak(copy, "--semantic", "1 2 3")
    assert result.exit_code == 0 and "0.12 s, 3 codes" in result.stderr


def test_chinese_without_features_is_told(copy: Path) -> None:
    result = speak(copy, "--language", "zh", "--text", "你好。")
    assert result.exit_code == 0 and "without the features of BERT" in result.stderr, result.stderr
