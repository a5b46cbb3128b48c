"""8 bits in an OpenVINO model: weights as scaled integers, and layers with integer inputs.

Where a FakeQuantize is in front of such a layer, OpenVINO computes it in integers. Otherwise it
scales the weights of a convolution when it loads the file; those of a matrix product stay integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export.quantization.fake import LEVELS, Range, integers

OPERATORS = ("Convolution", "GroupConvolution", "MatMul")


def quantize_model(
    model: Any, paths: Mapping[str, str], scales: Mapping[str, Tensor], ranges: Mapping[str, Range]
) -> None:
    """Store the weights of all layers in 8 bits, and quantize the inputs of some, in place.

    ``paths`` are those of ``module_paths``. Each layer's weights are multiples of its ``scales``
    (O,); ``ranges`` are of the inputs to quantize. Raises ExportError if a layer is not found.
    """
    found = set()
    for node in model.get_ordered_ops():
        path = paths.get(node.friendly_name.partition("/")[0])
        if path is None or path not in scales or node.get_type_name() not in OPERATORS:
            continue
        weight, scale = node.input_value(1).get_node().data, scales[path].numpy()
        if path not in ranges and _takes_a_vector(node):
            _as_matrix_product(node, weight, scale)
        else:
            node.input(1).replace_source_output(_scaled_integers(weight, scale))
        if path in ranges:
            node.input(0).replace_source_output(_fake_quantized(node.input_value(0), ranges[path]))
        found.add(path)
    if found != scales.keys():
        raise ExportError(
            f"No operator of OpenVINO was found for {min(scales.keys() - found)}; nothing was "
            "written. Install the version in constraints.txt."
        )


def module_paths(graph: Any) -> dict[str, str]:
    """By name, the module that each operator of a PyTorch graph is in.

    OpenVINO's operators have these names, with a suffix after a slash.
    """
    stacks = {node.name: node.meta.get("nn_module_stack") for node in graph.nodes}
    # A module that is called again is "path@1".
    return {
        name: list(stack.values())[-1][0].partition("@")[0]
        for name, stack in stacks.items()
        if stack
    }


def _scaled_integers(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> Any:
    """(O, …) -> the output of a multiplication of integers by (O,)."""
    from openvino import opset13

    scale = scale.reshape(-1, *[1] * (weight.ndim - 1))
    floats = opset13.convert(opset13.constant(integers(weight, scale)), "f32")
    return opset13.multiply(floats, opset13.constant(scale)).output(0)


def _fake_quantized(x: Any, limits: Range) -> Any:
    from openvino import opset13

    scale, zero = limits.affine()
    low = opset13.constant((-zero * scale).numpy())
    high = opset13.constant(((LEVELS - zero) * scale).numpy())
    return opset13.fake_quantize(x, low, high, low, high, LEVELS + 1).output(0)


def _takes_a_vector(node: Any) -> bool:
    """Whether it is a convolution of (B, C, 1, 1) by (O, C, 1, 1)."""
    shapes = [node.input(i).get_partial_shape() for i in range(2)]
    if node.get_type_name() != "Convolution" or any(shape.is_dynamic for shape in shapes):
        return False
    return all(list(shape.to_shape())[2:] == [1, 1] for shape in shapes)


def _as_matrix_product(node: Any, weight: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
    from openvino import opset13

    batch, channels = list(node.input(0).get_shape())[:2]
    vector = opset13.reshape(node.input_value(0), [batch, channels], False)
    matrix = _scaled_integers(weight.reshape(-1, channels), scale)
    product = opset13.matmul(vector, matrix, False, True)
    image = opset13.reshape(product, list(node.output(0).get_shape()), False)
    node.output(0).replace(image.output(0))
