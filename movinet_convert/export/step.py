"""The computation of an exported file: flat, named tensors in, flat, named tensors out.

A base variant becomes clip in, logits out. A stream variant becomes one step: frames and every
state in, logits and every state out, in the order and with the names of ``StreamState.tensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from movinet_convert.export.layouts import CHANNELS_LAST, PLAIN, Layout
from movinet_convert.model import MoViNet
from movinet_convert.model.state import StreamState

CLIP_FRAMES = (2, 1024)  # of a base variant, the fewest and the most


@dataclass(frozen=True)
class Program:
    """A module to export, an example of its inputs, and the names of its inputs and outputs."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_frames: bool = False

    @property
    def batch(self) -> int:
        """Videos of one call."""
        return self.example[0].shape[0]

    @property
    def frames(self) -> int:
        """Frames of one call."""
        return self.example[0].shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames."""
        height, width = self.example[0].shape[-2:]
        return height, width

    def graph(self) -> torch.export.ExportedProgram:
        """The graph that every format is written from."""
        dynamic = None
        if self.dynamic_frames:
            dynamic = ({2: torch.export.Dim("frames", min=CLIP_FRAMES[0], max=CLIP_FRAMES[1])},)
        with torch.no_grad():
            return torch.export.export(self.module.eval(), self.example, dynamic_shapes=dynamic)


def network(program: Program) -> MoViNet:
    """The network of a plain, not fused, step or clip program."""
    module: Any = program.module
    found: MoViNet = module if isinstance(module, MoViNet) else module.model
    return found


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


class ChannelsLastStep(Step):
    """``Step`` with buffers of channels-last shape: (B, k - 1, H, W, C).

    Compiled code assumes one memory order. With these shapes every state is contiguous, and outputs
    are passed back in without a copy.
    """

    def forward(self, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        given = (t.permute(0, 4, 1, 2, 3) if t.dim() == 5 else t for t in states)
        logits, *after = super().forward(frames, *given)
        return (logits, *(CHANNELS_LAST.to_file(tensor) for tensor in after))


def clip_program(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> Program:
    """A base variant, for clips of any number of frames where the format allows it."""
    clip = torch.rand(batch, 3, frames, *size, dtype=model.dtype)
    return Program(model, (clip,), ("clip",), ("logits",), dynamic_frames=True)


def step_program(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> Program:
    """A stream variant, for ``frames`` frames of ``batch`` videos per call."""
    return _step_program(model, frames, size, batch, Step, PLAIN)


def channels_last_program(
    model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1
) -> Program:
    """``step_program`` with buffers of the shape (B, k - 1, H, W, C)."""
    return _step_program(model, frames, size, batch, ChannelsLastStep, CHANNELS_LAST)


def _step_program(
    model: MoViNet,
    frames: int,
    size: tuple[int, int],
    batch: int,
    step: type[Step],
    layout: Layout,
) -> Program:
    names, states = zip(*model.initial_state(batch, *size).tensors(), strict=True)
    clip = torch.rand(batch, 3, frames, *size, dtype=model.dtype)
    return Program(
        step(model, names),
        (clip, *(layout.to_file(state) for state in states)),
        ("frames", *names),
        ("logits", *(f"{name}.next" for name in names)),
    )
