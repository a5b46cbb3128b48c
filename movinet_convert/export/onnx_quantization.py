"""8 bits in an ONNX model: weights as integers, and layers computed in integers."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export.quantization.fake import Range, integers, weight_scale

SCOPES = "pkg.torch.onnx.name_scopes"  # of PyTorch's exporter: modules by path, then the operator
OPERATORS = ("Conv", "Gemm", "MatMul")


def store_in_8_bits(graph: Any, scales: Mapping[str, Tensor]) -> None:
    """Replace the weights of layers by integers, a cast and a multiplication, in place.

    The weights of each layer are multiples of its ``scales`` (O,). ONNX Runtime computes these
    operators when it loads the file, unlike DequantizeLinear, which it keeps by default. Raises
    ExportError if a layer is not found.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    stored: dict[str, list[Any]] = {}  # operators, by the weight that they compute
    found = set()
    for node in graph.node:
        path = _module_path(node)
        if node.op_type not in OPERATORS or path is None or path not in scales:
            continue
        found.add(path)
        if node.input[1] not in stored:
            # MatMul has its weights transposed.
            axis = 1 if node.op_type == "MatMul" else 0
            tensor = weights[node.input[1]]
            stored[tensor.name] = _stored(graph, tensor, scales[path].numpy(), axis)
    if found != scales.keys():
        raise ExportError(
            f"No operator of ONNX was found for {min(scales.keys() - found)}; nothing was "
            "written. Install the versions in constraints.txt."
        )
    nodes = [*(new for pair in stored.values() for new in pair), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def compute_in_integers(
    graph: Any, inputs: Mapping[str, Range], results: Mapping[str, Range]
) -> None:
    """Quantize input, weights, bias and result of the convolutions in ``results``, in place.

    Each becomes QuantizeLinear and DequantizeLinear around the float operator, which runtimes
    replace by an integer one.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    done: set[str] = set()  # constants
    for node in graph.node:
        path = _module_path(node)
        if node.op_type != "Conv" or path is None or path not in results:
            nodes.append(node)
            continue
        x, weight, bias = node.input
        before, x_scale = _rounded(graph, x, f"{node.name}.input", inputs[path])
        if weight not in done:
            done.add(weight)
            nodes += _integer_constants(graph, weights[weight], weights[bias], x_scale)
        after, _ = _rounded(graph, f"{node.name}.float", f"{node.name}.result", results[path])
        after[-1].output[0] = node.output[0]
        node.input[:] = [before[-1].output[0], f"{weight}.rounded", f"{bias}.rounded"]
        node.output[:] = [f"{node.name}.float"]
        nodes += [*before, node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded(graph: Any, x: str, name: str, limits: Range) -> tuple[list[Any], Any]:
    """Operators that round ``x`` to 8 bits, and the scale."""
    from onnx import helper

    scale, zero = (tensor.numpy() for tensor in limits.affine())
    names = [_constant(graph, f"{name}.scale", scale.astype(np.float32))]
    names.append(_constant(graph, f"{name}.zero", zero.astype(np.uint8)))
    return [
        helper.make_node("QuantizeLinear", [x, *names], [f"{name}.uint8"]),
        helper.make_node("DequantizeLinear", [f"{name}.uint8", *names], [f"{name}.rounded"]),
    ], scale


def _integer_constants(graph: Any, weight: Any, bias: Any, x_scale: Any) -> list[Any]:
    """The weights in int8 and the bias in int32, and the operators that make them float."""
    from onnx import helper, numpy_helper

    values = numpy_helper.to_array(weight)
    scale = weight_scale(torch.from_numpy(values.copy())).numpy()
    shaped = scale.reshape(-1, *[1] * (values.ndim - 1))
    summed = (numpy_helper.to_array(bias) / (scale * x_scale)).round()
    nodes = []
    for tensor, array, step in (
        (weight, integers(values, shaped), scale),
        (bias, summed.clip(-(2**31), 2**31 - 1).astype(np.int32), scale * x_scale),
    ):
        graph.initializer.remove(tensor)
        name = tensor.name
        names = [
            _constant(graph, f"{name}.integers", array),
            _constant(graph, f"{name}.scale", step.astype(np.float32)),
        ]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}.rounded"], axis=0))
    return nodes


def _constant(graph: Any, name: str, array: Any) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _module_path(node: Any) -> str | None:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    path: str | None = (["", "", *ast.literal_eval(scopes)])[-2] or None
    return path


def _stored(graph: Any, tensor: Any, scale: Any, axis: int) -> list[Any]:
    """Replace an initializer by integers and scales; the operators that compute it from these."""
    from onnx import TensorProto, helper, numpy_helper

    values, name = numpy_helper.to_array(tensor), tensor.name
    scale = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    graph.initializer.remove(tensor)
    for suffix, array in (("int8", integers(values, scale)), ("scale", scale)):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
    return [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
    ]
