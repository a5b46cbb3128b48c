"""``executorch``: for PyTorch's runtime on phones, computed by XNNPACK."""

from __future__ import annotations

import warnings
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


def write(job: Job, path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.devtools.backend_debug import get_delegation_info
            from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise MissingExtraError("Exporting to ExecuTorch", "export") from error
        lowered = to_edge_transform_and_lower(
            trace(job.program),
            partitioner=[XnnpackPartitioner()],
            constant_methods={KEY: job.metadata},
        )
        delegation = get_delegation_info(lowered.exported_program().graph_module)
        path.write_bytes(lowered.to_executorch().buffer)
    return {
        "delegates": delegation.num_delegated_subgraphs,
        "delegated_nodes": delegation.num_delegated_nodes,
        "other_nodes": delegation.num_non_delegated_nodes,
    }


def open_file(path: Path, threads: int | None = None) -> Run:
    """The Python runtime of ExecuTorch decides itself how many threads it takes."""
    del threads
    method = _program(path).load_method("forward")

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        # Cloned, as the next call overwrites the runtime's own memory.
        return [torch.clone(output) for output in method.execute(list(inputs))]

    return run


def _program(path: Path) -> Any:
    try:
        from executorch.runtime import Runtime
    except ImportError as error:
        raise MissingExtraError("Running ExecuTorch files", "export") from error
    return Runtime.get().load_program(path)


def read_metadata(path: Path) -> str:
    found: str = _program(path).load_method(KEY).execute([])[0]
    return found
