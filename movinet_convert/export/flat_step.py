"""The frame step in the vocabulary of mobile runtimes: four axes, 2D convolutions, no views.

XNNPACK keeps pictures channels-last and turns them back for every operator that it does not know
in that order. Here a buffer's frames stand below each other in one tall picture, so joining and
cutting are slices of rows, and everything between the frames and the logits goes to one delegate.
What convolves in time, and how a buffer lies in memory, is chosen for the runtime.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.model.layers import ACTIVATIONS
from movinet_convert.model.packed import Pointwise, Spatial, Temporal
from movinet_convert.model.padding import same_padding
from movinet_convert.model.pieces import FusedBlock
from movinet_convert.model.timeline import Timeline


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


class TallConv(nn.Module):
    """The temporal convolution as a 2D one that steps from frame to frame by its dilation.

    Takes a frame (1, C, H, W) and its buffer (1, C, (k - 1) * H, W), and returns the activated
    frame and the next buffer.
    """

    order = torch.contiguous_format

    def __init__(self, temporal: Temporal) -> None:
        super().__init__()
        self.weight = nn.Parameter(temporal.weight.detach(), requires_grad=False)
        self.bias = nn.Parameter(temporal.bias.detach(), requires_grad=False)
        self.activation = ACTIVATIONS[temporal.activation or ""]

    def forward(self, frame: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        height = frame.shape[2]
        tall = torch.cat((buffer, frame), dim=2)
        dilation, groups = (height, 1), frame.shape[1]
        y = F.conv2d(tall, self.weight, self.bias, dilation=dilation, groups=groups)
        return self.activation(y), self.latest(tall, height)

    def latest(self, tall: Tensor, height: int) -> Tensor:
        """All frames but the first."""
        return tall[:, :, height:]

    @classmethod
    def zeros(cls, buffer: Tensor) -> Tensor:
        """The first buffer, from that of a ``StreamState``."""
        batch, channels, frames, height, width = buffer.shape
        zeros = buffer.new_zeros(batch, channels, frames * height, width)
        return zeros.contiguous(memory_format=cls.order)


class ChannelsLastTallConv(TallConv):
    """The same with buffers in the memory order that XNNPACK keeps pictures in."""

    order = torch.channels_last

    def latest(self, tall: Tensor, height: int) -> Tensor:
        # ExecuTorch takes a slice for one in plain order, and turns it, unless told by a cast.
        return tall[:, :, height:].to(memory_format=self.order, copy=True)


class PastConv(TallConv):
    """The convolution over the buffer alone, plus the frame: the two are never joined for it.

    Buffers are (1, (k - 1) * H, W, C): channels-last by their shape.
    """

    def forward(self, frame: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        height, groups = frame.shape[2], frame.shape[1]
        past = buffer.permute(0, 3, 1, 2)
        earlier, last = self.weight[:, :, :-1], self.weight[:, 0, -1].reshape(1, -1, 1, 1)
        y = F.conv2d(past, earlier, self.bias, dilation=(height, 1), groups=groups)
        latest = torch.cat((past[:, :, height:], frame), dim=2)
        return self.activation(y + frame * last), latest.permute(0, 2, 3, 1)

    @classmethod
    def zeros(cls, buffer: Tensor) -> Tensor:
        return super().zeros(buffer).permute(0, 2, 3, 1).contiguous()


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

    def __init__(
        self,
        block: FusedBlock,
        height: int,
        width: int,
        activation: str,
        in_time: type[TallConv],
    ) -> None:
        super().__init__()
        assert block.spatial is not None, "legacy stream models have 3D convolutions"
        self.expansion = _flat(block.expansion)
        self.spatial = _flat(block.spatial)
        self.temporal = None if block.temporal is None else in_time(block.temporal)
        self.reduce = _linear(block.attention.reduce, activation)
        self.expand = _linear(block.attention.expand, None)
        self.gate = block.attention.gate
        self.encoding_scale = block.attention.encoding_scale
        self.projection = _flat(block.projection)
        self.skip = None if block.skip is None else _flat(block.skip)
        inputs = block.expansion.weight.shape[1]
        self.pool = FlatPool(inputs, height, width) if block.downsample else None

    def forward(
        self, x: Tensor, share: Tensor, timeline: Timeline, buffer: Tensor | None, pool: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        y = self.spatial(self.expansion(x))
        if self.temporal is not None and buffer is not None:
            y, buffer = self.temporal(y, buffer)
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

    Buffers are as ``in_time`` says, pools and head (1, C, 1, 1), the frame count (1,).
    """

    def __init__(self, model: MoViNet, size: tuple[int, int], in_time: type[TallConv]) -> None:
        super().__init__()
        self.order = in_time.order
        activation = model.settings.activation
        self.stem = _flat(model.stem.conv)  # type: ignore[arg-type]
        self.blocks = nn.ModuleDict()
        height, width = (-(-side // 2) for side in size)
        for spec in model.variant.spec.blocks:
            block = model.blocks[spec.name]
            assert isinstance(block, FusedBlock)
            self.blocks[spec.name] = FlatBlock(block, height, width, activation, in_time)
            height, width = (-(-side // spec.stride) for side in (height, width))
        self.head = _flat(model.head)  # type: ignore[arg-type]
        self.hidden = _linear(model.classifier.hidden, model.settings.head_activation)
        self.output = _linear(model.classifier.output, None)

    def forward(self, frames: Tensor, frame_count: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = given
        if frames.shape[2] == 1:
            # Not `squeeze`: that is no operator of XNNPACK's, and so a copy in front of it.
            return self._one(frames.reshape(1, 3, *frames.shape[3:]), frame_count, states)
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
        x = self.stem(frame.to(memory_format=self.order))
        for block in self.blocks.values():
            buffer = next(remaining) if block.temporal is not None else None
            x, buffer, pool = block(x, share, timeline, buffer, next(remaining))
            after += [pool] if buffer is None else [buffer, pool]
        head = next(remaining) + self.head(x).mean(dim=(2, 3), keepdim=True)
        logits = self.output(self.hidden(head * share)).flatten(1)
        return (logits, frame_count, *after, head)


def flat_program(
    model: MoViNet, frames: int, size: tuple[int, int], in_time: type[TallConv] = TallConv
) -> Program:
    """The step of a fused stream model, with its states flat."""
    state = model.initial_state(1, *size)
    names = tuple(name for name, _ in state.tensors())
    clip = torch.rand(1, 3, frames, *size, dtype=model.dtype)

    def zeros(tensor: Tensor) -> Tensor:
        if tensor.dim() == 5:
            return in_time.zeros(tensor)
        return torch.zeros_like(tensor[:, :, None, None] if tensor.dim() == 2 else tensor)

    return Program(
        FlatStep(model, size, in_time),
        (clip, *(zeros(tensor) for _, tensor in state.tensors())),
        ("frames", *names),
        ("logits", *(f"{name}.next" for name in names)),
    )


def xnnpack_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """The flat step for XNNPACK, which is given its buffers as it keeps them."""
    return flat_program(model, frames, size, ChannelsLastTallConv)


def openvino_program(model: MoViNet, frames: int, size: tuple[int, int]) -> Program:
    """The flat step for OpenVINO, which knows memory orders by their shapes alone."""
    return flat_program(model, frames, size, PastConv)
