"""``onnx``: for ONNX Runtime and everything else that reads ONNX."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import ExportError, MissingExtraError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run
from movinet_convert.export.step import trace
from movinet_convert.files.reading import open_regular

LINEAR_WEIGHTS = tuple(f"{layer}.weight" for layer in ("reduce", "expand", "hidden", "output"))
LARGEST_FOLDED = 2**24  # elements; no weight is as large


def write(job: Job, path: Path) -> dict[str, Any]:
    try:
        import onnx
        from onnxscript.optimizer import optimize
    except ImportError as error:
        raise MissingExtraError("Exporting to ONNX", "export") from error
    program = torch.onnx.export(
        trace(job.program),
        dynamo=True,
        input_names=list(job.program.inputs),
        output_names=list(job.program.outputs),
        verbose=False,
    )
    assert program is not None
    # Padded weights must be constants, of which the exporter by itself folds the small ones alone:
    # ONNX Runtime (1.32) merges a Pad into the Conv after it, even one of the weight, and fails.
    program.model = optimize(
        program.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED
    )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {KEY: job.metadata})
    onnx.checker.check_model(proto)
    if job.quantize is None:
        onnx.save(proto, str(path))
        return {"opset": proto.opset_import[0].version}
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        onnx.save(proto, str(full))
        _quantize(job, full, path)
    return {"opset": proto.opset_import[0].version}


def _quantize(job: Job, full: Path, path: Path) -> None:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("Quantizing ONNX files", "export") from error
    if job.quantize == "dynamic":
        quantization.quantize_dynamic(
            full,
            path,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            nodes_to_quantize=_linear_layers(full),
            weight_type=quantization.QuantType.QUInt8,  # what its integer convolution takes
        )
        return
    samples = _named(job)

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(samples, None)

    quantization.quantize_static(full, path, Samples(), per_channel=True)


def _linear_layers(path: Path) -> list[str]:
    """Nodes that multiply a vector with weights; in the frame step they are 1x1 convolutions.

    They hold most of the weights and take little of the time.
    """
    import onnx

    return [
        node.name
        for node in onnx.load(str(path)).graph.node
        if any(name.endswith(LINEAR_WEIGHTS) for name in node.input)
        or node.op_type in ("MatMul", "Gemm")
    ]


def _named(job: Job) -> Iterator[dict[str, Any]]:
    for inputs in job.samples:
        yield {n: t.numpy() for n, t in zip(job.program.inputs, inputs, strict=True)}


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """The file alone is read, ``trusted`` or not; one that names other files is refused."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("Running ONNX files", "export") from error
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    with open_regular(path, ExportError) as file:
        content = file.read()
    if _names_other_files(onnx.load_from_string(content)):
        raise ExportError(f"{path} keeps tensors in other files, which no export here does.")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [found.name for found in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        arrays = {n: t.contiguous().numpy() for n, t in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, arrays)]

    return run


def _names_other_files(message: Any) -> bool:
    """Whether any tensor in a protocol buffer, however deep, has its data elsewhere."""
    if message.DESCRIPTOR.name == "TensorProto" and (
        message.external_data or message.data_location == message.EXTERNAL
    ):
        return True
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        children = (value,) if hasattr(value, "ListFields") else value
        if any(_names_other_files(child) for child in children):
            return True
    return False


def annotate(path: Path, metadata: str) -> None:
    """Give a file that was written here other metadata."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(proto, {KEY: metadata})
    onnx.save(proto, str(path))


def read_metadata(path: Path) -> str:
    import onnx

    properties = onnx.load(str(path), load_external_data=False).metadata_props
    found: str = next(entry.value for entry in properties if entry.key == KEY)
    return found
