"""8-bit weights in an ONNX model."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export.quantization.fake import LARGEST

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


def _module_path(node: Any) -> str | None:
    scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    path: str | None = (["", "", *ast.literal_eval(scopes)])[-2] or None
    return path


def _stored(graph: Any, tensor: Any, scale: Any, axis: int) -> list[Any]:
    """Replace an initializer by integers and scales; the operators that compute it from these."""
    from onnx import TensorProto, helper, numpy_helper

    values, name = numpy_helper.to_array(tensor), tensor.name
    scale = scale.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    integers = (values / scale).round().clip(-LARGEST, LARGEST).astype(np.int8)
    graph.initializer.remove(tensor)
    for suffix, array in (("int8", integers), ("scale", scale)):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}.{suffix}"))
    return [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name]),
    ]
