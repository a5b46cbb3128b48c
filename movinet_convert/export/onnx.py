"""``onnx``: for ONNX Runtime and other tools that read ONNX."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.onnx_quantization import compute_in_integers, store_in_8_bits
from movinet_convert.export.quantization.fake import Range, is_pointwise, layers, rounded
from movinet_convert.export.quantization.outputs import with_8_bit_results
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.export.step import Program
from movinet_convert.files.extras import missing_extra
from movinet_convert.files.reading import open_regular

LINEAR_WEIGHTS = tuple(f"{layer}.weight" for layer in ("reduce", "expand", "hidden", "output"))
LARGEST_FOLDED = 2**24  # elements, more than any weight has


def convert(job: Job) -> Save:
    try:
        import onnx
        from onnxscript.optimizer import optimize
    except ImportError as error:
        raise missing_extra("Exporting to ONNX", "export") from error
    program, scales, inputs, results = _quantized(job)
    exported = torch.onnx.export(
        program.graph(),
        dynamo=True,
        input_names=list(program.inputs),
        output_names=list(program.outputs),
        verbose=False,
    )
    assert exported is not None
    # Padded weights must be constants, and the exporter folds only small ones: ONNX Runtime (1.32)
    # merges a Pad into the Conv after it, even if it pads the weight, and fails.
    exported.model = optimize(
        exported.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED
    )
    proto = exported.model_proto
    store_in_8_bits(proto.graph, scales)
    compute_in_integers(proto.graph, inputs, results)
    onnx.checker.check_model(proto)
    if job.quantize == "dynamic":
        proto = _with_dynamic_layers(proto)

    def save(path: Path, metadata: str) -> dict[str, Any]:
        onnx.helper.set_model_props(proto, {KEY: metadata})
        onnx.save(proto, str(path))
        return {"opset": proto.opset_import[0].version, "8-bit convolutions": len(results)}

    return save


def _quantized(
    job: Job,
) -> tuple[Program, dict[str, Tensor], Mapping[str, Range], Mapping[str, Range]]:
    """The program; the scales of 8-bit weights, ranges of 8-bit inputs and results, by layer.

    Int8 leaves layers with a larger kernel in float, and of the others computes those in integers
    that the plan and ``with_8_bit_results`` choose.
    """
    if job.plan is not None:
        plan, results = with_8_bit_results(job.plan)
        pointwise = [p for p, layer in layers(plan.program.module).items() if is_pointwise(layer)]
        rest = [path for path in pointwise if path not in results]
        return (*rounded(plan.program, rest), plan.ranges, results)
    if job.quantize == "weights":
        return (*rounded(job.program), {}, {})
    return job.program, {}, {}, {}


def _with_dynamic_layers(proto: Any) -> Any:
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_extra("Quantizing ONNX files", "export") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantization.quantize_dynamic(
            proto,
            path,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_quantize=_linear_layers(proto),
            weight_type=quantization.QuantType.QUInt8,  # which its integer convolution requires
        )
        return onnx.load(str(path))


def _linear_layers(proto: Any) -> list[str]:
    """Nodes that multiply a vector by weights; in the frame step they are 1x1 convolutions.

    They account for most of the weights and little of the computation.
    """
    return [
        node.name
        for node in proto.graph.node
        if any(name.endswith(LINEAR_WEIGHTS) for name in node.input)
        or node.op_type in ("MatMul", "Gemm")
    ]


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """Only the file itself is read, ``trusted`` or not; external data is rejected."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise missing_extra("Running ONNX files", "export") from error
    options = onnxruntime.SessionOptions()
    # Without VNNI, its sums of products of uint8 and int8 would saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    with open_regular(path, ExportError) as file:
        content = file.read()
    if _has_external_data(onnx.load_from_string(content)):
        raise ExportError(f"{path} stores tensors in other files, as no export does.")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [found.name for found in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        arrays = {n: t.contiguous().numpy() for n, t in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run


def _has_external_data(message: Any) -> bool:
    """Whether the data of any tensor in a protocol buffer, however deep, is in another file."""
    if message.DESCRIPTOR.name == "TensorProto" and (
        message.external_data or message.data_location == message.EXTERNAL
    ):
        return True
    return any(
        _has_external_data(child)
        for field, value in message.ListFields()
        if field.message_type is not None
        for child in ((value,) if hasattr(value, "ListFields") else value)
    )


def read_metadata(path: Path) -> str:
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("Running ONNX files", "export") from error
    properties = onnx.load(str(path), load_external_data=False).metadata_props
    found: str = next(entry.value for entry in properties if entry.key == KEY)
    return found
