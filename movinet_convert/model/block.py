"""The inverted bottleneck: expand, convolve depthwise, excite, project, add."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.layers import (
    ACTIVATIONS,
    BatchNorm,
    ConvNorm,
    SpatialConv,
    SpatioTemporalConv,
    TemporalConv,
)
from movinet_convert.model.padding import average_pool_same
from movinet_convert.model.timeline import Timeline
from movinet_convert.variants import BlockSpec, Settings


class Feature(nn.Module):
    """The depthwise convolution of a block: 2D, 3D or (2+1)D, after kernel and settings."""

    def __init__(self, spec: BlockSpec, settings: Settings) -> None:
        super().__init__()
        frames, height, width = spec.kernel
        channels = spec.expanded
        self.conv: SpatialConv | SpatioTemporalConv
        if frames > 1 and settings.conv_type == "3d":
            self.conv = SpatioTemporalConv(
                channels, spec.kernel, spec.stride, causal=settings.causal
            )
        else:
            self.conv = SpatialConv(channels, channels, (height, width), spec.stride, channels)
        self.norm = BatchNorm(channels)
        self.temporal_conv: TemporalConv | None = None
        self.temporal_norm: BatchNorm | None = None
        if frames > 1 and settings.conv_type == "2plus1d":
            self.temporal_conv = TemporalConv(channels, frames)
            self.temporal_norm = BatchNorm(channels)
        self.activation = ACTIVATIONS[settings.activation]

    def forward(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.conv, SpatioTemporalConv):
            x, buffer = self.conv(x, timeline, buffer)
        else:
            x = self.conv(x)
        x = self.activation(self.norm(x))
        if self.temporal_conv is not None and self.temporal_norm is not None:
            x, buffer = self.temporal_conv(x, timeline, buffer)
            x = self.activation(self.temporal_norm(x))
        return x, buffer


class Skip(ConvNorm):
    """The way around a block that changes the size or the width.

    The official model hands ``use_sync_bn`` to every part of a block but this one (``SkipBlock``
    in official/projects/movinet/modeling/movinet_layers.py), so its normalisation alone is fused.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec.inputs, spec.outputs, unbiased=True)
        self.downsample = spec.stride > 1

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(average_pool_same(x) if self.downsample else x)


class Block(nn.Module):
    """One MoViNet block: frames (N, C, H, W) -> (N, C', H', W').

    ``buffer`` and ``pool`` are what it remembers of the frames before, None at a video's start
    and in base models. In training the residual branch of a whole video is dropped with
    probability ``drop_rate`` (stochastic depth).
    """

    def __init__(self, spec: BlockSpec, settings: Settings, drop_rate: float) -> None:
        super().__init__()
        self.expansion = ConvNorm(spec.inputs, spec.expanded, activation=settings.activation)
        self.feature = Feature(spec, settings)
        self.attention = SqueezeExcitation(spec.expanded, settings)
        self.projection = ConvNorm(spec.expanded, spec.outputs)
        self.scale = nn.Parameter(torch.empty(()))  # ReZero
        self.skip = Skip(spec) if spec.has_skip_projection else nn.Identity()
        self.drop_rate = drop_rate

    def forward(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        y, buffer = self.feature(self.expansion(x), timeline, buffer)
        y, pool = self.attention(y, timeline, pool)
        y = self.projection(y) * self.scale
        if self.training and self.drop_rate > 0:
            y = self._drop_videos(y, timeline)
        return y + self.skip(x), buffer, pool

    def _drop_videos(self, y: Tensor, timeline: Timeline) -> Tensor:
        kept = 1.0 - self.drop_rate
        mask = y.new_empty(timeline.batch, 1).bernoulli_(kept) / kept
        return y * mask.expand(-1, timeline.frames).reshape(-1, 1, 1, 1)
