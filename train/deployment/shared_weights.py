"""Weights that several graphs share: one file of safetensors, to which the graphs refer as external data of ONNX.

A program that opens a graph by its path finds them. Headrace checks where a graph refers to, maps the file, and hands
the tensors to ONNX Runtime, which opens nothing itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

FILE = "gpt.safetensors"
MIN_BYTES = 1024
"""Smaller tensors stay in their graphs."""


def share_weights(models: Sequence[ModelProto], folder: Path) -> None:
    """Move the large tensors of graphs into a file in a folder. What several graphs hold is written once."""
    from onnx import numpy_helper

    arrays: dict[str, np.ndarray] = {}
    names: dict[bytes, str] = {}
    moved: list[tuple[TensorProto, str]] = []
    for tensor in (tensor for model in models for tensor in model.graph.initializer):
        array = numpy_helper.to_array(tensor)
        if array.nbytes < MIN_BYTES:
            continue
        key = hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).digest()
        if key not in names:
            names[key] = tensor.name if tensor.name not in arrays else f"{tensor.name}.{len(arrays)}"
            arrays[names[key]] = array.copy()
        tensor.ClearField("raw_data")
        moved.append((tensor, names[key]))
    (folder / FILE).write_bytes(save(arrays))
    places = _places(folder / FILE)
    for tensor, name in moved:
        _refer(tensor, *places[name])


def mapped_weights(tensors: Sequence[TensorProto], folder: Path) -> dict[str, np.ndarray]:
    """Return tensors that lie in the file of weights in a folder, by name, mapped into memory.

    Raises:
        ValueError: one of them does not lie there.
        OSError: the file cannot be read.
    """
    import onnx

    if not tensors:
        return {}
    places, path = [_place(tensor) for tensor in tensors], folder / FILE
    if not path.is_file():
        raise ValueError(f"{FILE} is not beside it")
    whole = np.memmap(path, np.uint8, mode="r")
    found = {}
    for tensor, (begin, size) in zip(tensors, places, strict=True):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if size != math.prod(tensor.dims) * dtype.itemsize or begin % dtype.itemsize or begin + size > len(whole):
            raise ValueError(f"the tensor {tensor.name[:60]!r} is not in {FILE}")
        found[tensor.name] = whole[begin : begin + size].view(dtype).reshape(tuple(tensor.dims))
    return found


def _place(tensor: TensorProto) -> tuple[int, int]:
    """Return where a tensor begins in the file of weights, and how many bytes it has. Raises ValueError."""
    where: Mapping[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    if where.get("location") != FILE:
        raise ValueError(f"the tensor {tensor.name[:60]!r} lies in another file, which is not opened")
    numbers = [where.get(name, "") for name in ("offset", "length")]
    if not all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers):
        raise ValueError(f"the tensor {tensor.name[:60]!r} does not say where it lies in {FILE}")
    return int(numbers[0]), int(numbers[1])


def _places(file: Path) -> dict[str, tuple[int, int]]:
    """Return where each tensor of a file begins, and how many bytes it has."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + size + begin, end - begin) for name, (begin, end) in spans.items()}


def _refer(tensor: TensorProto, begin: int, size: int) -> None:
    """Let a tensor refer to its place in the file of weights."""
    import onnx

    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", FILE), ("offset", str(begin)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
