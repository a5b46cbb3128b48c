"""``aot-inductor``: the graph, compiled ahead of time for this type of processor.

The package runs without Python or a compiler in any program that links PyTorch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import ExportError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run, Save

# Freezing packs the weights once, at compile time; it is for inference only. The matrix products of
# one frame are so small that calling a library costs more than the product itself.
OPTIONS = {
    "freezing": True,
    "max_autotune_gemm": True,
    "max_autotune_gemm_backends": "CPP",
}


def convert(job: Job) -> Save:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        compiler = get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError(
            "aot-inductor compiles the network and found no C++ compiler; install g++ or clang++, "
            "or name one in $CXX."
        ) from error
    graph = job.program.graph()

    def save(path: Path, metadata: str) -> dict[str, Any]:
        options = {**OPTIONS, "aot_inductor.metadata": {KEY: metadata}}
        # In memory first: on a full disk, PyTorch's own writer aborts the process.
        content = io.BytesIO()
        with torch.no_grad():
            aoti_compile_and_package(graph, package_path=content, inductor_configs=options)
        path.write_bytes(content.getbuffer())
        return {"compiler": compiler}

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` is PyTorch's own setting, ``torch.set_num_threads``.

    Opening a package runs its compiled code: ExportError unless it is ``trusted``.
    """
    if not trusted:
        raise ExportError(
            f"{path} is compiled code, which runs with your privileges when it is opened. If you "
            "trust its source, open it with trusted=True."
        )
    if threads is not None:
        torch.set_num_threads(threads)
    package = torch._inductor.aoti_load_package(str(path))

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        # The compiled code assumes the memory order of the example and does not check it.
        outputs = package(*(tensor.contiguous() for tensor in inputs))
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    return run


def read_metadata(path: Path) -> str:
    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        if name.endswith("_metadata.json"):
            entries = json.loads(reader.get_record(name))
            if KEY in entries:
                return str(entries[KEY])
    raise ExportError(f"{path} is not an aot-inductor package with {KEY} metadata.")
