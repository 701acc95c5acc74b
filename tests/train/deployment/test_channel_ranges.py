"""Convolutions in INT8 that write each channel with a scale of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace.train.deployment import channel_ranges, int8

SCALES = np.array([40.0, 0.001, 1.0, 0.001], np.float32)


@pytest.fixture
def exact(tmp_path: Path) -> Path:
    """A sum of two convolutions, whose weights are whole numbers, and what they read is whole too."""
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (2, 4, 4, 1, 3)).astype(np.float32)
    weights[:, :, 0, 0, 0] = 127
    arrays = {
        "dec.a.weight": weights[0] / 127 * SCALES[:, None, None, None],
        "dec.b.weight": weights[1] / 127,
        "bias": np.array([500.0, 1.5, -20.0, -1.5], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "dec.a.weight", "bias"], ["a"], name="a", pads=[0, 1, 0, 1]),
        helper.make_node("Conv", ["x", "dec.b.weight", "bias"], ["b"], name="b", pads=[0, 1, 0, 1]),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    shape = [1, 4, 1, "frames"]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 1, "frames"])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    file = tmp_path / "exact.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def feeds() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    found = [random.integers(0, 256, (1, 4, 1, frames)).astype(np.float32) for frames in (300, 200)]
    found[0][..., :2] = 0, 255
    return [{"x": x} for x in found]


def outputs(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> list[np.ndarray]:
    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(names, {"x": x})


def test_ranges_are_those_of_all_inputs_and_have_0_within(exact: Path) -> None:
    found = channel_ranges.observe(exact, ["dec.a"], feeds())
    assert list(found) == ["a"]
    written = [outputs(onnx.load(exact), ["a"], feed["x"])[0] for feed in feeds()]
    ends = np.concatenate([one.transpose(1, 0, 2, 3).reshape(4, -1) for one in written], axis=1)
    np.testing.assert_allclose(found["a"].least, np.minimum(ends.min(1), 0), rtol=1e-5)
    np.testing.assert_allclose(found["a"].most, np.maximum(ends.max(1), 0), rtol=1e-5)
    assert found["a"].least[0] < 0 == found["a"].least[1] < ends[1].min()
    assert found["a"].most[0] > 0 == found["a"].most[3] > ends[3].max()
    assert channel_ranges.observe(exact, ["dec", "other"], feeds()).keys() == {"a", "b"}
    assert not channel_ranges.observe(exact, ["dec.a.w", "ec.a"], feeds())


def test_each_channel_is_rounded_by_its_own_scale(exact: Path) -> None:
    ranges = channel_ranges.observe(exact, ["dec.a"], feeds())
    model = int8._quantised(exact, feeds(), "sovits")
    together = onnx.ModelProto.FromString(model.SerializeToString())
    channel_ranges.give_own_scales(model, ranges)
    onnx.checker.check_model(model)
    steps = (ranges["a"].most - ranges["a"].least) / 255
    for feed in feeds():
        (wanted,) = outputs(onnx.load(exact), ["a"], feed["x"])
        read = next(node.input[0] for node in model.graph.node if node.op_type == "Add")
        found, other = (outputs(one, [read, "y"], feed["x"]) for one in (model, together))
        wrong = abs(found[0] - wanted).max((0, 2, 3))
        assert (wrong <= 0.51 * steps).all() and (wrong > 0.4 * steps).all()
        assert abs(other[0] - wanted).max((0, 2, 3))[1] > 20 * wrong[1]
        np.testing.assert_allclose(found[1] - found[0], other[1] - other[0], atol=1e-2)  # the other one is as it was


def test_the_kernel_stays_that_of_whole_numbers(exact: Path, tmp_path: Path) -> None:
    model = int8._quantised(exact, feeds(), "sovits")
    channel_ranges.give_own_scales(model, channel_ranges.observe(exact, ["dec.a", "dec.b"], feeds()))
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "fast.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "fast.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2 and not kinds.count("Conv")
