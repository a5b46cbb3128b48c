"""The frame step in the vocabulary of mobile runtimes: four axes, 2D convolutions, no views.

XNNPACK keeps pictures channels-last and turns them back for every operator that it does not know
in that order. Here a buffer's frames stand below each other in one tall picture, so joining and
cutting are slices of rows, and the temporal convolution is a 2D one that steps from frame to
frame by its dilation. Everything between the frames and the logits then goes to one delegate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.export.step import Program
from movinet_convert.model.layers import ACTIVATIONS
from movinet_convert.model.packed import Spatial
from movinet_convert.model.padding import same_padding
from movinet_convert.model.pieces import FusedBlock
from movinet_convert.model.timeline import Timeline

if TYPE_CHECKING:
    from movinet_convert.model import MoViNet
    from movinet_convert.model.packed import Pointwise


class FlatConv(nn.Module):
    """Convolution with ``SAME`` padding and activation, for one size of input."""

    def __init__(
        self, weight: Tensor, bias: Tensor, activation: str | None, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.activation = ACTIVATIONS[activation] if activation else nn.Identity()
        self.stride = stride
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        rows = same_padding(x.shape[2], self.weight.shape[2], self.stride)
        columns = same_padding(x.shape[3], self.weight.shape[3], self.stride)
        padding = (rows[0], columns[0])
        if rows[0] != rows[1] or columns[0] != columns[1]:
            x = F.pad(x, (*columns, *rows))
            padding = (0, 0)
        return self.activation(
            F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        )


def _flat(conv: Pointwise | Spatial) -> FlatConv:
    if isinstance(conv, Spatial):
        return FlatConv(conv.weight, conv.bias, conv.activation, conv.stride[0], conv.groups)
    return FlatConv(conv.weight, conv.bias, conv.activation)


def _linear(layer: nn.Linear, activation: str | None) -> FlatConv:
    return FlatConv(layer.weight[:, :, None, None], layer.bias, activation)


class FlatPool(nn.Module):
    """3 x 3 average pooling, stride 2, ``SAME``, where padding does not count in the mean.

    A depthwise convolution sums; a map of one over the counts makes means of the sums.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        ones = torch.ones(channels, 1, 3, 3)
        self.sum = FlatConv(ones, torch.zeros(channels), None, stride=2, groups=channels)
        counted = FlatConv(ones[:1], torch.zeros(1), None, stride=2)
        self.register_buffer("share", 1.0 / counted(torch.ones(1, 1, height, width)))
        self.share: Tensor

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.sum(x)
        return summed * self.share


class FlatBlock(nn.Module):
    """One block, for one frame of a given size."""

    def __init__(self, block: FusedBlock, height: int, width: int, activation: str) -> None:
        super().__init__()
        assert block.spatial is not None, "legacy stream models have 3D convolutions"
        self.expansion = _flat(block.expansion)
        self.spatial = _flat(block.spatial)
        self.temporal = block.temporal
        self.reduce = _linear(block.attention.reduce, activation)
        self.expand = _linear(block.attention.expand, None)
        self.gate = block.attention.gate
        self.encoding_scale = block.attention.encoding_scale
        self.projection = _flat(block.projection)
        self.skip = None if block.skip is None else _flat(block.skip)
        inputs = block.expansion.weight.shape[1]
        self.pool = FlatPool(inputs, height, width) if block.downsample else None
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Tensor, share: Tensor, timeline: Timeline, buffer: Tensor | None, pool: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        y = self.spatial(self.expansion(x))
        if self.temporal is not None and buffer is not None:
            height = y.shape[2]
            tall = torch.cat((buffer, y), dim=2)
            y = F.conv2d(
                tall,
                self.temporal.weight,
                self.temporal.bias,
                dilation=(height, 1),
                groups=y.shape[1],
            )
            y = self.activation(y)
            buffer = tall[:, :, height:]
        mean = y.mean(dim=(2, 3), keepdim=True)
        pool = pool + mean
        context = torch.cat((pool * share, mean), dim=1)
        if self.encoding_scale is not None:
            encoding = timeline.encoding(context.shape[1], context.dtype)
            context = context + encoding.reshape(1, -1, 1, 1) * self.encoding_scale
        gates = self.gate(self.expand(self.reduce(context)))
        around = x if self.pool is None else self.pool(x)
        around = around if self.skip is None else self.skip(around)
        return self.projection(y * gates) + around, buffer, pool


class FlatStep(nn.Module):
    """Frames (1, 3, k, H, W) and states -> logits (1, classes) and states.

    Buffers are (1, C, (k - 1) * H, W), pools and head (1, C, 1, 1), the frame count (1,).
    """

    def __init__(self, model: MoViNet, size: tuple[int, int]) -> None:
        super().__init__()
        activation = model.settings.activation
        self.stem = _flat(model.stem.conv)  # type: ignore[arg-type]
        self.blocks = nn.ModuleDict()
        height, width = (-(-side // 2) for side in size)
        for spec in model.variant.spec.blocks:
            block = model.blocks[spec.name]
            assert isinstance(block, FusedBlock)
            self.blocks[spec.name] = FlatBlock(block, height, width, activation)
            height, width = (-(-side // spec.stride) for side in (height, width))
        self.head = _flat(model.head)  # type: ignore[arg-type]
        self.hidden = _linear(model.classifier.hidden, model.settings.head_activation)
        self.output = _linear(model.classifier.output, None)

    def forward(self, frames: Tensor, frame_count: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = given
        if frames.shape[2] == 1:
            return self._one(frames.squeeze(2), frame_count, states)
        logits = frames
        for t in range(frames.shape[2]):
            logits, frame_count, *after = self._one(frames[:, :, t], frame_count, states)
            states = tuple(after)
        return (logits, frame_count, *states)

    def _one(
        self, frame: Tensor, frame_count: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        timeline = Timeline(1, 1, frame_count)
        frame_count = frame_count + 1
        share = (1.0 / frame_count.to(frame.dtype)).reshape(1, 1, 1, 1)
        remaining = iter(states)
        after: list[Tensor] = []
        x = self.stem(frame)
        for block in self.blocks.values():
            buffer = next(remaining) if block.temporal is not None else None
            x, buffer, pool = block(x, share, timeline, buffer, next(remaining))
            after += [pool] if buffer is None else [buffer, pool]
        head = next(remaining) + self.head(x).mean(dim=(2, 3), keepdim=True)
        logits = self.output(self.hidden(head * share)).flatten(1)
        return (logits, frame_count, *after, head)


def flat_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """The step of a fused stream model, with its states flat."""
    state = model.initial_state(1, *size)
    names = tuple(name for name, _ in state.tensors())
    clip = torch.rand(1, 3, frames, *size, dtype=model.dtype)
    flat = [_flat_zeros(tensor) for _, tensor in state.tensors()]
    return Program(
        FlatStep(model, size),
        (clip, *flat),
        ("frames", *names),
        ("logits", *(f"{name}.next" for name in names)),
    )


def _flat_zeros(tensor: Tensor) -> Tensor:
    # In plain memory order: ExecuTorch gives its outputs in it, which are the next inputs.
    if tensor.dim() == 5:
        batch, channels, frames, height, width = tensor.shape
        return tensor.new_zeros(batch, channels, frames * height, width)
    return torch.zeros_like(tensor[:, :, None, None] if tensor.dim() == 2 else tensor)
