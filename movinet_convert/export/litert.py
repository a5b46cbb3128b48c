"""``litert``: TFLite files by Google's PyTorch converter, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export import tflite_file
from movinet_convert.export.metadata import parse
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.export.step import Program
from movinet_convert.files.extras import missing_extra


def convert(job: Job) -> Save:
    """The signature takes the inputs of the program by name; a frame count is int32."""
    content = _converted(job.program)
    if job.dtype == "float16" or job.quantize is not None:
        from movinet_convert.export.litert_quantization import quantized

        content = quantized(job, content)
    model = tflite_file.parse(content)
    (signature,) = model.signatureDefs
    for entries, names in (
        (signature.inputs, job.program.inputs),
        (signature.outputs, job.program.outputs),
    ):
        for entry in entries:  # args_0, …, output_0, …
            entry.name = names[int(entry.name.decode().rpartition("_")[2])].encode()

    def save(path: Path, metadata: str) -> dict[str, Any]:
        path.write_bytes(tflite_file.with_metadata(model, metadata))
        return {"8-bit convolutions": tflite_file.count_8_bit_convolutions(model)}

    return save


def _converted(program: Program) -> bytes:
    try:
        # It prints its progress.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import litert_torch

            converted = litert_torch.convert(program.module.eval(), program.example)
            content: bytes = converted.model_content()
    except ImportError as error:
        raise missing_extra("Exporting with litert-torch", "litert") from error
    return content


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """The file contains no code but operators of the runtime, so ``trusted`` does not matter."""
    described = parse(read_metadata(path), str(path))
    interpreter = tflite_file.Interpreter(path, threads)
    inputs = [given.name for given in described.inputs]
    outputs = ["logits", *(f"{name}.next" for name in inputs[1:])]
    shapes = {given.name: given.shape for given in described.inputs}
    if interpreter.shapes != shapes or {*interpreter.outputs} != {*outputs}:
        raise ExportError(f"{path} has a signature that export did not write; export it again.")

    def run(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        arrays = {
            name: (tensor if tensor.is_floating_point() else tensor.int()).contiguous().numpy()
            for name, tensor in zip(inputs, tensors, strict=True)
        }
        found = interpreter(arrays)
        after = [torch.from_numpy(found[name]) for name in outputs]
        return [tensor if tensor.is_floating_point() else tensor.long() for tensor in after]

    return run


def read_metadata(path: Path) -> str:
    return tflite_file.read_metadata(path, "frames", "clip")
