"""What an exported file computes: flat, named tensors in, flat, named tensors out.

A stream variant becomes one step: frames and every state in, logits and every state out. A base
variant becomes clip in, logits out. Runtimes know no dataclasses, so the states are a list here,
in the order and by the names of ``StreamState.tensors``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from movinet_convert.model import MoViNet
from movinet_convert.model.state import StreamState


@dataclass(frozen=True)
class Program:
    """A module to export, an example of its inputs, and their names."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_frames: bool = False


class Clip(nn.Module):
    """(B, 3, T, H, W) -> logits (B, classes)."""

    def __init__(self, model: MoViNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip: Tensor) -> Tensor:
        logits: Tensor = self.model(clip)
        return logits


class Step(nn.Module):
    """Frames and states -> logits and states, shaped as in ``StreamState``."""

    def __init__(self, model: MoViNet, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        logits, state = self.model.stream(
            frames, StreamState.of_tensors(dict(zip(self.names, states, strict=True)))
        )
        return (logits, *(tensor for _, tensor in state.tensors()))


class PlainOrderStep(nn.Module):
    """``Step`` with buffers shaped as they lie in memory: (1, k - 1, H, W, C).

    Compiled code reads memory in one fixed order. With these shapes it is the plain order, for
    every state alike, and what comes out goes back in without a copy.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = (t.permute(0, 4, 1, 2, 3) if t.dim() == 5 else t for t in states)
        logits, *after = self.step(frames, *given)
        return (logits, *(_plain_order(tensor) for tensor in after))


def _plain_order(state: Tensor) -> Tensor:
    return state.permute(0, 2, 3, 4, 1).contiguous() if state.dim() == 5 else state


def clip_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """A base variant, for clips of any number of frames where the format allows it."""
    clip = torch.rand(1, 3, frames, *size, dtype=model.dtype)
    return Program(Clip(model), (clip,), ("clip",), ("logits",), dynamic_frames=True)


def step_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """A stream variant, for one video and ``frames`` frames a call."""
    state = model.initial_state(1, *size)
    names = tuple(name for name, _ in state.tensors())
    clip = torch.rand(1, 3, frames, *size, dtype=model.dtype)
    return Program(
        Step(model, names),
        (clip, *(tensor.contiguous() for _, tensor in state.tensors())),
        ("frames", *names),
        ("logits", *(f"{name}.next" for name in names)),
    )


def plain_order_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """``step_program`` with buffers shaped as they lie in memory, (1, k - 1, H, W, C)."""
    program = step_program(model, frames, size)
    assert isinstance(program.module, Step)
    first, *states = program.example
    example = (first, *(_plain_order(tensor) for tensor in states))
    return replace(program, module=PlainOrderStep(program.module), example=example)


def trace(program: Program) -> torch.export.ExportedProgram:
    """The program as a graph, which every format starts from."""
    dynamic = None
    if program.dynamic_frames:
        dynamic = ({2: torch.export.Dim("frames", min=2, max=1024)},)
    with torch.no_grad():
        return torch.export.export(program.module.eval(), program.example, dynamic_shapes=dynamic)
