"""``openvino``: for Intel's runtime, which is quick on any x86 processor.

OpenVINO keeps a network in two files, NAME.xml and its weights NAME.bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from movinet_convert.errors import MissingExtraError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run
from movinet_convert.export.step import trace


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("Exporting to OpenVINO", "export") from error
    return openvino


def write(job: Job, path: Path) -> dict[str, Any]:
    openvino = _import()
    model = openvino.convert_model(trace(job.program))
    for ports, names in ((model.inputs, job.program.inputs), (model.outputs, job.program.outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    # The converter leaves every axis open, and the runtime is slower at those.
    model.reshape(
        {
            port: openvino.PartialShape(_axes(tensor.shape, job.program.dynamic_frames))
            for port, tensor in zip(model.inputs, job.program.example, strict=True)
        }
    )
    model.set_rt_info(job.metadata, [KEY])
    # float16 weights are widened again when a processor without float16 arithmetic runs them.
    openvino.save_model(model, str(path), compress_to_fp16=job.dtype == "float16")
    return {"openvino": openvino.__version__}


def _axes(shape: Sequence[int], dynamic_frames: bool) -> list[int]:
    return [-1 if dynamic_frames and axis == 2 else size for axis, size in enumerate(shape)]


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """A stream's states are good until the next call but one, a clip's logits for ever.

    The file and its weights beside it are all that is read, ``trusted`` or not.
    """
    openvino = _import()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    core = openvino.Core()
    # Named, so that OpenVINO does not look for them, nor takes the file for one of another format.
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

    A caller who hands back what the last call returned has no state copied.
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


def annotate(path: Path, metadata: str) -> None:
    """Give a file that was written here other metadata; the weights beside it stay as they are."""
    tree = ElementTree.parse(path)
    (entry,) = tree.iterfind(f"rt_info/{KEY}")
    entry.set("value", metadata)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def read_metadata(path: Path) -> str:
    found: str = _import().Core().read_model(str(path)).get_rt_info([KEY]).astype(str)
    return found
