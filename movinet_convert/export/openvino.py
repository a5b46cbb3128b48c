"""``openvino``: for Intel's runtime, which is quick on any x86 processor.

OpenVINO keeps a network in two files, NAME.xml and its weights NAME.bin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.errors import MissingExtraError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.step import trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from movinet_convert.export.runtime import Job, Run


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
    model.set_rt_info(job.metadata, [KEY])
    # float16 weights are widened again when a processor without float16 arithmetic runs them.
    openvino.save_model(model, str(path), compress_to_fp16=job.dtype == "float16")
    return {"openvino": openvino.__version__}


def open_file(path: Path, threads: int | None = None) -> Run:
    openvino = _import()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    outputs = range(len(request.model_outputs))

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        request.infer([t.contiguous().numpy() for t in inputs], share_inputs=True)
        # Copied, as the next call overwrites the runtime's own memory.
        return [torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in outputs]

    return run


def read_metadata(path: Path) -> str:
    found: str = _import().Core().read_model(str(path)).get_rt_info([KEY]).astype(str)
    return found
