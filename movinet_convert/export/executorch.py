"""``executorch``: for PyTorch's runtime on phones, computed by XNNPACK."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

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
            from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
            from executorch.exir.passes import MemoryPlanningPass
        except ImportError as error:
            raise MissingExtraError("Exporting to ExecuTorch", "export") from error
        lowered = to_edge_transform_and_lower(
            trace(job.program),
            partitioner=[XnnpackPartitioner()],
            constant_methods={KEY: job.metadata},
        )
        delegation = get_delegation_info(lowered.exported_program().graph_module)
        # States are read where the caller has them: a place of the program's own means a copy.
        planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        config = ExecutorchBackendConfig(memory_planning_pass=planning)
        path.write_bytes(lowered.to_executorch(config).buffer)
    return {
        "delegates": delegation.num_delegated_subgraphs,
        "delegated_nodes": delegation.num_delegated_nodes,
        "other_nodes": delegation.num_non_delegated_nodes,
    }


def open_file(path: Path, threads: int | None = None) -> Run:
    """A stream's states are good until the next call, which writes over them; logits for ever.

    ``threads`` is for ExecuTorch's one pool: a change of it ends the files opened before.
    """
    program, library = _program(path)
    # Before the method is loaded, which keeps the pool that it finds.
    if threads is not None and threads != library._threadpool_get_thread_count():
        library._unsafe_reset_threadpool(threads)
    method = program.load_method("forward")
    return functools.partial(_call, program, method)


def _call(program: Any, method: Any, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    del program  # held by the caller: a method does not keep the program that it reads
    # A method always writes to the same memory. States may be read from there: each is read
    # before what follows from it is written, but for the frame count. Copies would cost more than
    # their time, since PyTorch's threads wait for the next one on the cores of ExecuTorch's.
    logits, *states = method.call(list(inputs), clone_outputs=False)
    return [logits.clone(), *(s.clone() if s.dim() == 1 else s for s in states)]


def _program(path: Path) -> tuple[Any, Any]:
    try:
        from executorch.extension.pybindings import portable_lib
    except ImportError as error:
        raise MissingExtraError("Running ExecuTorch files", "export") from error
    return portable_lib._load_program(str(path)), portable_lib


def read_metadata(path: Path) -> str:
    program, _ = _program(path)
    found: str = program.load_method(KEY).call([])[0]
    return found
