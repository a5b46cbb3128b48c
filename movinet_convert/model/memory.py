"""What a stream model remembers, as shapes: they follow from the specification alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from movinet_convert.errors import StateError
from movinet_convert.model.state import StreamState
from movinet_convert.variants import Settings, Variant

STEM_STRIDE = 2


@dataclass(frozen=True)
class BlockMemory:
    """What one block remembers: sums of ``channels`` values, and ``frames`` of its past frames.

    The frames are a ``reduction``-th of the video in height and width, rounded up; a block without
    a temporal convolution remembers 0 of them.
    """

    name: str
    channels: int
    frames: int
    reduction: int


@dataclass(frozen=True)
class StreamMemory:
    """What a whole network remembers of each video."""

    blocks: tuple[BlockMemory, ...]
    head: int

    @staticmethod
    def of(variant: Variant, settings: Settings) -> StreamMemory:
        reduction = STEM_STRIDE
        blocks = []
        for spec in variant.spec.blocks:
            # A 3D convolution strides by itself; in (2+1)D the spatial one before it does.
            before = reduction
            reduction *= spec.stride
            seen = before if settings.conv_type == "3d" else reduction
            blocks.append(BlockMemory(spec.name, spec.expanded, spec.kernel[0] - 1, seen))
        return StreamMemory(tuple(blocks), variant.spec.head)

    def zeros(
        self, batch: int, height: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> StreamState:
        """The state before the first frame, in the memory order in which a network returns it."""
        sums = torch.promote_types(dtype, torch.float32)
        buffers = {}
        for block in self.blocks:
            if block.frames:
                size = (-(-height // block.reduction), -(-width // block.reduction))
                shape = (batch, block.frames, *size, block.channels)
                buffers[block.name] = torch.zeros(shape, dtype=dtype, device=device).permute(
                    0, 4, 1, 2, 3
                )
        return StreamState(
            torch.zeros(batch, dtype=torch.long, device=device),
            buffers,
            {
                b.name: torch.zeros(batch, b.channels, dtype=sums, device=device)
                for b in self.blocks
            },
            torch.zeros(batch, self.head, dtype=sums, device=device),
        )

    def check(self, state: StreamState, batch: int, height: int, width: int, name: str) -> None:
        """Raise StateError unless the state is of ``batch`` videos of this size, of ``name``."""
        if state.frame_count.dim() != 1 or state.batch != batch:
            raise StateError(
                f"The state holds {state.frame_count.numel()} videos and the frames {batch}; "
                "both need the same batch."
            )
        if state.frame_count.is_floating_point() or state.frame_count.dtype == torch.bool:
            raise StateError(
                f"The frame count of a state is of integers; got {state.frame_count.dtype}."
            )
        buffered = sum(block.frames > 0 for block in self.blocks)
        if len(state.pools) != len(self.blocks) or len(state.buffers) != buffered:
            raise StateError(
                f"The state has {len(state.pools)} blocks, {len(state.buffers)} of them with a "
                f"stream buffer, where {name} has {len(self.blocks)}, {buffered} with one; a state "
                "goes on only with the model it came from."
            )
        for block in self.blocks:
            _require(state.pools.get(block.name), (batch, block.channels), f"{block.name}.pool")
            if block.frames:
                size = (-(-height // block.reduction), -(-width // block.reduction))
                shape = (batch, block.channels, block.frames, *size)
                _require(state.buffers.get(block.name), shape, f"{block.name}.buffer")
        _require(state.head, (batch, self.head), "head")


def _require(tensor: Tensor | None, shape: tuple[int, ...], name: str) -> None:
    if tensor is None or tensor.shape != shape:
        found = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        raise StateError(
            f"The state's {name} is {found} where this network and these frames need {shape}; "
            "pass the state that came from this model and frames of this size, or None to start "
            "a video."
        )
