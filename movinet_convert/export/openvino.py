"""``openvino``: for Intel's runtime, which is fast on any x86 processor.

OpenVINO stores a network in two files, NAME.xml and its weights NAME.bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from movinet_convert.export.metadata import KEY
from movinet_convert.export.openvino_quantization import module_paths, quantize_model
from movinet_convert.export.quantization.fake import rounded
from movinet_convert.export.runtime import Job, Run, Save
from movinet_convert.files.extras import missing_extra


def _import(purpose: str = "Running OpenVINO files") -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(purpose, "export") from error
    return openvino


def convert(job: Job) -> Save:
    openvino, program = _import("Exporting to OpenVINO"), job.program
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    scales: dict[str, Tensor] = {}
    if job.quantize is not None:
        program, scales = rounded(program)
    decoder = TorchFXPythonDecoder.from_exported_program(program.graph())
    model = openvino.convert_model(decoder)
    for ports, names in ((model.inputs, program.inputs), (model.outputs, program.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    # The converter makes every axis dynamic, with which the runtime is slower.
    shapes = [list(tensor.shape) for tensor in program.example]
    if program.dynamic_frames:
        shapes[0][2] = -1
    model.reshape(dict(zip(model.inputs, map(openvino.PartialShape, shapes), strict=True)))
    ranges = job.plan.ranges if job.plan is not None else {}
    quantize_model(model, module_paths(decoder.pt_module.graph), scales, ranges)

    def save(path: Path, metadata: str) -> dict[str, Any]:
        model.set_rt_info(metadata, [KEY])
        # Processors without float16 arithmetic convert float16 weights back to float32.
        openvino.save_model(model, str(path), compress_to_fp16=job.dtype == "float16")
        return {"openvino": openvino.__version__, "8-bit convolutions": len(ranges)}

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """A stream's states stay valid until the second next call, a clip's logits indefinitely.

    Only the file and the weights next to it are read, ``trusted`` or not.
    """
    openvino = _import()
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # float inputs stay float where weights are 8-bit
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    # With the weights given, OpenVINO neither searches for them nor guesses another format.
    model = core.read_model(str(path), str(path.with_suffix(".bin")))
    compiled = core.compile_model(model, "CPU", settings)
    if len(compiled.inputs) > 1:
        return _Stream(compiled, openvino.Tensor)
    request = compiled.create_infer_request()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        request.infer([t.contiguous().numpy() for t in inputs], share_inputs=True)
        return [torch.from_numpy(request.get_output_tensor(0).data.copy())]

    return run


class _Stream:
    """Runs a step on two sets of states: each call reads one and writes the other.

    States that the last call returned are passed on without a copy.
    """

    def __init__(self, compiled: Any, wrap: Any) -> None:
        self.sets = [[_zeros(port) for port in compiled.inputs[1:]] for _ in range(2)]
        self.frames = _zeros(compiled.inputs[0])
        self.logits = _zeros(compiled.outputs[0])
        self.requests = []
        for read, written in (self.sets, self.sets[::-1]):
            request = compiled.create_infer_request()
            for i, tensor in enumerate((self.frames, *read)):
                request.set_input_tensor(i, wrap(tensor.numpy(), shared_memory=True))
            for i, tensor in enumerate((self.logits, *written)):
                request.set_output_tensor(i, wrap(tensor.numpy(), shared_memory=True))
            self.requests.append(request)
        self.latest = 0

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        frames, *states = inputs
        reading = next((i for i in range(2) if states[0] is self.sets[i][0]), 1 - self.latest)
        for kept, given in zip(self.sets[reading], states, strict=True):
            if given is not kept:
                kept.copy_(given)
        self.frames.copy_(frames)
        self.requests[reading].infer()
        self.latest = 1 - reading
        return [self.logits.clone(), *self.sets[self.latest]]


def _zeros(port: Any) -> Tensor:
    return torch.from_numpy(np.zeros(tuple(port.shape), port.element_type.to_dtype()))


def read_metadata(path: Path) -> str:
    found: str = _import().Core().read_model(str(path)).get_rt_info([KEY]).astype(str)
    return found
