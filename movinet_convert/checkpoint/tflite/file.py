"""Read the flatbuffer of a TFLite file into plain values, without its interpreter.

The package ``tflite`` has the classes that the FlatBuffers compiler generates from TensorFlow's
schema. They raise where an offset leads out of the file, but believe every count, index and size;
those are checked here, and nothing of the schema is visible outside of this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.random_access import ByteRange, Bytes
from movinet_convert.checkpoint.tensor_source import Array, plausible
from movinet_convert.checkpoint.tflite.flex import FLEX, flex_options
from movinet_convert.errors import CheckpointError

TFLITE_MAGIC = b"TFL3"  # behind the four bytes of the root's offset
# An A5 has 63 MB of float32 weights, 2,000 operators and 4,000 tensors.
_MAX_BYTES = 256 << 20
_MAX_OBJECTS = 20_000
_MAX_OPERANDS = 256  # of an operator or of the graph

FUSED = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")  # schema: ActivationFunctionType
_WINDOW = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
_CONVOLUTION = (*_WINDOW, "DilationHFactor", "DilationWFactor")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterHeight", "FilterWidth")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "CONV_2D": ("Conv2DOptions", _CONVOLUTION),
    "CONV_3D": ("Conv3DOptions", (*_CONVOLUTION, "StrideD", "DilationDFactor")),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONVOLUTION, "DepthMultiplier")),
    "DIV": ("DivOptions", ("FusedActivationFunction",)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT8": np.dtype("i1"),
    "UINT8": np.dtype("u1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
}


@dataclass(frozen=True)
class Quantization:
    """Real values are ``scales * (stored - zero_points)``, one pair or one for each index."""

    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor; ``data`` are the bytes of a constant."""

    shape: tuple[int, ...]
    type: str
    quantization: Quantization | None = None
    data: Bytes | None = field(default=None, repr=False)
    sparse: bool = False

    @property
    def stored(self) -> Array:
        """The constant as stored, before its quantization is undone."""
        assert self.data is not None
        values: Array = self.data.view(_DTYPES[self.type]).reshape(self.shape)
        return values

    @property
    def readable(self) -> bool:
        """Whether ``real`` can give the values: they are floating point or quantized numbers."""
        floating = self.type in ("FLOAT32", "FLOAT16")
        known = floating or (self.type in _DTYPES and self.quantization is not None)
        return self.data is not None and known and not self.sparse

    def real(self) -> NDArray[np.float32]:
        """The values of a readable constant as float32."""
        values, quantization = self.stored, self.quantization
        if quantization is None or self.type in ("FLOAT32", "FLOAT16"):
            return values.astype(np.float32)
        shape = [1] * values.ndim
        if quantization.scales.size > 1:
            shape[quantization.axis] = -1
        centred = values.astype(np.int64) - quantization.zero_points.reshape(shape)
        return (quantization.scales.reshape(shape) * centred.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Operator:
    """``inputs`` are indices of tensors, -1 where an optional one is absent."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Model:
    """The only graph of a file, in the order of execution."""

    where: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def has_tflite_magic(content: ByteRange) -> bool:
    return content.size >= 8 and content.read(4, 4).tobytes() == TFLITE_MAGIC


def read_model(content: ByteRange) -> Model:
    """The graph of a TFLite file; CheckpointError if it is damaged or beyond any MoViNet."""
    if content.size > _MAX_BYTES:
        raise CheckpointError(
            f"{content.name} has {content.size:,} bytes, more than any MoViNet; it is refused."
        )
    try:
        return _Parser(content).model()
    except CheckpointError:
        raise
    except Exception as error:  # the generated classes raise many kinds of exceptions
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise CheckpointError(
            f"{content.name} cannot be read as TFLite ({reason}); it is truncated or damaged: "
            "get it again."
        ) from error


class _Parser:
    def __init__(self, content: ByteRange) -> None:
        import tflite  # its 190 modules are imported for a TFLite file alone

        self.where = content.name
        self.schema: Any = tflite
        self.root: Any = tflite.Model.GetRootAs(content.read(0, content.size).data, 0)
        self.kinds = _names(tflite.BuiltinOperator)
        self.types = _names(tflite.TensorType)

    def model(self) -> Model:
        root = self.root
        if root.SubgraphsLength() != 1:
            raise self._damaged(f"it has {root.SubgraphsLength():,} graphs", "one")
        graph = root.Subgraphs(0)
        for what in ("Tensors", "Operators"):
            _count(graph, what, _MAX_OBJECTS)
        for what in ("Buffers", "OperatorCodes"):
            _count(root, what, _MAX_OBJECTS)
        tensors = tuple(self._tensor(graph.Tensors(at)) for at in range(graph.TensorsLength()))
        operators = tuple(
            self._operator(at, graph.Operators(at), len(tensors))
            for at in range(graph.OperatorsLength())
        )
        inputs, outputs = (self._indices(graph, kind, len(tensors)) for kind in _ENDS)
        self._check_order(tensors, operators, inputs)
        return Model(self.where, tensors, operators, inputs, outputs)

    def _tensor(self, stored: Any) -> Tensor:
        shape = tuple(map(int, _vector(stored, "Shape", 16)))
        type_ = self.types.get(stored.Type(), f"of type {stored.Type()}")
        if not plausible(shape):
            raise self._damaged(f"a tensor has the shape {shape}", "one of few, positive sizes")
        if stored.Buffer() >= self.root.BuffersLength():
            raise self._damaged(f"a tensor is in buffer {stored.Buffer()}", "one that exists")
        buffer = self.root.Buffers(stored.Buffer())
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise self._damaged("a tensor is stored behind the flatbuffer", "none of a MoViNet's")
        data = buffer.DataAsNumpy() if buffer.DataLength() else None
        if data is not None and type_ in _DTYPES:
            wanted = math.prod(shape) * _DTYPES[type_].itemsize
            if data.size != wanted:
                raise self._damaged(f"a constant has {data.size:,} bytes", f"{wanted:,}")
        sparse = stored.Sparsity() is not None
        return Tensor(shape, type_, self._quantization(stored, shape), data, sparse)

    def _quantization(self, stored: Any, shape: tuple[int, ...]) -> Quantization | None:
        found = stored.Quantization()
        if found is None or not found.ScaleLength():
            return None
        scales = found.ScaleAsNumpy()
        zeros = found.ZeroPointAsNumpy() if found.ZeroPointLength() else np.zeros(1, np.int64)
        axis = found.QuantizedDimension()
        if scales.size > 1 and not (0 <= axis < len(shape) and scales.size == shape[axis]):
            raise self._damaged(f"a tensor of shape {shape} has {scales.size:,} scales", "others")
        if zeros.size not in (1, scales.size) or not np.isfinite(scales).all():
            raise self._damaged("a tensor's scales and zero points do not fit", "one for each")
        return Quantization(scales, np.broadcast_to(zeros, scales.shape), axis)

    def _operator(self, index: int, stored: Any, tensors: int) -> Operator:
        if stored.OpcodeIndex() >= self.root.OperatorCodesLength():
            raise self._damaged(f"an operator has code {stored.OpcodeIndex()}", "one that exists")
        code = self.root.OperatorCodes(stored.OpcodeIndex())
        # Files of older converters have the code in the first of these fields alone.
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        kind = self.kinds.get(number, f"operator {number}")
        if kind == "CUSTOM":
            kind = bytes(code.CustomCode() or b"")[:64].decode("ascii", "replace")
        inputs, outputs = (self._indices(stored, ends, tensors) for ends in _ENDS)
        options = flex_options(stored) if kind in FLEX else self._options(kind, stored)
        return Operator(index, kind, inputs, outputs, options)

    def _options(self, kind: str, stored: Any) -> dict[str, int]:
        if kind not in _OPTIONS:
            return {}
        name, fields = _OPTIONS[kind]
        options = getattr(self.schema, name)()
        table = stored.BuiltinOptions()
        wanted = getattr(self.schema.BuiltinOptions, name)
        if table is None or stored.BuiltinOptionsType() != wanted:
            raise self._damaged(f"an operator {kind} has no {name}", "them")
        options.Init(table.Bytes, table.Pos)
        return {field: int(getattr(options, field)()) for field in fields}

    def _indices(self, owner: Any, what: str, tensors: int) -> tuple[int, ...]:
        found = tuple(map(int, _vector(owner, what, _MAX_OPERANDS)))
        if any(not -1 <= index < tensors for index in found):
            raise self._damaged(f"there is no tensor {max(found)}", f"one of {tensors:,}")
        return found

    def _check_order(
        self, tensors: tuple[Tensor, ...], operators: tuple[Operator, ...], inputs: tuple[int, ...]
    ) -> None:
        """Every operand must be known before it is used, so that the graph has no cycle."""
        known = {-1, *inputs, *(at for at, tensor in enumerate(tensors) if tensor.data is not None)}
        for operator in operators:
            if not known.issuperset(operator.inputs) or not known.isdisjoint(operator.outputs):
                raise self._damaged(f"operator {operator.index} comes too early", "an order")
            known.update(operator.outputs)

    def _damaged(self, found: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} cannot be read as a TFLite file: {found}, and {expected} was expected; "
            "it is damaged, or of another program."
        )


_ENDS = ("Inputs", "Outputs")


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _count(owner: Any, what: str, most: int) -> int:
    count: int = getattr(owner, f"{what}Length")()
    if count > most:
        raise ValueError(f"{count:,} {what.lower()}, more than the {most:,} that are read")
    return count


def _vector(owner: Any, what: str, most: int) -> NDArray[np.int32]:
    if not _count(owner, what, most):
        return np.empty(0, np.int32)
    values: NDArray[np.int32] = getattr(owner, f"{what}AsNumpy")()
    return values
