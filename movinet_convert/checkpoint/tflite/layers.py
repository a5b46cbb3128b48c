"""The layers of a network in a TFLite graph, in the spellings of the converters.

Normalisation is folded into a convolution's kernel or is a scale and a shift behind it, activations
are fused or not, and a gate's constants may be folded into the convolution in front of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.tensor_source import Array
from movinet_convert.checkpoint.tflite.flex import PADDING
from movinet_convert.checkpoint.tflite.graph import TOLERANCE, Graph, is_near
from movinet_convert.checkpoint.tflite.model import FUSED, Operator, Tensor
from movinet_convert.variants import Activation, Gating

Shape3D = tuple[int, int, int, int, int]  # frames, height, width, inputs, outputs
_RANKS = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 2, "CONV_3D": 5, "FlexConv3D": 5}
# What no layer of a MoViNet has.
_ALWAYS_ONE = ("DilationDFactor", "DilationHFactor", "DilationWFactor", "DepthMultiplier")


@dataclass(frozen=True)
class Convolution:
    """``gamma * conv(input) + beta``, of which each constant but the kernel may be absent.

    ``input`` is the tensor in front of an operator that pads, and ``pads`` its amounts.
    """

    operator: Operator
    input: int
    kernel: Tensor
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    pads: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> Shape3D:
        """The shape of the kernel as one of TensorFlow's 3D convolution; depthwise has 1 input."""
        kind, shape = self.operator.kind, self.kernel.shape
        if kind == "FULLY_CONNECTED":
            return 1, 1, 1, shape[1], shape[0]
        if kind == "CONV_2D":
            return 1, shape[1], shape[2], shape[3], shape[0]
        if kind == "DEPTHWISE_CONV_2D":
            return 1, shape[1], shape[2], 1, shape[3]
        return shape[0], shape[1], shape[2], shape[3], shape[4]

    def kernel_values(self) -> NDArray[np.float32]:
        """The kernel in the layout of ``shape``."""
        values: Array = self.kernel.real()
        if self.operator.kind == "CONV_2D":
            values = values.transpose(1, 2, 3, 0)
        elif self.operator.kind == "FULLY_CONNECTED":
            values = values.T
        return values.reshape(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[4]

    @property
    def pointwise(self) -> bool:
        return self.shape[:3] == (1, 1, 1) and self.stride == (1, 1, 1)

    @property
    def stride(self) -> tuple[int, int, int]:
        options = self.operator.options
        return tuple(options.get(f"Stride{axis}", 1) for axis in "DHW")  # type: ignore[return-value]

    @property
    def padding(self) -> str:
        return PADDING[self.operator.options.get("Padding", 1)]


@dataclass(frozen=True)
class Gate:
    """A gate, and the convolution in front of it, which computes ``scale * x + shift``."""

    gating: Gating
    convolution: Convolution
    scale: float
    shift: float


def find_convolution(graph: Graph, tensor: int, fused: str = "NONE") -> Convolution | None:
    """The convolution that computed ``tensor``, with the scale and the shift behind it."""
    inside, gamma, beta = tensor, None, None
    if (shifted := graph.with_constant(inside, "ADD")) is not None:
        inside, beta = shifted
    if (scaled := graph.with_constant(inside, "MUL")) is not None:
        inside, gamma = scaled
    found = graph.operator(inside, *_RANKS)
    if found is None or not 2 <= len(found.inputs) <= 3:
        return None
    kernel = graph.constant(found.inputs[1])
    has_bias = len(found.inputs) == 3 and found.inputs[2] >= 0
    bias = graph.constant(found.inputs[2]) if has_bias else None
    if kernel is None or (has_bias and bias is None) or not _is_plain(found, kernel, fused):
        return None
    input_, pads = _padded(graph, found.inputs[0])
    layer = Convolution(found, input_, kernel, bias, gamma, beta, pads)
    vectors = [vector for vector in (bias, gamma, beta) if vector is not None]
    fits = all(math.prod(vector.shape) == layer.channels for vector in vectors)
    return layer if fits and all(v.readable for v in (kernel, *vectors)) else None


def _is_plain(found: Operator, kernel: Tensor, fused: str) -> bool:
    options = found.options
    return (
        len(kernel.shape) == _RANKS[found.kind]
        and min(kernel.shape) > 0
        and all(options.get(name, 1) == 1 for name in _ALWAYS_ONE)
        and options.get("WeightsFormat", 0) == 0
        and options.get("FusedActivationFunction", 0) == FUSED.index(fused)
        and (found.kind != "DEPTHWISE_CONV_2D" or kernel.shape[0] == 1)
    )


def _padded(graph: Graph, tensor: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    found = graph.operator(tensor, "PAD")
    amounts = graph.integers(found.inputs[1]) if found and len(found.inputs) == 2 else ()
    if found is None or not amounts:
        return tensor, ()
    pairs = zip(amounts[::2], amounts[1::2], strict=False)
    return found.inputs[0], tuple(pair for pair in pairs if pair != (0, 0))


def find_activation(graph: Graph, tensor: int) -> tuple[Activation, int] | None:
    """The activation that computed ``tensor``, and its input."""
    inside = graph.unary(tensor, "HARD_SWISH")
    if inside is None:
        inside = _hard_swish(graph, tensor)
    if inside is not None:
        return "hard_swish", inside
    for sigmoid, inside in graph.either_way(tensor, "MUL"):
        of = graph.unary(sigmoid, "LOGISTIC")
        if of is not None and graph.same(of, inside):
            return "swish", inside
    return None


def _hard_swish(graph: Graph, tensor: int) -> int | None:
    """The input x of ``x * relu6(x + 3) / 6`` in several operators."""
    scaled = graph.with_scalar(tensor, "MUL", 1 / 6)
    for inside, factor in graph.either_way(scaled[0], "MUL") if scaled else ():
        limited = graph.unary(factor, "RELU6")
        shifted = (
            graph.with_scalar(factor, "ADD", 3.0, "RELU6")
            if limited is None
            else graph.with_scalar(limited, "ADD", 3.0)
        )
        if shifted is not None and graph.same(shifted[0], inside):
            return inside
    return None


def find_gate(graph: Graph, tensor: int) -> Gate | None:
    """The gate that computed ``tensor``: a sigmoid, or one of the two hard sigmoids."""
    inside = graph.unary(tensor, "LOGISTIC")
    if inside is not None:
        return _gate(graph, "sigmoid", inside, 1.0, 0.0)
    scaled = graph.with_scalar(tensor, "MUL", 1 / 6)
    if scaled is not None:
        return _model_garden_gate(graph, scaled[0])
    return _keras_gate(graph, tensor)


def _model_garden_gate(graph: Graph, tensor: int) -> Gate | None:
    """``relu6(x + 3)``, in front of the product with 0.16667."""
    inside = graph.unary(tensor, "RELU6")
    fused = "NONE" if inside is not None else "RELU6"
    inside = tensor if inside is None else inside
    shifted = graph.with_scalar(inside, "ADD", 3.0, fused)
    if shifted is not None:
        return _gate(graph, "model-garden", shifted[0], 1.0, 0.0)
    return _gate(graph, "model-garden", inside, 1.0, 3.0, fused)


def _keras_gate(graph: Graph, tensor: int) -> Gate | None:
    """``clip(0.2 x + 0.5, 0, 1)``; the clip alone is left where the rest was folded."""
    inside = _clipped(graph, tensor)
    if inside is None:
        return None
    shifted = graph.with_scalar(inside, "ADD", 0.5)
    scaled = graph.with_scalar(shifted[0], "MUL", 0.2) if shifted else None
    if scaled is not None:
        return _gate(graph, "keras", scaled[0], 1.0, 0.0)
    return _gate(graph, "keras", inside, float(np.float32(0.2)), 0.5)


def _clipped(graph: Graph, tensor: int) -> int | None:
    """The input of a clip to 0 and 1: of one operator, or of two in either order."""
    inside = graph.unary(tensor, "RELU_0_TO_1")
    if inside is not None:
        return inside
    positive = _above_zero(graph, tensor)
    if positive is not None:
        return _below_one(graph, positive)
    limited = _below_one(graph, tensor)
    return _above_zero(graph, limited) if limited is not None else None


def _above_zero(graph: Graph, tensor: int) -> int | None:
    """The input of ``maximum(x, 0)``."""
    limited = graph.with_scalar(tensor, "MAXIMUM", 0.0)
    return limited[0] if limited is not None else graph.unary(tensor, "RELU")


def _below_one(graph: Graph, tensor: int) -> int | None:
    """The input of ``minimum(x, 1)``; 8 bits whose range ends below 1 have its end instead."""
    limited = graph.with_scalar(tensor, "MINIMUM")
    if limited is None:
        return None
    value, limit = float(limited[1].real().reshape(())), limited[1]
    at_end = limit.type == "INT8" and int(limit.stored.reshape(())) == np.iinfo(np.int8).max
    return limited[0] if is_near(limit, 1.0) or (at_end and 0 < value < 1) else None


def _gate(
    graph: Graph, gating: Gating, tensor: int, scale: float, shift: float, fused: str = "NONE"
) -> Gate | None:
    convolution = find_convolution(graph, tensor, fused)
    return Gate(gating, convolution, scale, shift) if convolution else None


def find_mean(graph: Graph, tensor: int, channels: int) -> int | None:
    """The tensor that ``tensor`` is the mean of, over all positions of each of ``channels``."""
    factor, inside = 1.0, _without_zeros(graph, tensor)
    while (scaled := graph.with_scalar(inside, "MUL") or _quotient(graph, inside)) is not None:
        number = float(scaled[1].real().reshape(()))
        if graph.operator(inside, "DIV"):
            number = 1 / number if number else 0.0
        factor *= number
        inside = _without_zeros(graph, scaled[0])
    found = graph.operator(inside, "SUM", "MEAN")
    if found is None or graph.elements(found.outputs[0]) != channels:
        return None
    source = found.inputs[0]
    positions = graph.elements(source) / channels if found.kind == "SUM" else 1.0
    return source if math.isclose(factor * positions, 1.0, rel_tol=TOLERANCE) else None


def _quotient(graph: Graph, tensor: int) -> tuple[int, Tensor] | None:
    """The dividend and the constant divisor of ``tensor``."""
    operands = graph.binary(tensor, "DIV")
    is_divisor = operands is not None and graph.is_constant(operands[1])
    return graph.with_scalar(tensor, "DIV") if is_divisor else None


def _without_zeros(graph: Graph, tensor: int) -> int:
    """The tensor that zeros are added to, which stand for the state of a base model."""
    for inside, zeros in graph.either_way(tensor, "ADD"):
        if graph.operator(zeros, "ZEROS_LIKE"):
            return inside
    return tensor


def find_pair(graph: Graph, tensor: int) -> Operator | None:
    """The concatenation of two tensors that ``tensor`` is."""
    found = graph.operator(tensor, "CONCATENATION")
    if found is None or len(found.inputs) != 2 or found.options["FusedActivationFunction"]:
        return None
    return found


def joins_channels(graph: Graph, pair: Operator) -> bool:
    """Whether a concatenation is along the last axis."""
    rank = len(graph.shape(pair.outputs[0]))
    return rank > 0 and pair.options["Axis"] in (-1, rank - 1)


def is_relu6_network(graph: Graph) -> bool:
    """Whether stream buffers are followed by a relu6, and no product of two layers is a gate."""
    operators = [found for found in graph.model.operators if found.outputs]
    over_time = (find_convolution(graph, found.outputs[0], "RELU6") for found in operators)
    pairs = (find_pair(graph, layer.input) for layer in over_time if layer is not None)
    if not any(any(map(graph.is_state, pair.inputs)) for pair in pairs if pair is not None):
        return False
    products = [found for found in operators if found.kind == "MUL"]
    factors = [
        at
        for found in products
        for at in found.inputs
        if not find_activation(graph, found.outputs[0])
    ]
    return not any(find_gate(graph, at) for at in factors if at >= 0)
