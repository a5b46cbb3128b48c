"""The inverted bottleneck: expand, depthwise convolution, squeeze-excitation, project, add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.convolutions import (
    AvgPool2dSame,
    Conv2dSame,
    Conv3dSame,
    TemporalConv2d,
)
from movinet_convert.model.layers import ACTIVATIONS, BatchNorm, ConvNorm, join_buffer
from movinet_convert.model.positions import FramePositions, fold_time
from movinet_convert.variants import BlockSpec, Settings


class Feature(nn.Module):
    """The depthwise convolution of a block: 2D, 3D or (2+1)D, by kernel and settings."""

    conv: Any
    norm: Any
    temporal_conv: Any
    temporal_norm: Any
    activation: Callable[[Tensor], Tensor]

    def __init__(self, spec: BlockSpec, settings: Settings) -> None:
        super().__init__()
        self.length, *kernel = spec.kernel  # length: frames that the kernel sees
        channels = spec.expanded
        self.causal = settings.causal
        self.is_3d = self.length > 1 and settings.conv_type == "3d"
        self.conv = (
            Conv3dSame(channels, spec.kernel, spec.stride, causal=settings.causal)
            if self.is_3d
            else Conv2dSame(channels, channels, (kernel[0], kernel[1]), spec.stride, channels)
        )
        self.norm = BatchNorm(channels)
        two_plus_one = self.length > 1 and not self.is_3d
        self.temporal_conv = TemporalConv2d(channels, self.length) if two_plus_one else None
        self.temporal_norm = BatchNorm(channels) if two_plus_one else None
        self.activation = ACTIVATIONS[settings.activation]

    def forward(
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Convolve frames (N, C, H, W); ``buffer`` (B, C, k - 1, H, W) holds those before them."""
        x = self.spatial(x)
        if self.length == 1:
            return x, None
        videos = positions.unfold(x)
        if self.causal:
            videos, buffer = join_buffer(buffer, videos, self.length - 1)
        return self.temporal(videos), buffer

    def spatial(self, x: Tensor) -> Tensor:
        """The 2D convolution of frames (N, C, H, W); a 3D one leaves them as they are."""
        return x if self.is_3d else self.activation(self.norm(self.conv(x)))

    def temporal(self, videos: Tensor) -> Tensor:
        """Convolve (B, C, T, H, W) over time, the past in front if causal, and fold time."""
        conv, norm = self.temporal_conv, self.temporal_norm
        if self.is_3d:
            conv, norm = self.conv, self.norm
        return self.activation(norm(fold_time(conv(videos))))


class Skip(ConvNorm):
    """The projection on the skip connection of a block that changes the size or the width.

    The official model passes ``use_sync_bn`` to all layers of a block except this one
    (``SkipBlock`` in official/projects/movinet/modeling/movinet_layers.py), so only its
    normalisation is Keras' fused one.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__(spec.inputs, spec.outputs, unbiased=True)
        self.pool = AvgPool2dSame() if spec.stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pool(x))


class Block(nn.Module):
    """One MoViNet block: frames (N, C, H, W) -> (N, C', H', W').

    ``buffer`` and ``pool`` are its state from the frames before, None at a video's start and in
    base models. In training, the residual branch of a whole video is dropped with probability
    ``drop_rate`` (stochastic depth).

    Inference and export replace its operators: ``fuse`` and ``export.flat_step``.
    """

    expansion: Any
    feature: Any
    attention: Any
    projection: Any
    skip: Any

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
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        y, buffer = self.feature(self.expansion(x), positions, buffer)
        gates, pool = self.attention(y, positions, pool)
        return self.project(y, gates, x, positions), buffer, pool

    def project(self, y: Tensor, gates: Tensor, x: Tensor, positions: FramePositions) -> Tensor:
        """Gate the expanded frames ``y``, project them, and add the skip connection of ``x``."""
        y = self.projection(y * gates) * self.scale
        if self.training and self.drop_rate > 0:
            y = self._drop_videos(y, positions)
        result: Tensor = y + self.skip(x)
        return result

    def _drop_videos(self, y: Tensor, positions: FramePositions) -> Tensor:
        kept = 1.0 - self.drop_rate
        mask = y.new_empty(positions.batch, 1).bernoulli_(kept) / kept
        return y * mask.expand(-1, positions.frames).reshape(-1, 1, 1, 1)
