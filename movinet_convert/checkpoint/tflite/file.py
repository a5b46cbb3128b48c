"""Read the flatbuffer of a TFLite file into plain values, without its interpreter.

The package ``tflite`` has the classes that the FlatBuffers compiler generates from TensorFlow's
schema. They raise where an offset leads out of the file, but believe every count, index and size;
those are checked here, and nothing of the schema is visible outside of this module.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.random_access import ByteRange
from movinet_convert.checkpoint.tensor_source import MAX_RANK, plausible
from movinet_convert.checkpoint.tflite.flex import FLEX, PADDING, flex_options
from movinet_convert.checkpoint.tflite.model import DTYPES, Model, Operator, Quantization, Tensor
from movinet_convert.errors import CheckpointError

TFLITE_MAGIC = b"TFL3"  # behind the four bytes of the root's offset
# An A5 has 126 MB of float32 weights, 3,000 operators, 5,000 tensors and 220 states.
_MAX_BYTES = 256 << 20
_MAX_OBJECTS = 10_000
_MAX_STATES = 512
_MAX_OPERANDS = 16
_MAX_CODES = 256
_MAX_NAMES = 4096  # bytes of all custom operators' names
_MAX_CUSTOM_OPTIONS = 4096
_MAX_SCALES = 1 << 20  # of all tensors

_NO_WEIGHTS = ("BOOL", "STRING", "UINT16", "UINT32", "UINT64", "RESOURCE", "VARIANT")
_WINDOW = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
_CONVOLUTION = (*_WINDOW, "DilationHFactor", "DilationWFactor")
_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_WINDOW, "FilterHeight", "FilterWidth")),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "CONV_2D": ("Conv2DOptions", _CONVOLUTION),
    "CONV_3D": ("Conv3DOptions", (*_CONVOLUTION, "StrideD", "DilationDFactor")),
    "CUMSUM": ("CumsumOptions", ("Exclusive",)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONVOLUTION, "DepthMultiplier")),
    "DIV": ("DivOptions", ("FusedActivationFunction",)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "MUL": ("MulOptions", ("FusedActivationFunction",)),
}


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
        raise _damaged(content.name, "an offset leads out of it") from error


class _Parser:
    def __init__(self, content: ByteRange) -> None:
        import tflite  # its 190 modules are imported for a TFLite file alone

        self.where = content.name
        self.schema: Any = tflite
        self.root: Any = tflite.Model.GetRootAs(content.read(0, content.size).data, 0)
        self.types = _names(tflite.TensorType)
        self.total_scales = 0

    def model(self) -> Model:
        self._length(self.root, "Buffers", _MAX_OBJECTS)
        kinds = self._kinds(_names(self.schema.BuiltinOperator))
        if self.root.SubgraphsLength() != 1:
            raise self._damaged(f"it has {self.root.SubgraphsLength():,} graphs instead of one")
        graph = self.root.Subgraphs(0)
        tensors = tuple(
            self._tensor(graph.Tensors(at))
            for at in range(self._length(graph, "Tensors", _MAX_OBJECTS))
        )
        operators = tuple(
            self._operator(at, graph.Operators(at), kinds, len(tensors))
            for at in range(self._length(graph, "Operators", _MAX_OBJECTS))
        )
        inputs, outputs = (
            self._indices(graph, ends, len(tensors), _MAX_STATES) for ends in ("Inputs", "Outputs")
        )
        self._check_order(tensors, operators, inputs)
        return Model(self.where, tensors, operators, inputs, outputs)

    def _kinds(self, names: dict[int, str]) -> list[str]:
        """The name of each operator code; that of a custom operator is in the file."""
        kinds, total = [], 0
        for at in range(self._length(self.root, "OperatorCodes", _MAX_CODES)):
            code = self.root.OperatorCodes(at)
            # Files of older converters have the number in the first of these fields alone.
            number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
            kind = names.get(number, f"number {number}")
            custom = bytes(code.CustomCode() or b"")
            total += len(custom)
            if total > _MAX_NAMES:
                raise self._damaged("its operators have longer names than any MoViNet's")
            kinds.append(custom.decode("ascii", "replace") if kind == "CUSTOM" else kind)
        return kinds

    def _tensor(self, stored: Any) -> Tensor:
        shape = tuple(map(int, self._vector(stored, "Shape", MAX_RANK)))
        type_ = self.types.get(stored.Type(), f"type {stored.Type()}")
        if not plausible(shape):
            raise self._damaged(f"a tensor has the shape {shape}")
        if stored.Buffer() >= self.root.BuffersLength():
            raise self._damaged(f"a tensor is in buffer {stored.Buffer():,}, which does not exist")
        buffer = self.root.Buffers(stored.Buffer())
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise self._damaged("it has data behind the flatbuffer, as only files beyond 2 GB do")
        data = buffer.DataAsNumpy() if buffer.DataLength() else None
        if data is not None and type_ in DTYPES:
            wanted = math.prod(shape) * DTYPES[type_].itemsize
            if data.size != wanted:
                raise self._damaged(f"a constant has {data.size:,} bytes instead of {wanted:,}")
        known = type_ in DTYPES or type_ in _NO_WEIGHTS
        if data is not None and (stored.Sparsity() is not None or not known):
            kind = "sparse" if known else f"of type {type_}"
            raise CheckpointError(
                f"{self.where} has a constant that is {kind}, which is not read; write the file "
                "with weights in float32, float16 or 8 bits."
            )
        return Tensor(shape, type_, self._quantization(stored, shape), data)

    def _quantization(self, stored: Any, shape: tuple[int, ...]) -> Quantization | None:
        found = stored.Quantization()
        if found is None or not found.ScaleLength():
            return None
        scales = found.ScaleAsNumpy()
        self.total_scales += scales.size
        zeros = found.ZeroPointAsNumpy() if found.ZeroPointLength() else np.zeros(1, np.int64)
        axis = found.QuantizedDimension()
        fits = scales.size == 1 or (0 <= axis < len(shape) and scales.size == shape[axis])
        if not fits or zeros.size not in (1, scales.size):
            raise self._damaged(
                f"a tensor of shape {shape} has {scales.size:,} scales and {zeros.size:,} zero "
                "points"
            )
        if self.total_scales > _MAX_SCALES or not np.isfinite(scales).all():
            raise self._damaged("the scales of its tensors are too many, or not finite")
        return Quantization(scales, np.broadcast_to(zeros, scales.shape), axis)

    def _operator(self, index: int, stored: Any, kinds: list[str], tensors: int) -> Operator:
        if stored.OpcodeIndex() >= len(kinds):
            raise self._damaged(f"operator {index} is of kind {stored.OpcodeIndex():,}")
        kind = kinds[stored.OpcodeIndex()]
        inputs, outputs = (
            self._indices(stored, ends, tensors, _MAX_OPERANDS) for ends in ("Inputs", "Outputs")
        )
        if kind in FLEX:
            self._length(stored, "CustomOptions", _MAX_CUSTOM_OPTIONS)
            options = flex_options(stored)
        else:
            options = self._options(index, kind, stored)
        return Operator(index, kind, inputs, outputs, options)

    def _options(self, index: int, kind: str, stored: Any) -> dict[str, int]:
        if kind not in _OPTIONS:
            return {}
        name, fields = _OPTIONS[kind]
        options = getattr(self.schema, name)()
        table = stored.BuiltinOptions()
        wanted = getattr(self.schema.BuiltinOptions, name)
        if table is None or stored.BuiltinOptionsType() != wanted:
            raise self._damaged(f"operator {index} ({kind}) has no {name}")
        options.Init(table.Bytes, table.Pos)
        found = {field: int(getattr(options, field)()) for field in fields}
        if found.get("Padding", 0) not in range(len(PADDING)):
            raise self._damaged(f"operator {index} ({kind}) has the padding {found['Padding']}")
        return found

    def _indices(self, owner: Any, what: str, tensors: int, most: int) -> tuple[int, ...]:
        found = tuple(map(int, self._vector(owner, what, most)))
        for index in found:
            if not -1 <= index < tensors:
                raise self._damaged(f"it uses tensor {index:,} of {tensors:,}")
        return found

    def _check_order(
        self, tensors: tuple[Tensor, ...], operators: tuple[Operator, ...], inputs: tuple[int, ...]
    ) -> None:
        """Every operand must be known before it is used, so that the graph has no cycle."""
        known = {-1, *inputs, *(at for at, tensor in enumerate(tensors) if tensor.data is not None)}
        for found in operators:
            if not known.issuperset(found.inputs) or not known.isdisjoint(found.outputs):
                raise self._damaged(
                    f"operator {found.index} ({found.kind}) uses a result that comes later, or "
                    "writes one again"
                )
            known.update(found.outputs)

    def _vector(self, owner: Any, what: str, most: int) -> NDArray[np.int32]:
        if not self._length(owner, what, most):
            return np.empty(0, np.int32)
        values: NDArray[np.int32] = getattr(owner, f"{what}AsNumpy")()
        return values

    def _length(self, owner: Any, what: str, most: int) -> int:
        """The length of a vector, which is only claimed and may be anything."""
        length: int = getattr(owner, f"{what}Length")()
        if length > most:
            raise self._damaged(f"{what} has {length:,} entries, more than in any MoViNet")
        return length

    def _damaged(self, problem: str) -> CheckpointError:
        return _damaged(self.where, problem)


def _damaged(where: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{where} cannot be read as TFLite: {problem}; it is truncated or damaged, or by a program "
        "that is not known: get it again."
    )


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
