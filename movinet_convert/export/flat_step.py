"""The frame step with the operators of mobile runtimes: four axes, 2D convolutions, no views.

XNNPACK keeps images channels-last and transposes them for every operator that it does not support
in that order. Here a buffer's frames are stacked vertically in one tall image, so concatenation and
slicing are along rows, and everything from frames to logits is one delegate. The blocks are the
fused ones, with three operators replaced: the depthwise convolution, whose temporal part and buffer
layout depend on the runtime, the squeeze-excitation, and the pooling.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.export.layouts import TALL, TALL_CHANNELS_LAST, TALL_STRIDED
from movinet_convert.export.step import Program
from movinet_convert.model import MoViNet
from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.convolutions import AvgPool2dSame, conv_same
from movinet_convert.model.fuse import FusedBlock, FusedFeature
from movinet_convert.model.layers import ACTIVATIONS
from movinet_convert.model.onednn import FusedConv, FusedTemporalConv2d
from movinet_convert.model.positions import FramePositions


class FlatPositions(FramePositions):
    """One frame of each video."""

    def share(self, dtype: torch.dtype) -> Tensor:
        """(B, 1, 1, 1) the reciprocal frame count, which turns a sum over frames into a mean."""
        if "share" not in self._cache:
            assert self.seen is not None
            self._cache["share"] = (1.0 / (self.seen + 1).to(dtype)).reshape(-1, 1, 1, 1)
        return self._cache["share"]


class TallConv(nn.Module):
    """The temporal convolution as a 2D one whose dilation is the height of a frame.

    Takes a frame (B, C, H, W) and its buffer (B, C, (k - 1) * H, W), and returns the activated
    frame and the next buffer.
    """

    order, layout = torch.contiguous_format, TALL

    def __init__(self, conv: FusedTemporalConv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.activation = ACTIVATIONS[conv.activation or ""]

    def forward(self, frame: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        height = frame.shape[2]
        tall = torch.cat((buffer, frame), dim=2)
        dilation, groups = (height, 1), frame.shape[1]
        y = F.conv2d(tall, self.weight, self.bias, dilation=dilation, groups=groups)
        return self.activation(y), self.latest(tall, height)

    def latest(self, tall: Tensor, height: int) -> Tensor:
        """All frames but the first."""
        return tall[:, :, height:]


class ChannelsLastTallConv(TallConv):
    """The same with buffers in the memory order that XNNPACK keeps images in."""

    order, layout = torch.channels_last, TALL_STRIDED

    def latest(self, tall: Tensor, height: int) -> Tensor:
        # Without this cast ExecuTorch assumes that a slice is contiguous, and transposes it.
        return tall[:, :, height:].to(memory_format=self.order, copy=True)


class TallByShapeConv(TallConv):
    """The same with buffers that are channels-last by their shape, for LiteRT: (1, rows, W, C)."""

    layout = TALL_CHANNELS_LAST

    def forward(self, frame: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        y, latest = super().forward(frame, buffer.permute(0, 3, 1, 2))
        return y, latest.permute(0, 2, 3, 1)


class PastConv(TallConv):
    """The convolution over the buffer, plus the frame's own tap: the two are not concatenated.

    Buffers are (B, (k - 1) * H, W, C): channels-last by their shape.
    """

    layout = TALL_CHANNELS_LAST

    def forward(self, frame: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        height, groups = frame.shape[2], frame.shape[1]
        past = buffer.permute(0, 3, 1, 2)
        earlier, last = self.weight[:, :, :-1], self.weight[:, 0, -1].reshape(1, -1, 1, 1)
        y = F.conv2d(past, earlier, self.bias, dilation=(height, 1), groups=groups)
        # Joined as vectors: OpenVINO would transpose images to channels-first and back.
        newest = frame.permute(0, 2, 3, 1).flatten(1)
        latest = torch.cat((buffer[:, height:].flatten(1), newest), dim=1)
        return self.activation(y + frame * last), latest.reshape(buffer.shape)


class FlatFeature(nn.Module):
    """The depthwise convolution of a block, (2+1)D or 2D, of one frame of each video."""

    def __init__(self, feature: FusedFeature, in_time: type[TallConv]) -> None:
        super().__init__()
        assert not feature.is_3d, "legacy stream models have 3D convolutions"
        self.spatial = feature.conv
        self.temporal = in_time(feature.temporal_conv) if feature.temporal_conv else None

    def forward(
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        y: Tensor = self.spatial(x)
        return (y, None) if self.temporal is None else self.temporal(y, buffer)


class FlatLinear(nn.Module):
    """A linear layer as a 1x1 convolution of (B, C, 1, 1)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


class FlatAttention(nn.Module):
    """The squeeze-excitation; the pool is (B, C, 1, 1)."""

    def __init__(self, attention: SqueezeExcitation) -> None:
        super().__init__()
        self.reduce, self.expand = FlatLinear(attention.reduce), FlatLinear(attention.expand)
        self.activation, self.gate = attention.activation, attention.gate
        self.encoding_scale = attention.encoding_scale
        self.factors: Tensor | None = None  # (1, C, 1, 1), of the gates

    def scale_gates(self, factors: Tensor) -> None:
        """Multiply the gates by a factor (C,) for each channel."""
        del self.factors
        self.register_buffer("factors", factors[None, :, None, None])

    def forward(self, y: Tensor, positions: FlatPositions, pool: Tensor) -> tuple[Tensor, Tensor]:
        mean = y.mean(dim=(2, 3), keepdim=True)
        pool = pool + mean
        context = torch.cat((pool * positions.share(y.dtype), mean), dim=1)
        if self.encoding_scale is not None:
            encoding = positions.encoding(context.shape[1], context.dtype)
            context = context + encoding.reshape(*context.shape[:2], 1, 1) * self.encoding_scale
        gates = self.gate(self.expand(self.activation(self.reduce(context))))
        return gates if self.factors is None else gates * self.factors, pool


class FlatPool(nn.Module):
    """``AvgPool2dSame`` for frames of one size.

    A depthwise convolution computes sums; multiplying by the reciprocal counts gives means.
    """

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.ones = nn.Parameter(torch.ones(channels, 1, 3, 3), requires_grad=False)
        self.zeros = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.register_buffer("share", 1.0 / self.sum(torch.ones(1, channels, *size))[:, :1])
        self.share: Tensor

    def sum(self, x: Tensor) -> Tensor:
        return conv_same(x, self.ones, self.zeros, (2, 2), len(self.ones), pad_input=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.sum(x) * self.share


def flat_block(
    block: FusedBlock,
    size: tuple[int, int],
    feature: Callable[[FusedFeature], nn.Module],
    attention: Callable[[SqueezeExcitation], nn.Module],
) -> FusedBlock:
    """A copy of the block for frames of this size, with operators like those above."""
    flat: Any = copy.deepcopy(block)
    flat.feature = feature(flat.feature)
    flat.attention = attention(flat.attention)
    if isinstance(flat.skip, nn.Sequential) and isinstance(flat.skip[0], AvgPool2dSame):
        flat.skip[0] = FlatPool(block.expansion.in_channels, size)
    result: FusedBlock = flat
    return result


class FlatNetwork(nn.Module):
    """A fused network for frames of one size, with the operators of ``flat_block``."""

    def __init__(
        self,
        model: MoViNet,
        size: tuple[int, int],
        feature: Callable[[FusedFeature], nn.Module],
        attention: Callable[[SqueezeExcitation], nn.Module],
    ) -> None:
        super().__init__()
        self.stem = copy.deepcopy(model.stem.conv)
        self.blocks = nn.ModuleDict()
        height, width = (-(-side // 2) for side in size)
        for spec in model.variant.spec.blocks:
            chunked: Any = model.blocks[spec.name]
            block = flat_block(chunked.block, (height, width), feature, attention)
            self.blocks[spec.name] = block
            height, width = (-(-side // spec.stride) for side in (height, width))
        self.head = copy.deepcopy(model.head)
        self.hidden = FlatLinear(model.classifier.hidden)
        self.output = FlatLinear(model.classifier.output)
        self.activation = model.classifier.activation
        for layer in self.modules():
            # Not their weight, which exporters need to be a constant.
            if isinstance(layer, FusedConv):
                layer.pad_input = True


class FlatStep(FlatNetwork):
    """Frames (B, 3, k, H, W) and states -> logits (B, classes) and states.

    Buffers are as ``in_time`` has them, pools and head (B, C, 1, 1), the frame count (B,).
    """

    def __init__(self, model: MoViNet, size: tuple[int, int], in_time: type[TallConv]) -> None:
        super().__init__(model, size, partial(FlatFeature, in_time=in_time), FlatAttention)
        self.order = in_time.order

    def forward(self, frames: Tensor, frame_count: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        states: tuple[Tensor, ...] = given
        if frames.shape[2] == 1:
            # Not `squeeze`: XNNPACK does not have it, so it would cost a copy.
            return self._one(frames.reshape(len(frames), 3, *frames.shape[3:]), frame_count, states)
        logits = frames
        for t in range(frames.shape[2]):
            logits, frame_count, *after = self._one(frames[:, :, t], frame_count, states)
            states = tuple(after)
        return (logits, frame_count, *states)

    def _one(
        self, frame: Tensor, frame_count: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        positions = FlatPositions(len(frame), 1, frame_count)
        remaining = iter(states)
        after: list[Tensor] = []
        x = self.stem(frame.to(memory_format=self.order))
        blocks: Any = self.blocks.values()
        for block in blocks:
            buffer = next(remaining) if block.feature.temporal is not None else None
            x, buffer, pool = block(x, positions, buffer, next(remaining))
            after += [pool] if buffer is None else [buffer, pool]
        head = next(remaining) + self.head(x).mean(dim=(2, 3), keepdim=True)
        average = head * positions.share(head.dtype)
        logits = self.output(self.activation(self.hidden(average))).flatten(1)
        return (logits, frame_count + 1, *after, head)


def flat_program(
    model: MoViNet,
    frames: int,
    size: tuple[int, int],
    batch: int = 1,
    in_time: type[TallConv] = TallConv,
) -> Program:
    """The step of a fused stream model, with its states flat."""
    state = model.initial_state(batch, *size)
    names = tuple(name for name, _ in state.tensors())
    clip = torch.rand(batch, 3, frames, *size, dtype=model.dtype)

    return Program(
        FlatStep(model, size, in_time),
        (clip, *(in_time.layout.to_file(tensor) for _, tensor in state.tensors())),
        ("frames", *names),
        ("logits", *(f"{name}.next" for name in names)),
    )


def xnnpack_program(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> Program:
    """The flat step for XNNPACK, with buffers in its own memory format."""
    return flat_program(model, frames, size, batch, ChannelsLastTallConv)


def openvino_program(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> Program:
    """The flat step for OpenVINO, in which only shapes express a memory order."""
    return flat_program(model, frames, size, batch, PastConv)


def litert_program(model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1) -> Program:
    """The flat step for LiteRT, whose operators take images that are channels-last by shape."""
    return flat_program(model, frames, size, batch, TallByShapeConv)
