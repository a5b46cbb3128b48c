"""``executorch``: for PyTorch's mobile runtime, delegated to XNNPACK."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from movinet_convert.export.metadata import KEY
from movinet_convert.export.runtime import Job, Run, Save, quiet
from movinet_convert.files.extras import missing_extra


def convert(job: Job) -> Save:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import (
            EdgeCompileConfig,
            EdgeProgramManager,
            ExecutorchBackendConfig,
            to_edge_transform_and_lower,
        )
        from executorch.exir.passes import MemoryPlanningPass

        from movinet_convert.export.xnnpack import quantized_graph
    except ImportError as error:
        raise missing_extra("Exporting to ExecuTorch", "export") from error
    graph = quantized_graph(job) if job.quantize else job.program.graph()
    # Inputs and outputs stay in the caller's memory; planned memory would require a copy.
    planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
    config = ExecutorchBackendConfig(memory_planning_pass=planning)
    lowered = to_edge_transform_and_lower(graph, partitioner=[XnnpackPartitioner()])
    delegation = get_delegation_info(lowered.exported_program().graph_module)
    lenient = EdgeCompileConfig(_check_ir_validity=False)

    def save(path: Path, metadata: str) -> dict[str, Any]:
        # With other metadata than the last time; lowering again would take as long as all the rest.
        programs = {"forward": copy.deepcopy(lowered.exported_program())}
        manager = EdgeProgramManager(programs, {KEY: metadata}, lenient)
        path.write_bytes(manager.to_executorch(config).buffer)
        return {
            "delegates": delegation.num_delegated_subgraphs,
            "delegated_nodes": delegation.num_delegated_nodes,
            "other_nodes": delegation.num_non_delegated_nodes,
        }

    return save


def open_file(path: Path, threads: int | None = None, *, trusted: bool = False) -> Run:
    """A stream's states are overwritten by the next call; logits are not.

    The file contains no code but operators of the runtime, so ``trusted`` does not matter.
    ``threads`` sets ExecuTorch's global thread pool: changing it invalidates files opened before.
    """
    library = _import()
    program = library._load_program(str(path))
    # Before loading the method, which keeps the current pool.
    if threads is not None and threads != library._threadpool_get_thread_count():
        library._unsafe_reset_threadpool(threads)
    method = program.load_method("forward")
    return (_Clip if method.method_meta().num_inputs() == 1 else _Stream)(program, method)


class _Clip:
    """Runs a base variant."""

    def __init__(self, program: Any, method: Any) -> None:
        self.program = program  # a method does not keep its program alive
        self.method = method

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs: Sequence[Tensor] = self.method.call([tensor.contiguous() for tensor in inputs])
        return outputs


class _Stream(_Clip):
    """Runs a step in place: the method writes its next states into the memory it reads them from.

    Each state is read before its successor is written, except the frame count, which is copied.
    States that the last call returned are passed on without a copy; setting every input again in
    each call costs as much as some of the layers.
    """

    def __init__(self, program: Any, method: Any) -> None:
        super().__init__(program, method)
        self.inputs: list[Tensor] = []  # frames and states, as the method reads them

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.inputs:
            self._bind(inputs)
        for bound, given in zip(self.inputs, inputs, strict=True):
            if given is not bound:
                # Not PyTorch's copy: its threads would compete with ExecuTorch's for the cores.
                np.copyto(bound.numpy(), given.numpy())
        self.method.execute()
        self.inputs[1].copy_(self.count)
        return [self.logits.clone(), *self.inputs[1:]]

    def _bind(self, inputs: Sequence[Tensor]) -> None:
        """Determine with a first run where the method writes."""
        frames = inputs[0].clone(memory_format=torch.contiguous_format)
        count = inputs[1].clone()
        self.method.set_inputs([frames, count, *inputs[2:]])
        self.method.execute()
        self.logits, self.count, *states = self.method.get_outputs(clone_outputs=False)
        self.inputs = [frames, count, *states]
        self.method.set_inputs(self.inputs)


def _import() -> Any:
    """ExecuTorch's runtime; what it looks up about the processor goes to Python's stderr."""
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            from executorch.extension.pybindings import portable_lib

            portable_lib._threadpool_get_thread_count()  # starts the threads, and looks it up
    except ImportError as error:
        raise missing_extra("Running ExecuTorch files", "export") from error
    return portable_lib


def read_metadata(path: Path) -> str:
    program = _import()._load_program(str(path))
    found: str = program.load_method(KEY).call([])[0]
    return found
