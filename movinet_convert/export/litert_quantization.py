"""Reduced precision of LiteRT files, by ai-edge-quantizer.

Weights are symmetric, one scale per output channel. Of the operators between two 8-bit layers, the
activation is 8-bit too; whatever else there is computes in float.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from movinet_convert.errors import MissingExtraError
from movinet_convert.export import tflite_file
from movinet_convert.export.quantization.fake import is_depthwise, layers, weight_of
from movinet_convert.export.quantization.plan import Plan
from movinet_convert.export.runtime import Job
from movinet_convert.export.tflite_file import CONVOLUTIONS

ALL = ".*"


def quantized(job: Job, content: bytes) -> bytes:
    """The float32 file as the job's float16, weights or int8."""
    try:
        from ai_edge_quantizer import qtyping, quantizer
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
    except ImportError as error:
        raise MissingExtraError("Quantizing with litert-torch", "litert") from error
    rewriter = quantizer.Quantizer(content)
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        explicit_dequantize=True,
    )
    for kind in CONVOLUTIONS:
        if job.quantize is None:
            rewriter.update_quantization_recipe(ALL, kind, half, AlgorithmName.FLOAT_CASTING)
        else:
            rewriter.add_weight_only_config(ALL, kind, num_bits=8)
    ranges: Any = None
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if job.plan is not None:
            graph = _Graph(content, job.plan)
            for scope, kind in graph.in_8_bits():
                rewriter.add_static_config(scope, kind, activation_num_bits=8, weight_num_bits=8)
            if rewriter.need_calibration:
                ranges = graph.ranges(_observed(content, job.plan))
        result = rewriter.quantize(ranges, enable_progress_report=False)
    return bytes(result.quantized_model)


def _observed(content: bytes, plan: Plan) -> dict[str, Any]:
    """The least and greatest values of every tensor over the calibration inputs."""
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.recipe import static_wi8_ai8
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    recipes = recipe_manager.RecipeManager()
    recipes.load_quantization_recipe(static_wi8_ai8())
    watching = calibrator.Calibrator(content, qsv_update_func=min_max_update)
    calls = [{f"args_{i}": _array(tensor) for i, tensor in enumerate(ts)} for ts in plan.inputs]
    watching.calibrate({None: calls}, recipes)
    found: dict[str, Any] = watching.get_model_qsvs()
    return found


def _array(tensor: Tensor) -> NDArray[Any]:
    return (tensor if tensor.is_floating_point() else tensor.int()).numpy()


class _Graph:
    """The operators of the float32 file, and the layers that they came from."""

    def __init__(self, content: bytes, plan: Plan) -> None:
        model = tflite_file.parse(content)
        (graph,) = model.subgraphs
        self.plan, self.operators = plan, graph.operators
        self.tensors, self.buffers = graph.tensors, model.buffers
        self.kinds = tflite_file.operator_kinds(model)
        by_weight = {_as_stored(layer): path for path, layer in layers(plan.program.module).items()}
        self.layers = {
            i: by_weight.get(self._constant(operator.inputs[1]))
            for i, operator in enumerate(self.operators)
            if self.kinds[operator.opcodeIndex] in CONVOLUTIONS
        }

    def in_8_bits(self) -> Iterator[tuple[str, str]]:
        """Operators as (regular expression, kind)."""
        computed = set()
        for i, operator in enumerate(self.operators):
            kind, path = self.kinds[operator.opcodeIndex], self.layers.get(i)
            activates = kind == "HARD_SWISH" and operator.inputs[0] in computed
            if activates or (path is not None and path not in self.plan.float_layers):
                computed.add(operator.outputs[0])
                yield f"^{re.escape(self._name(operator.outputs[0]))};?$", kind

    def ranges(self, observed: Mapping[str, Any]) -> dict[str, Any]:
        """What was observed, with the ranges of the plan for the inputs of layers."""
        chosen = dict(observed)
        for i, path in self.layers.items():
            if path is not None and path in self.plan.ranges:
                planned = self.plan.ranges[path]
                name = self._name(self.operators[i].inputs[0])
                shape = np.shape(observed[name]["min"])
                chosen[name] = {
                    "min": np.full(shape, planned.low.item(), np.float32),
                    "max": np.full(shape, planned.high.item(), np.float32),
                }
        return chosen

    def _name(self, tensor: int) -> str:
        name: str = self.tensors[tensor].name.decode()
        return name

    def _constant(self, tensor: int) -> bytes:
        return bytes(self.buffers[self.tensors[tensor].buffer].data)


def _as_stored(layer: Any) -> bytes:
    """The weight of a layer as bytes: (O, H, W, I), or (1, H, W, C) of a depthwise convolution."""
    weight = weight_of(layer).detach()
    order = (1, 2, 3, 0) if is_depthwise(layer) else (0, 2, 3, 1)
    return weight.permute(order).contiguous().numpy().tobytes()
