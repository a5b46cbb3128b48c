"""``executorch``: for PyTorch's runtime on phones, computed by XNNPACK."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from movinet_convert.errors import MissingExtraError
from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run
from movinet_convert.export.step import trace


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


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """A stream's states are good until the next call, which writes over them; logits for ever.

    The file holds no code but operators of the runtime, and is opened ``trusted`` or not.

    ``threads`` is for ExecuTorch's one pool: a change of it ends the files opened before.
    """
    program, library = _program(path)
    # Before the method is loaded, which keeps the pool that it finds.
    if threads is not None and threads != library._threadpool_get_thread_count():
        library._unsafe_reset_threadpool(threads)
    return _Stream(program, program.load_method("forward"))


class _Stream:
    """Runs a step in place: its states are read from where the method writes the next.

    Each is read before what follows from it is written, but for the frame count, which moves by a
    copy. A caller who hands back what the last call returned has no other state copied; handing
    every tensor to the method anew costs as much as some of the layers.
    """

    def __init__(self, program: Any, method: Any) -> None:
        self.program = program  # a method does not keep the program that it reads
        self.method = method
        self.bound: list[Tensor] = []  # frames and states, as the method reads them

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.bound:
            self._begin(inputs)
        for bound, given in zip(self.bound, inputs, strict=True):
            if given is not bound:
                # Not PyTorch's copy: its threads would hold the cores that ExecuTorch's need.
                np.copyto(bound.numpy(), given.numpy())
        self.method.execute()
        self.bound[1].copy_(self.count)
        return [self.logits.clone(), *self.bound[1:]]

    def _begin(self, inputs: Sequence[Tensor]) -> None:
        """Find out, by a first run, where the method writes."""
        frames, count = (tensor.clone() for tensor in inputs[:2])
        self.method.set_inputs([frames, count, *inputs[2:]])
        self.method.execute()
        self.logits, self.count, *states = self.method.get_outputs(clone_outputs=False)
        self.bound = [frames, count, *states]
        self.method.set_inputs(self.bound)


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
