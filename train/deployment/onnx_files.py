"""Voices as ONNX: the files of an exported folder, and how they are opened. Needs no torch.

FOLDER/
  onnx.json               sizes, recipe, inputs and outputs of each graph, origin
  sovits.onnx             codes, phones and a reference to speech
  gpt_prompt.onnx         phones and codes to the first prediction, and keys and values
  gpt_step.onnx           one code more to the next prediction
  gpt.safetensors         the weights of the two graphs of gpt
  hubert.onnx             a recording to its codes, where HuBERT was exported along
  reference.safetensors   spectrogram, phones and codes of a reference to speak with

A graph is read whole, checked, and only then handed to ONNX Runtime, from memory: it consists of known operators of
ONNX itself, has no functions and no subgraphs, holds all of its tensors or finds them in gpt.safetensors beside it, and
takes and returns what it should.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace.store.errors import RunError, UsageError
from headrace.store.library_settings import quiet_onnxruntime
from headrace.store.storage import read_file
from headrace.train.deployment import shared_weights
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

FILE, REFERENCE_FILE = "onnx.json", "reference.safetensors"
FORMAT = "headrace-onnx-1"
SOVITS, PROMPT, STEP, RECORDING = "sovits.onnx", "gpt_prompt.onnx", "gpt_step.onnx", "hubert.onnx"
OPSET = 20
MAX_BYTES = (1 << 31) - 1
"""Largest message of protocol buffers."""
MAX_JSON_BYTES = 1 << 24
OPERATORS = frozenset(
    """Add ArgMax Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos DequantizeLinear Div Equal
    Exp Expand Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity InstanceNormalization
    IsNaN LayerNormalization LeakyRelu Less LessOrEqual MatMul Mish Mul Neg Not Or PRelu Pad Pow
    QuantizeLinear Range ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape Resize ScatterElements ScatterND
    Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where""".split()
)
"""Operators that exported graphs consist of. None of them runs a graph of its own."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a graph."""

    name: str
    dtype: str
    """`float32` or `int64`."""
    shape: tuple[int | str, ...]
    """Names stand for sizes that differ from call to call."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON says it."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class Ports:
    """What a graph takes and returns."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def sovits_ports(config: SovitsConfig) -> Ports:
    """Return what the graph of a SoVITS generator takes and returns."""
    speaker = (Port("speaker", "float32", (config.speaker_channels,)),) if config.speaker_channels else ()
    inputs = (
        Port("codes", "int64", ("codes",)),
        Port("phones", "int64", ("phones",)),
        Port("reference", "float32", (config.spec_bins, "reference_frames")),
        Port("noise", "float32", (config.inter_channels, "frames")),
        *speaker,
    )
    return Ports(inputs, (Port("wave", "float32", ("samples",)),))


def prompt_ports(config: GptConfig) -> Ports:
    """Return what the prompt graph of a decoder takes and returns."""
    inputs = (
        Port("phones", "int64", ("phones",)),
        Port("bert", "float32", ("phones", config.bert_channels)),
        Port("codes", "int64", ("codes",)),
    )
    cache = Port("cache", "float32", (2 * config.layers, config.heads, "positions", _head_channels(config)))
    return Ports(inputs, (_logits(config), cache))


def step_ports(config: GptConfig) -> Ports:
    """Return what the step graph of a decoder takes and returns."""
    shape = (config.heads, "capacity", _head_channels(config))
    cache = [Port(f"{name}_{layer}", "float32", shape) for layer in range(config.layers) for name in ("keys", "values")]
    inputs = (Port("code", "int64", (1,)), Port("code_position", "int64", ()), Port("position", "int64", ()), *cache)
    rows = Port("rows", "float32", (2 * config.layers, config.heads, _head_channels(config)))
    return Ports(inputs, (_logits(config), rows))


def recording_ports(config: SovitsConfig) -> Ports:
    """Return what the graph of HuBERT and of a generator's quantiser takes and returns."""
    content = Port("content", "float32", ("content_frames", config.ssl_channels))
    return Ports((Port("wave", "float32", ("samples",)),), (content, Port("codes", "int64", ("codes",))))


def _logits(config: GptConfig) -> Port:
    return Port("logits", "float32", (config.vocabulary,))


def _head_channels(config: GptConfig) -> int:
    return config.channels // config.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxVoice:
    """What a folder of ONNX files says of itself, checked."""

    folder: Path
    sample_rate: int
    sovits: SovitsConfig | None
    """Sizes of the SoVITS generator; None where there is none."""
    gpt: GptConfig | None
    codebooks: frozenset[str]
    """Digests of the codebook of the generator; empty if they are not known."""
    gpt_codebook: str
    """That of the codes of the decoder."""
    content: Mapping[str, Any]
    """All of onnx.json."""


def describe_graph(folder: Path, file: str, ports: Ports) -> dict[str, Any]:
    """Return what onnx.json says of a graph: its size and digest, what it takes, and what it returns."""
    return _describe_file(folder / file) | {
        "inputs": [port.to_json() for port in ports.inputs],
        "outputs": [port.to_json() for port in ports.outputs],
    }


def describe_weights(folder: Path) -> dict[str, Any]:
    """Return what onnx.json says of the file of weights that graphs share, and of the size of all that speaks."""
    weights = folder / shared_weights.FILE
    files = [path for path in (*sorted(folder.glob("*.onnx")), weights) if path.exists()]
    return {
        "weights": {weights.name: _describe_file(weights)} if weights.exists() else {},
        "bytes": sum(path.stat().st_size for path in files),
    }


def _describe_file(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_voice(folder: Path) -> OnnxVoice:
    """Read what an exported folder says of itself.

    Raises:
        RunError: it is none, or says what cannot be.
    """
    try:
        content = json.loads(read_regular_file(folder / FILE, MAX_JSON_BYTES))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        sovits, gpt = (content[name] for name in ("sovits", "gpt"))
        return OnnxVoice(
            folder=folder,
            sample_rate=_whole(content["sample_rate"], 768_000),
            sovits=None if sovits is None else SovitsConfig(**_sizes(sovits["sizes"], SovitsConfig())),
            gpt=None if gpt is None else GptConfig(**_sizes(gpt["sizes"], GptConfig())),
            codebooks=frozenset() if sovits is None else frozenset(_digest(one) for one in sovits["codebooks"]),
            gpt_codebook="" if gpt is None else _digest(gpt["codebook"]),
            content=content,
        )
    except OSError as error:
        raise RunError(
            f"{folder} holds no {FILE} ({error.strerror or error}): give a folder that train export --to onnx wrote."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        reason = first_line(error)
        raise RunError(f"{folder / FILE} is not of train export --to onnx, or damaged: {reason}.") from error


def _sizes(given: Any, default: Any) -> dict[str, Any]:
    """Return sizes of a network: whole numbers, lists of them, and switches, by the names of a config."""
    sizes = {name: _like(value, getattr(default, name), name) for name, value in given.items()}
    if sizes.get("heads", 1) < 1:
        raise ValueError("heads is 0")
    return sizes


def _like(value: Any, default: Any, name: str) -> Any:
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_like(item, default[0], name) for item in value)
    if isinstance(default, bool | float) and isinstance(value, bool | int | float):
        return type(default)(value)
    if isinstance(default, int):
        return _whole(value, 1 << 20)
    raise ValueError(f"{name} is {str(value)[:40]!r}")


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is no whole number up to {most:,}")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not (value.isalnum() or not value):
        raise ValueError("a codebook is no digest")
    return value[:64]


class OnnxNetwork:
    """A graph that ONNX Runtime computes on the CPU."""

    def __init__(self, path: Path, ports: Ports, threads: int = 0) -> None:
        """
        Args:
            ports: what it must take and return.
            threads: threads of one operator; 0 for as many as there are cores.
        Raises:
            RunError: it cannot be read, or is not such a graph.
            UsageError: onnx or onnxruntime is not installed.
        """
        runtime = import_runtime()
        data, self._weights = read_graph(path, ports)
        options = runtime.SessionOptions()
        values = [runtime.OrtValue.ortvalue_from_numpy(weight) for weight in self._weights.values()]
        if values:
            options.add_external_initializers(list(self._weights), values)
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        self.path, self._outputs = path, ports.outputs
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RunError(f"{path} is no graph that ONNX Runtime can compute: {first_line(error)}.") from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs, in their order.

        Raises:
            RunError: it cannot be computed, or an output is not what the ports say.
        """
        try:
            outputs: list[np.ndarray] = list(self._session.run(None, dict(inputs)))
        except Exception as error:
            raise RunError(f"{self.path} cannot be computed: {first_line(error)}.") from error
        for port, output in zip(self._outputs, outputs, strict=True):
            found = (port.name, str(output.dtype), output.shape)
            if found[1] != port.dtype or not has_shape(output, port.shape):
                wanted = _said((port.name, port.dtype, port.shape))
                raise RunError(f"{self.path} computes {_said(found)} where {wanted} is expected: export it again.")
        return outputs


def has_shape(array: np.ndarray, shape: tuple[int | str, ...]) -> bool:
    """Return whether an array has the sizes of a shape; names stand for any size."""
    return array.ndim == len(shape) and all(
        size == wanted or isinstance(wanted, str) for size, wanted in zip(array.shape, shape, strict=True)
    )


def import_runtime() -> Any:
    """Return the module onnxruntime. Raises UsageError where it, or onnx, is not installed."""
    quiet_onnxruntime()
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'headrace[onnx]'.") from error
    return onnxruntime


def read_graph(path: Path, ports: Ports) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a file of ONNX that has been checked, and its weights that lie in `shared_weights.FILE` beside it.

    Raises:
        RunError: it cannot be read, is damaged, has other operators or tensors elsewhere, or takes or returns
            something else.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        data = read_regular_file(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        model = onnx.ModelProto.FromString(data)
        _check_model(model)
        _check_ports(model.graph.input, ports.inputs, "takes")
        _check_ports(model.graph.output, ports.outputs, "returns")
        outside = [tensor for tensor in model.graph.initializer if _is_outside(tensor)]
        weights = shared_weights.mapped_weights(outside, path.parent)
    except DecodeError as error:
        raise RunError(f"{path} is no ONNX file, or is damaged: export the voice again.") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is refused: {error}. Export the voice again.") from error
    return data, weights


def _check_model(model: ModelProto) -> None:
    """Raise ValueError if a model could do more than compute with what is in it."""
    if not model.graph.node:
        raise ValueError("it holds no graph")
    if model.functions or model.training_info:
        raise ValueError("it defines functions of its own")
    if domains := sorted({one.domain for one in model.opset_import} - {"", "ai.onnx"}):
        raise ValueError(f"it uses operators of {domains[0][:60]!r}, and only those of ONNX are known")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise ValueError(f"it uses the operator {f'{node.domain}:{node.op_type}'.lstrip(':')[:60]!r}")
        for attribute in node.attribute:
            _check_attribute(attribute)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, outside=_is_outside(tensor))
    for tensor in _other_tensors(model.graph):
        _check_tensor(tensor)


def _other_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield the tensors of a graph that are no initialisers: they lie in the graph itself."""
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_attribute(attribute: AttributeProto) -> None:
    if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise ValueError("it has graphs within its graph")


def _is_outside(tensor: TensorProto) -> bool:
    """Return whether a tensor lies in another file than its graph."""
    import onnx

    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _check_tensor(tensor: TensorProto, *, outside: bool = False) -> None:
    """Raise ValueError if a tensor is not as long as it says, or lies elsewhere unless it may lie `outside`."""
    import onnx

    if _is_outside(tensor) and not outside:
        raise ValueError(f"the tensor {tensor.name[:60]!r} lies in another file, which is not opened")
    try:
        itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        raise ValueError(f"the tensor {tensor.name[:60]!r} is of an unknown type") from None
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"the tensor {tensor.name[:60]!r} has a negative size")
    if outside:
        return
    listed = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data))
    found = len(tensor.raw_data) if tensor.HasField("raw_data") else listed * itemsize
    promised = math.prod(tensor.dims) * itemsize
    if found != promised:
        raise ValueError(f"the tensor {tensor.name[:60]!r} promises {promised:,} bytes, and has {found:,}")


def _check_ports(found: Any, expected: tuple[Port, ...], verb: str) -> None:
    """Raise ValueError unless a graph takes, or returns, what is expected."""
    described = [_described(value) for value in found]
    wanted = [(port.name, port.dtype, port.shape) for port in expected]
    for given, port in zip(described, wanted, strict=False):
        if given[:2] != port[:2] or not _fits(given[2], port[2]):
            raise ValueError(f"it {verb} {_said(given)} where {_said(port)} is expected")
    if len(described) != len(wanted):
        raise ValueError(f"it {verb} {len(described)} tensors, and {len(wanted)} are expected")


def _described(value: ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    import onnx

    tensor = value.type.tensor_type
    dtype = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}.get(tensor.elem_type, "another type")
    shape = tuple(one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in tensor.shape.dim)
    return value.name[:60], dtype, shape


def _fits(shape: tuple[int | str, ...], expected: tuple[int | str, ...]) -> bool:
    """Return whether a shape has the sizes that are expected, and names where any size may be."""
    return len(shape) == len(expected) and all(
        isinstance(size, str) if isinstance(wanted, str) else size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )


def _said(port: tuple[str, str, tuple[int | str, ...]]) -> str:
    name, dtype, shape = port
    return f"{name} ({dtype}, {' x '.join(str(size)[:20] for size in shape) or 'one number'})"


def read_regular_file(path: Path, most: int) -> bytes:
    """Return a regular file. Raises OSError, or ValueError where it is none or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > most:
        raise ValueError(f"it is no file of at most {most:,} bytes")
    return read_file(path)


def first_line(error: Exception) -> str:
    """Return how the message of an error begins, without a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
