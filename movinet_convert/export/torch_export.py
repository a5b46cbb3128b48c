"""``torch-export``: the graph as PyTorch saves it, for any program with PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from movinet_convert.export.metadata import KEY
from movinet_convert.export.step import trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from movinet_convert.export.runtime import Job, Run


def write(job: Job, path: Path) -> dict[str, Any]:
    torch.export.save(trace(job.program), path, extra_files={KEY: job.metadata})
    return {}


def open_file(path: Path, threads: int | None = None) -> Run:
    """``threads`` is PyTorch's own setting, ``torch.set_num_threads``."""
    if threads is not None:
        torch.set_num_threads(threads)
    module = torch.export.load(path).module()

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs = module(*inputs)
        return (outputs,) if isinstance(outputs, torch.Tensor) else outputs

    return run


def read_metadata(path: Path) -> str:
    extra = {KEY: ""}
    torch.export.load(path, extra_files=extra)
    return extra[KEY]
