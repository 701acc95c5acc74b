"""Graphs in INT8 of networks that were trained for it: their numbers are those of training, and nothing is calibrated.

A network with fake quantisation is exported as it computes: torch's fake quantisation becomes pairs of QuantizeLinear
and DequantizeLinear, from which ONNX Runtime makes integer kernels. Weights are then stored as whole numbers.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from headrace.train.models.fake_quantisation import FakeQuantisation
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn

if TYPE_CHECKING:
    from onnx import ModelProto

Network = TypeVar("Network", SynthesizerTrn, Text2SemanticDecoder)


def rounded_network(network: Network) -> Network:
    """Return a copy of a network that computes as it was trained to, with the numbers of INT8."""
    assert network.ranges is not None, "it was trained for INT8"
    rounded = copy.deepcopy(network)
    quantisation = FakeQuantisation(rounded)
    quantisation.load_state_dict(network.ranges)
    quantisation.freeze()
    return rounded


def store_whole_numbers(model: ModelProto) -> None:
    """Let a graph hold its rounded weights as int8, instead of rounding them whenever it is computed."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        if not all(name in constants for name in node.input):
            continue
        weight, scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        along = scale if scale.ndim == 0 else scale.reshape([-1 if axis == one else 1 for one in range(weight.ndim)])
        limits = np.iinfo(zero.dtype)
        whole = np.clip(np.rint(weight / along), limits.min, limits.max).astype(zero.dtype)
        model.graph.initializer.append(numpy_helper.from_array(whole, node.output[0]))
        model.graph.node.remove(node)
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
