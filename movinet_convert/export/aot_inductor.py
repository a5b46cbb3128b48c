"""``aot-inductor``: the graph compiled ahead of time for this kind of processor.

The package runs without Python, in any program that links PyTorch, and needs no compiler there.
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
from movinet_convert.export.runtime import Job, Run
from movinet_convert.export.step import trace

# Freezing packs the weights while compiling, not at every call; it is for inference alone. The
# matrix products of one frame are so small that calling a library for each costs more than they do.
OPTIONS = {
    "freezing": True,
    "max_autotune_gemm": True,
    "max_autotune_gemm_backends": "CPP",
}


def write(job: Job, path: Path) -> dict[str, Any]:
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
    options = {**OPTIONS, "aot_inductor.metadata": {KEY: job.metadata}}
    # Not to the file: where the disk is full, PyTorch's own writer ends the process.
    content = io.BytesIO()
    with torch.no_grad():
        aoti_compile_and_package(trace(job.program), package_path=content, inductor_configs=options)
    path.write_bytes(content.getbuffer())
    return {"compiler": compiler}


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` is PyTorch's own setting, ``torch.set_num_threads``.

    A package is a compiled library, and opening it is running it. Raises ExportError unless it is
    said to be ``trusted``.
    """
    if not trusted:
        raise ExportError(
            f"{path} is compiled code, which runs with your rights once it is opened. If you made "
            "it yourself, or trust who did, open it with trusted=True."
        )
    if threads is not None:
        torch.set_num_threads(threads)
    package = torch._inductor.aoti_load_package(str(path))

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        # The compiled code reads memory in the order of the example and asks no tensor for its own.
        outputs = package(*(tensor.contiguous() for tensor in inputs))
        return (outputs,) if isinstance(outputs, torch.Tensor) else outputs

    return run


def read_metadata(path: Path) -> str:
    """From the package's notes; nothing of it is run."""
    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        if name.endswith("_metadata.json"):
            notes = json.loads(reader.get_record(name))
            if KEY in notes:
                return str(notes[KEY])
    raise ExportError(f"{path} is no package of this kind with {KEY} metadata.")
