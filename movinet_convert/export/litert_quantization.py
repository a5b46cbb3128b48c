"""Reduced precision of LiteRT files, by ai-edge-quantizer.

Weights are symmetric, one scale per output channel. In int8, the input of a convolution takes its
range anew in each call, and its output is float: LiteRT's operators with calibrated inputs have
8-bit outputs too, with one range for all channels, which loses far more (docs/export.md).
Depthwise convolutions have no such operator, and compute in float.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

from movinet_convert.export import tflite_file
from movinet_convert.export.quantization.fake import layers, weight_of
from movinet_convert.export.quantization.plan import Plan
from movinet_convert.export.runtime import Job
from movinet_convert.files.extras import missing_extra

CONVOLUTION = "CONV_2D"
KINDS = (CONVOLUTION, "DEPTHWISE_CONV_2D")
ALL = ".*"


def quantized(job: Job, content: bytes) -> bytes:
    """The float32 file in the precision of the job: float16, weights or int8."""
    try:
        from ai_edge_quantizer import qtyping, quantizer
        from ai_edge_quantizer.algorithm_manager import AlgorithmName
    except ImportError as error:
        raise missing_extra("Quantizing with litert-torch", "litert") from error
    rewriter = quantizer.Quantizer(content)
    half = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        explicit_dequantize=True,
    )
    for kind in KINDS:
        if job.quantize is None:
            rewriter.update_quantization_recipe(ALL, kind, half, AlgorithmName.FLOAT_CASTING)
        else:
            rewriter.add_weight_only_config(ALL, kind, num_bits=8)
    for operator in _computed_in_8_bits(content, job.plan) if job.plan else ():
        rewriter.add_dynamic_config(operator, CONVOLUTION, num_bits=8)
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = rewriter.quantize(enable_progress_report=False)
    return bytes(result.quantized_model)


def _computed_in_8_bits(content: bytes, plan: Plan) -> Iterator[str]:
    """Operators, as regular expressions of the names of their outputs.

    Those of the plan, and the layers that read means over a video: for these alone it is their
    calibrated range that they must not have.
    """
    chosen = {*plan.ranges, *(error.layer for error in plan.errors if error.kind == "linear")}
    # A weight is stored as (O, H, W, I).
    weights = {
        weight_of(layer).detach().permute(0, 2, 3, 1).contiguous().numpy().tobytes()
        for path, layer in layers(plan.program.module).items()
        if path in chosen
    }
    model = tflite_file.parse(content)
    (graph,), kinds = model.subgraphs, tflite_file.operator_kinds(model)
    for operator in graph.operators:
        if kinds[operator.opcodeIndex] == CONVOLUTION:
            weight = model.buffers[graph.tensors[operator.inputs[1]].buffer].data
            if weight is not None and bytes(weight) in weights:
                yield f"^{re.escape(graph.tensors[operator.outputs[0]].name.decode())};?$"
