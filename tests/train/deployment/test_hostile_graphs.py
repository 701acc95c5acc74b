"""Graphs of unknown origin: what is not a graph of ours is refused with one line, before ONNX Runtime sees it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper

from headrace.store.errors import RunError
from headrace.train.deployment import onnx_files, shared_weights
from headrace.train.deployment.onnx_files import OnnxNetwork, read_voice
from tests.train.deployment import onnx_voices
from tests.train.deployment.onnx_voices import GPT

PORTS = onnx_files.step_ports(GPT)


def refer(model: ModelProto, **where: str) -> None:
    """Let a tensor that lies in the file of weights lie somewhere else."""
    tensor = next(one for one in model.graph.initializer if one.external_data)
    found = {entry.key: entry.value for entry in tensor.external_data} | where
    del tensor.external_data[:]
    for key, value in found.items():
        tensor.external_data.add(key=key, value=value)


def external(model: ModelProto) -> None:
    refer(model, location="../../../../etc/passwd")


def external_beside(model: ModelProto) -> None:
    refer(model, location="./gpt.safetensors")


def behind_the_end(model: ModelProto) -> None:
    refer(model, offset=str(1 << 40))


def negative_offset(model: ModelProto) -> None:
    refer(model, offset="-8")


def between_numbers(model: ModelProto) -> None:
    refer(model, offset="9")


def too_short(model: ModelProto) -> None:
    refer(model, length="4")


def larger_than_its_place(model: ModelProto) -> None:
    next(one for one in model.graph.initializer if one.external_data).dims[0] += 1


def external_constant(model: ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant", output=["secret"])
    value = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[4], name="inner")
    value.external_data.add(key="location", value="/etc/passwd")
    node.attribute.append(helper.make_attribute("value", value))


def loop(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", [], ["x"], body=body))


def hidden_graph(model: ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node.append(helper.make_node("Identity", ["code"], ["x"], body=body))


def function(model: ModelProto) -> None:
    model.functions.append(helper.make_function("", "Add", [], [], [], []))


def other_domain(model: ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def imported_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def other_operator(model: ModelProto) -> None:
    model.graph.node[0].op_type = "StringNormalizer"


def _inner(model: ModelProto) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.raw_data and one.dims)


def enormous(model: ModelProto) -> None:
    _inner(model).dims[0] = 1 << 40


def negative(model: ModelProto) -> None:
    _inner(model).dims[0] = -1


def strange_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 999


def wrong_size(model: ModelProto) -> None:
    model.graph.input[3].type.tensor_type.shape.dim[0].dim_value = 5


def fixed_size(model: ModelProto) -> None:
    model.graph.input[3].type.tensor_type.shape.dim[1].dim_value = 5


def wrong_type(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def one_input_less(model: ModelProto) -> None:
    del model.graph.input[-1]


def other_output(model: ModelProto) -> None:
    model.graph.output[0].name = "rows"


def empty(model: ModelProto) -> None:
    del model.graph.node[:]


CHANGES: dict[Callable[[ModelProto], None], str] = {
    external: "lies in another file",
    external_beside: "lies in another file",
    behind_the_end: "is not in gpt.safetensors",
    negative_offset: "does not say where it lies",
    between_numbers: "is not in gpt.safetensors",
    too_short: "is not in gpt.safetensors",
    larger_than_its_place: "is not in gpt.safetensors",
    external_constant: "lies in another file",
    loop: "it uses the operator 'Loop'",
    hidden_graph: "graphs within its graph",
    function: "functions of its own",
    other_domain: "com.example",
    imported_domain: "com.example",
    other_operator: "StringNormalizer",
    enormous: "promises",
    negative: "negative size",
    strange_type: "unknown type",
    wrong_size: "it takes keys_0 .float32, 5 x capacity x 8. where keys_0 .float32, 2 x capacity x 8. is expected",
    fixed_size: "it takes keys_0",
    wrong_type: "it takes code .another type",
    one_input_less: "it takes 6 tensors, and 7 are expected",
    other_output: "it returns rows",
    empty: "no graph",
}


def step_graph() -> ModelProto:
    return onnx.load(onnx_voices.exported() / onnx_files.STEP, load_external_data=False)


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ONNX Runtime must not be asked."""
    onnx_voices.exported()
    asked: list[object] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *given, **_: asked.append(given))
    yield
    assert not asked


def refusal(file: Path) -> str:
    with pytest.raises(RunError) as caught:
        OnnxNetwork(file, PORTS)
    message = caught.value.message
    assert "\n" not in message and str(file) in message
    return message


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_graph_is_refused(change: Callable[[ModelProto], None], tmp_path: Path) -> None:
    model = step_graph()
    change(model)
    shutil.copy(onnx_voices.exported() / shared_weights.FILE, tmp_path)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert re.search(CHANGES[change], refusal(tmp_path / "x.onnx"))


@pytest.mark.usefixtures("unopened")
def test_weights_that_are_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes((onnx_voices.exported() / onnx_files.STEP).read_bytes())
    assert "is not beside it" in refusal(tmp_path / "x.onnx")
    os.mkfifo(tmp_path / shared_weights.FILE)
    assert "is not beside it" in refusal(tmp_path / "x.onnx")
    (tmp_path / shared_weights.FILE).unlink()
    (tmp_path / shared_weights.FILE).touch()
    refusal(tmp_path / "x.onnx")


@pytest.mark.usefixtures("unopened")
def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    whole, file = (onnx_voices.exported() / onnx_files.STEP).read_bytes(), tmp_path / "x.onnx"
    for data in (b"", b"GIF89a" * 40, whole[: len(whole) // 2], whole[:-1], os.urandom(5000)):
        file.write_bytes(data)
        refusal(file)
    file.unlink()
    assert "Cannot read" in refusal(file)
    os.mkfifo(file)
    assert "no file of at most" in refusal(file)


def test_a_graph_that_cannot_be_computed_is_one_line(tmp_path: Path) -> None:
    model = step_graph()
    shutil.copy(onnx_voices.exported() / shared_weights.FILE, tmp_path)
    model.graph.node[-1].input[0] = "nowhere"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    assert "ONNX Runtime can compute" in refusal(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"sample_rate": -1},
        {"sample_rate": "32000"},
        {"sovits": {}},
        {"sovits": {"sizes": {"symbols": 1 << 40}, "codebooks": []}},
        {"sovits": {"sizes": {"__class__": 3}, "codebooks": []}},
        {"sovits": {"sizes": {"upsample_rates": "abc"}, "codebooks": []}},
        {"sovits": {"sizes": {}, "codebooks": ["../x"]}},
        {"gpt": {"sizes": {"heads": 0}, "codebook": ""}},
        {"gpt": 7},
    ],
)
def test_a_description_that_cannot_be_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads((onnx_voices.exported() / onnx_files.FILE).read_text())
    (tmp_path / onnx_files.FILE).write_text(json.dumps(content | change))
    with pytest.raises(RunError, match="is not of train export --to onnx, or damaged"):
        read_voice(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\0"])
def test_what_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / onnx_files.FILE).write_text(text)
    with pytest.raises(RunError, match="is not of train export --to onnx, or damaged"):
        read_voice(tmp_path)


def test_a_folder_without_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no onnx"):
        read_voice(tmp_path)
