"""Write TFLite files of stream models without TensorFlow: as its converter does, or not quite.

The weights are random. Files that TensorFlow's converter wrote are in ``tests/checkpoint``; those
here are small, written in an instant, and can be wrong in any way that a test asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import tflite

from movinet_convert.variants import ArchSpec, BlockSpec, Gating, StageSpec, squeeze_width

# Of every kind of block there is; no other architecture has three.
TINY = ArchSpec(
    stem=8,
    stages=(
        StageSpec(8, 2, ((16, (1, 5, 5)),)),
        StageSpec(16, 2, ((24, (3, 3, 3)), (24, (5, 3, 3)))),
    ),
    head=24,
    classifier=32,
    dropout=0.2,
)
_OPTIONS = {
    "ADD": "Add",
    "MUL": "Mul",
    "DIV": "Div",
    "CUMSUM": "Cumsum",
    "CONCATENATION": "Concatenation",
    "AVERAGE_POOL_2D": "Pool2D",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
}
_WINDOW = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
_DEFAULTS = {"CONV_2D": _WINDOW, "DEPTHWISE_CONV_2D": {**_WINDOW, "DepthMultiplier": 1}}


class GraphWriter:
    """Builds a file operator by operator; tensors are numbers."""

    def __init__(self) -> None:
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[dict[str, Any]] = []
        self.inputs: list[int] = []

    def tensor(self, shape: Sequence[int], type: str = "FLOAT32", **more: Any) -> int:
        self.tensors.append({"shape": tuple(shape), "type": type, **more})
        return len(self.tensors) - 1

    def input(self, *shape: int, type: str = "FLOAT32") -> int:
        self.inputs.append(self.tensor(shape, type))
        return self.inputs[-1]

    def constant(self, values: Any, dtype: type[np.generic] = np.float32) -> int:
        array = np.asarray(values, dtype)
        return self.tensor(array.shape, array.dtype.name.upper(), data=array.tobytes())

    def quantized(self, values: np.ndarray, axis: int) -> int:
        """8 bits, with a scale for each index of ``axis``."""
        others = tuple(at for at in range(values.ndim) if at != axis)
        scales = (np.abs(values).max(others, keepdims=True) / 127).astype(np.float32)
        stored = np.round(values / scales).astype(np.int8)
        quantization = {"scales": scales.ravel(), "axis": axis}
        return self.tensor(values.shape, "INT8", data=stored.tobytes(), quantization=quantization)

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        type: str = "FLOAT32",
        **options: int,
    ) -> int:
        output = self.tensor(shape, type)
        operator = {"kind": kind, "inputs": list(inputs), "outputs": [output], "options": options}
        self.operators.append(operator)
        return output

    def shape(self, tensor: int) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.tensors[tensor]["shape"]
        return shape

    def write(self, outputs: Sequence[int]) -> bytes:
        """The file."""
        b = flatbuffers.Builder(1 << 16)
        kinds = sorted({operator["kind"] for operator in self.operators})
        codes = []
        for kind in kinds:
            number = getattr(tflite.BuiltinOperator, kind)
            old = min(number, 127)
            codes.append(_table(b, "OperatorCode", DeprecatedBuiltinCode=old, BuiltinCode=number))
        contents = [b"", *(tensor.get("data", b"") for tensor in self.tensors)]
        buffers = [_table(b, "Buffer", **({"Data": _vector(b, c)} if c else {})) for c in contents]
        tensors = [self._tensor(b, at + 1, tensor) for at, tensor in enumerate(self.tensors)]
        operators = [self._operator(b, kinds, operator) for operator in self.operators]
        graph = _table(
            b,
            "SubGraph",
            Tensors=_offsets(b, tensors),
            Inputs=_vector(b, np.array(self.inputs, np.int32)),
            Outputs=_vector(b, np.array(outputs, np.int32)),
            Operators=_offsets(b, operators),
        )
        model = _table(
            b,
            "Model",
            Version=3,
            OperatorCodes=_offsets(b, codes),
            Subgraphs=_offsets(b, [graph]),
            Buffers=_offsets(b, buffers),
        )
        b.Finish(model, b"TFL3")
        return bytes(b.Output())

    def _tensor(self, b: Any, buffer: int, tensor: dict[str, Any]) -> int:
        parts = {"Shape": _vector(b, np.array(tensor["shape"], np.int32))}
        if "quantization" in tensor:
            found = tensor["quantization"]
            parts["Quantization"] = _table(
                b,
                "QuantizationParameters",
                Scale=_vector(b, found["scales"]),
                ZeroPoint=_vector(b, np.zeros(found["scales"].size, np.int64)),
                QuantizedDimension=found["axis"],
            )
        if tensor.get("sparse"):
            parts["Sparsity"] = _table(b, "SparsityParameters")
        type_ = getattr(tflite.TensorType, tensor["type"])
        return _table(b, "Tensor", Type=type_, Buffer=buffer, **parts)

    def _operator(self, b: Any, kinds: list[str], operator: dict[str, Any]) -> int:
        parts = {name: _vector(b, np.array(operator[name.lower()], np.int32)) for name in _ENDS}
        kind = operator["kind"]
        if kind in _OPTIONS:
            name = f"{_OPTIONS[kind]}Options"
            options = {**_DEFAULTS.get(kind, {}), **operator["options"]}
            parts["BuiltinOptions"] = _table(b, name, **options)
            parts["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, name)
        return _table(b, "Operator", OpcodeIndex=kinds.index(kind), **parts)


_ENDS = ("Inputs", "Outputs")


def _table(b: Any, name: str, **fields: Any) -> int:
    getattr(tflite, f"{name}Start")(b)
    for field, value in fields.items():
        getattr(tflite, f"{name}Add{field}")(b, value)
    return int(getattr(tflite, f"{name}End")(b))


def _vector(b: Any, values: bytes | np.ndarray) -> int:
    return int(
        b.CreateByteVector(values) if isinstance(values, bytes) else b.CreateNumpyVector(values)
    )


def _offsets(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


class StreamWriter(GraphWriter):
    """A stream model, spelled as TensorFlow's converter does; a subclass spells it another way."""

    def __init__(
        self,
        spec: ArchSpec = TINY,
        *,
        gating: Gating = "keras",
        classes: int = 7,
        size: int = 32,
        eight_bits: bool = True,
    ) -> None:
        super().__init__()
        self.spec, self.gating, self.classes, self.size = spec, gating, classes, size
        self.eight_bits = eight_bits
        self.generator = np.random.default_rng(7)

    def file(self) -> bytes:
        return self.write(self.build())

    def build(self) -> list[int]:
        """Add all operators; returns the outputs."""
        image = self.input(1, 1, self.size, self.size, 3)
        x = self.reshape(image, 1, self.size, self.size, 3)
        x = self.hard_swish(self.convolution(x, self.spec.stem, 3, stride=2))
        for block in self.spec.blocks:
            x = self.block(x, block)
        x = self.hard_swish(self.convolution(x, self.spec.head))
        x = self.mean_so_far(self.mean(x))
        x = self.head_activation(self.convolution(x, self.spec.classifier))
        logits = self.convolution(x, self.classes)
        return [self.reshape(logits, 1, self.classes)]

    def block(self, x: int, block: BlockSpec) -> int:
        features = self.hard_swish(self.convolution(x, block.expanded))
        features = self.hard_swish(self.depthwise(features, block.kernel[1], block.stride))
        if block.kernel[0] > 1:
            features = self.temporal(features, block.kernel[0])
        features = self.attended(features, block)
        residual = self.rezero(self.convolution(features, block.outputs))
        return self.add("ADD", (residual, self.skip(x, block)), self.shape(residual))

    def attended(self, features: int, block: BlockSpec) -> int:
        gates = self.gate(self.squeezed(features, block))
        return self.add("MUL", (gates, features), self.shape(features))

    def skip(self, x: int, block: BlockSpec) -> int:
        if block.stride > 1:
            _, height, width, channels = self.shape(x)
            shape = (1, -(-height // 2), -(-width // 2), channels)
            window = {"StrideH": 2, "StrideW": 2, "FilterHeight": 3, "FilterWidth": 3}
            x = self.add("AVERAGE_POOL_2D", (x,), shape, **window)
        return self.convolution(x, block.outputs) if block.has_skip_projection else x

    def squeezed(self, features: int, block: BlockSpec) -> int:
        mean = self.mean(features)
        channels = block.expanded
        parts = (self.mean_so_far(mean), mean)
        x = self.add("CONCATENATION", parts, (1, 1, 1, 2 * channels), Axis=-1)
        return self.hard_swish(self.convolution(x, squeeze_width(channels, "2plus3d")))

    def gate(self, x: int) -> int:
        """The gate, whose other constants are folded into the convolution."""
        channels = self.shape(self.last_features)[-1]
        if self.gating == "keras":
            x = self.convolution(x, channels)
            x = self.add("MINIMUM", (x, self.constant(1.0)), self.shape(x))
            return self.add("RELU", (x,), self.shape(x))
        x = self.convolution(x, channels, FusedActivationFunction=3)
        return self.add("MUL", (x, self.constant(0.16667)), self.shape(x))

    def mean(self, x: int) -> int:
        self.last_features = x
        axes = self.constant([1, 2], np.int32)
        return self.add("MEAN", (x, axes), (1, 1, 1, self.shape(x)[-1]))

    def mean_so_far(self, mean: int) -> int:
        total = self.add("ADD", (mean, self.input(*self.shape(mean))), self.shape(mean))
        one = self.constant(1, np.int32)
        count = self.add("ADD", (self.input(1, type="INT32"), one), (1,), "INT32")
        count = self.add("CAST", (count,), (1,))
        return self.add("DIV", (total, count), self.shape(mean))

    def temporal(self, x: int, length: int) -> int:
        _, height, width, channels = self.shape(x)
        frame = self.reshape(x, 1, 1, height, width, channels)
        buffer = self.input(1, length - 1, height, width, channels)
        frames = (1, length, height, width, channels)
        joined = self.add("CONCATENATION", (buffer, frame), frames, Axis=1)
        x = self.reshape(joined, 1, length, height * width, channels)
        kernel = self.weights((1, length, 1, channels), 3)
        shape = (1, 1, height * width, channels)
        x = self.add("DEPTHWISE_CONV_2D", (x, kernel, self.bias(channels)), shape, Padding=1)
        return self.reshape(self.hard_swish(x), 1, height, width, channels)

    def rezero(self, x: int) -> int:
        return self.add("MUL", (x, self.constant(1.5)), self.shape(x))

    def hard_swish(self, x: int) -> int:
        return self.add("HARD_SWISH", (x,), self.shape(x))

    def head_activation(self, x: int) -> int:
        sigmoid = self.add("LOGISTIC", (x,), self.shape(x))
        return self.add("MUL", (x, sigmoid), self.shape(x))

    def reshape(self, x: int, *shape: int) -> int:
        return self.add("RESHAPE", (x, self.constant(shape, np.int32)), shape)

    def convolution(
        self, x: int, outputs: int, kernel: int = 1, stride: int = 1, **options: int
    ) -> int:
        _, height, width, inputs = self.shape(x)
        weights = self.weights((outputs, kernel, kernel, inputs), 0)
        shape = (1, -(-height // stride), -(-width // stride), outputs)
        options = {"StrideH": stride, "StrideW": stride, **options}
        return self.add("CONV_2D", (x, weights, self.bias(outputs)), shape, **options)

    def depthwise(self, x: int, kernel: int, stride: int) -> int:
        _, height, width, channels = self.shape(x)
        weights = self.weights((1, kernel, kernel, channels), 3)
        shape = (1, -(-height // stride), -(-width // stride), channels)
        strides = {"StrideH": stride, "StrideW": stride}
        return self.add("DEPTHWISE_CONV_2D", (x, weights, self.bias(channels)), shape, **strides)

    def weights(self, shape: tuple[int, ...], axis: int) -> int:
        values = self.generator.normal(size=shape).astype(np.float32)
        if self.eight_bits and math.prod(shape) >= 256:
            return self.quantized(values, axis)
        return self.constant(values)

    def bias(self, channels: int) -> int:
        return self.constant(self.generator.normal(size=channels))
