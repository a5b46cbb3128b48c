"""``torch-export``: the graph as PyTorch saves it, for any program with PyTorch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from movinet_convert.export import pt2
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run
from movinet_convert.export.step import trace


def write(job: Job, path: Path) -> dict[str, Any]:
    _save(trace(job.program), path, job.metadata)
    return {}


def _save(program: torch.export.ExportedProgram, path: Path, metadata: str) -> None:
    # Not to the file: where the disk is full, PyTorch's own writer ends the process.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={KEY: metadata})
    path.write_bytes(content.getbuffer())


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """``threads`` is PyTorch's own setting, ``torch.set_num_threads``.

    Unless ``trusted``, only what ``export`` writes is opened, and nothing in it is run but the
    operators of a MoViNet; ExportError for any other file.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    program = torch.export.load(path) if trusted else pt2.load(path)
    module = program.module()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs = module(*inputs)
        return (outputs,) if isinstance(outputs, torch.Tensor) else outputs

    return run


def read_metadata(path: Path) -> str:
    return pt2.read_extra(path, KEY)


def annotate(path: Path, metadata: str) -> None:
    """Give a file that was written here other metadata."""
    _save(torch.export.load(path), path, metadata)
