"""8-bit graphs for XNNPACK, by PyTorch's quantization of exported graphs (PT2E).

XNNPACK has integer convolutions with 8-bit inputs and results (static here), and such that round
their input by its own range and return floats (dynamic), for kernels of 1 x 1. Other convolutions
and activations stay float: one range for all channels is too coarse for depthwise convolutions.
There is no float convolution with 8-bit weights.

Needs torchao, which ExecuTorch depends on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import PerChannelMinMaxObserver, PlaceholderObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from movinet_convert.export.quantization.fake import LARGEST, LEVELS, Range, is_pointwise, layers
from movinet_convert.export.quantization.outputs import with_8_bit_results
from movinet_convert.export.runtime import Job

LOWEST, HIGHEST = -128, 127  # of an 8-bit activation
WEIGHT = QuantizationSpec(
    torch.int8,
    PerChannelMinMaxObserver.with_args(eps=torch.finfo(torch.float32).tiny),
    -LARGEST,
    LARGEST,
    torch.per_channel_symmetric,
    ch_axis=0,
)
DYNAMIC = QuantizationSpec(
    torch.int8, PlaceholderObserver, LOWEST, HIGHEST, torch.per_tensor_affine, is_dynamic=True
)


def quantized_graph(job: Job) -> torch.export.ExportedProgram:
    """The graph of a job with ``quantize``.

    Layers that the plan and ``with_8_bit_results`` choose are static, all others of kernel 1 x 1
    dynamic.
    """
    program = job.program
    inputs: Mapping[str, Range] = {}
    results: Mapping[str, Range] = {}
    if job.plan is not None:
        plan, results = with_8_bit_results(job.plan)
        program, inputs = plan.program, plan.ranges
    pointwise = {path for path, layer in layers(program.module).items() if is_pointwise(layer)}
    quantizer = PointwiseQuantizer(inputs, results, pointwise - results.keys())
    with torch.no_grad():
        prepared = prepare_pt2e(program.graph().module(), quantizer)
        prepared(*program.example)  # the scales of the weights are taken from a run
        return torch.export.export(convert_pt2e(prepared), program.example)


class PointwiseQuantizer(Quantizer):  # type: ignore[misc]
    """Quantizes layers by their path: those with ranges statically, and the ``dynamic`` ones.

    ``results`` are ranges before the activation.
    """

    def __init__(
        self, inputs: Mapping[str, Range], results: Mapping[str, Range], dynamic: Collection[str]
    ) -> None:
        super().__init__()
        self.inputs, self.results, self.dynamic = inputs, results, dynamic

    def annotate(self, model: GraphModule) -> GraphModule:
        for node in model.graph.nodes:
            path = _path(node)
            if node.target != torch.ops.aten.conv2d.default:
                continue
            x, weight, *_ = node.args
            if path in self.results:
                spec, result = _static(self.inputs[path]), _static(self.results[path])
            elif path in self.dynamic:
                spec, result = DYNAMIC, None
            else:
                continue
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                {x: spec, weight: WEIGHT}, result, _annotated=True
            )
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to check: XNNPACK has all that is annotated."""


def _path(node: Node) -> str:
    """Of the module that a node was traced in."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _static(limits: Range) -> FixedQParamsQuantizationSpec:
    low, high = float(limits.low), float(limits.high)
    scale = max((high - low) / LEVELS, torch.finfo(torch.float32).tiny)
    zero = LOWEST + round(-low / scale)
    return FixedQParamsQuantizationSpec(
        torch.int8, scale, zero, LOWEST, HIGHEST, torch.per_tensor_affine
    )
