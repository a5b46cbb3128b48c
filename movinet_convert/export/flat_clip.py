"""A base variant with the operators of mobile runtimes: four axes, 2D convolutions.

The frames of a clip, whose number is fixed, are a batch. A depthwise 3D convolution is a sum of 2D
ones, one for each frame that its kernel sees.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.export.flat_step import FlatLinear, FlatNetwork
from movinet_convert.export.step import CLIP_FRAMES, Program
from movinet_convert.model import MoViNet
from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.convolutions import conv_same, same_padding
from movinet_convert.model.fuse import FusedFeature
from movinet_convert.model.layers import ACTIVATIONS
from movinet_convert.model.onednn import FusedConv3d
from movinet_convert.model.positions import FramePositions


class Tap(nn.Module):
    """The 2D depthwise convolution of frames with one frame of a 3D kernel."""

    def __init__(self, conv: FusedConv3d, index: int) -> None:
        super().__init__()
        weight, bias = conv.weight[:, :, index].clone(), conv.bias.clone()
        self.weight = nn.Parameter(weight, requires_grad=False)
        # Added once; zeros, since every quantizer expects a bias.
        self.bias = nn.Parameter(bias if index == 0 else 0 * bias, requires_grad=False)
        self.stride = conv.stride[1:]

    def forward(self, x: Tensor) -> Tensor:
        groups = len(self.weight)
        return conv_same(x, self.weight, self.bias, self.stride, groups, pad_input=True)


class ClipFeature(nn.Module):
    """The depthwise convolution of a block, 2D or 3D, of all frames (T, C, H, W) of a clip."""

    def __init__(self, feature: FusedFeature) -> None:
        super().__init__()
        self.conv, self.taps = feature.conv, nn.ModuleList()
        if feature.is_3d:
            self.conv, activation = None, feature.conv.activation
            self.taps.extend(Tap(feature.conv, i) for i in range(feature.length))
            self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Tensor, positions: FramePositions, buffer: None
    ) -> tuple[Tensor, Tensor | None]:
        return (self._in_time(x) if self.conv is None else self.conv(x)), None

    def _in_time(self, x: Tensor) -> Tensor:
        frames = len(x)
        before, after = same_padding(frames, len(self.taps), 1)
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, before, after))
        first, *others = (tap(padded[i : i + frames]) for i, tap in enumerate(self.taps))
        return self.activation(sum(others, first))


class ClipAttention(nn.Module):
    """The squeeze-excitation over a whole clip."""

    def __init__(self, attention: SqueezeExcitation) -> None:
        super().__init__()
        self.reduce, self.expand = FlatLinear(attention.reduce), FlatLinear(attention.expand)
        self.activation, self.gate = attention.activation, attention.gate

    def forward(
        self, y: Tensor, positions: FramePositions, pool: None
    ) -> tuple[Tensor, Tensor | None]:
        return self.gate(self.expand(self.activation(self.reduce(clip_mean(y))))), None


def clip_mean(x: Tensor) -> Tensor:
    """Over the frames and pixels of (T, C, H, W): (1, C, 1, 1)."""
    means = x.mean(dim=(2, 3), keepdim=True)
    # XNNPACK has means of the last two axes only.
    return means.permute(2, 1, 0, 3).mean(dim=(2, 3), keepdim=True)


class FlatClip(FlatNetwork):
    """Clips (B, 3, T, H, W) -> logits (B, classes), one clip after the other."""

    def __init__(self, model: MoViNet, frames: int, size: tuple[int, int]) -> None:
        super().__init__(model, size, ClipFeature, ClipAttention)
        self.positions = FramePositions(1, frames)

    def forward(self, clips: Tensor) -> Tensor:
        if len(clips) == 1:
            return self._one(clips)
        return torch.cat([self._one(clip) for clip in torch.split(clips, 1)])

    def _one(self, clip: Tensor) -> Tensor:
        frames = clip.reshape(clip.shape[1:]).permute(1, 0, 2, 3)
        x = self.stem(frames.contiguous(memory_format=torch.channels_last))
        for block in self.blocks.values():
            x, _, _ = block(x, self.positions, None, None)
        hidden = self.activation(self.hidden(clip_mean(self.head(x))))
        logits: Tensor = self.output(hidden).flatten(1)
        return logits


def flat_clip_program(
    model: MoViNet, frames: int, size: tuple[int, int], batch: int = 1
) -> Program:
    """A fused base model for ``batch`` clips of ``frames`` frames.

    Raises UsageError for another number of frames than base variants take.
    """
    if not CLIP_FRAMES[0] <= frames <= CLIP_FRAMES[1]:
        raise UsageError(
            f"A clip has from {CLIP_FRAMES[0]} to {CLIP_FRAMES[1]} frames; got {frames}."
        )
    clip = torch.rand(batch, 3, frames, *size, dtype=model.dtype)
    return Program(FlatClip(model, frames, size), (clip,), ("clip",), ("logits",))
