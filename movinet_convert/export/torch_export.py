"""``torch-export``: the graph in PyTorch's own format, for any program with PyTorch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.export import pt2
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run, Save


def convert(job: Job) -> Save:
    graph = job.program.graph()

    def save(path: Path, metadata: str) -> dict[str, Any]:
        # In memory first: on a full disk, PyTorch's own writer aborts the process.
        content = io.BytesIO()
        torch.export.save(graph, content, extra_files={KEY: metadata})
        path.write_bytes(content.getbuffer())
        return {}

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` is PyTorch's own setting, ``torch.set_num_threads``.

    Unless ``trusted``, only files as ``export`` writes them are opened, and only the operators of a
    MoViNet are run; ExportError for any other file.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    module = (torch.export.load(path) if trusted else pt2.load(path)).module()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs = module(*inputs)
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    return run


def read_metadata(path: Path) -> str:
    return pt2.read_extra(path, KEY)
