"""The network for inference: normalisation and ReZero folded into the convolutions.

``fuse(model)`` has the interface of the model and, up to rounding, its results: the same blocks,
their operators replaced by convolutions that normalise and activate. The folding is done in
float64. What a block computes between its convolutions then fits few passes over memory, and long
clips go through it in chunks that stay in the processor's cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.block import Block, Feature, Skip
from movinet_convert.model.chunked import ChunkedBlock, ChunkedStem
from movinet_convert.model.layers import past_frames
from movinet_convert.model.network import MoViNet
from movinet_convert.model.onednn import (
    FusedConv,
    FusedConv2d,
    FusedConv3d,
    FusedPointwise,
    FusedTemporalConv2d,
    runs_onednn,
)
from movinet_convert.model.positions import FramePositions, fold_time
from movinet_convert.variants import Settings

Conv = TypeVar("Conv", bound=FusedConv)


def _clip_to_one(x: Tensor) -> Tensor:
    return F.hardtanh(x, 0.0, 1.0)


# Each gate as a slope and an offset before it, the remaining function, and a factor after it.
GATE_PARTS: dict[str, tuple[float, float, Callable[[Tensor], Tensor], float]] = {
    "sigmoid": (1.0, 0.0, torch.sigmoid, 1.0),
    "keras": (0.2, 0.5, _clip_to_one, 1.0),
    "model-garden": (1.0, 3.0, F.relu6, 0.16667),
}


@torch.inference_mode(False)  # so that the copy can be used with and without autograd
@torch.no_grad()
def fuse(model: MoViNet) -> MoViNet:
    """A copy of ``model`` for inference, with normalisation and scales folded into the weights.

    The copy computes what ``model.eval()`` does, to 1e-5 of the standard deviation of the logits or
    better, with the same ``forward``, ``stream`` and state; a model in training mode is folded with
    its moving statistics too, and stays in training mode. The copy has no dropout, no gradients for
    its weights, which have other names, and rejects ``train()``: train, save and convert the
    original.

    Raises UsageError if the model is already fused.
    """
    if model.fused:
        raise UsageError("This model is already fused; use it as it is.")
    with torch.device("meta"):
        fused = MoViNet(model.variant, model.settings, model.num_classes)
    fused.origins, fused.labels, fused.fused = model.origins, model.labels, True
    activation = model.settings.activation
    stem = fused_conv(FusedConv2d, model.stem.conv, model.stem.norm, activation)
    fused.stem = ChunkedStem(stem)
    blocks: dict[str, Any] = dict(model.blocks.items())
    for name, block in blocks.items():
        fused.blocks[name] = ChunkedBlock(FusedBlock(block, model.settings))
    fused.head = fused_pointwise(model.head, activation)
    fused.classifier = copy.deepcopy(model.classifier).requires_grad_(False)
    fused.classifier.dropout = 0.0
    return fused.eval()


class FusedFeature(Feature):
    """``Feature`` of fused convolutions."""

    def __init__(self, feature: Feature, activation: str) -> None:
        nn.Module.__init__(self)
        self.length, self.causal, self.is_3d = feature.length, feature.causal, feature.is_3d
        conv_type: type[FusedConv] = FusedConv3d if self.is_3d else FusedConv2d
        self.conv = fused_conv(conv_type, feature.conv, feature.norm, activation)
        self.temporal_conv = None
        if feature.temporal_conv is not None:
            self.temporal_conv = fused_conv(
                FusedTemporalConv2d, feature.temporal_conv, feature.temporal_norm, activation
            )

    def spatial(self, x: Tensor) -> Tensor:
        return x if self.is_3d else self.conv(x)

    def temporal(self, videos: Tensor) -> Tensor:
        conv = self.conv if self.is_3d else self.temporal_conv
        return fold_time(conv(videos))

    def forward(
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if positions.frames > 1 or self.temporal_conv is None:
            return super().forward(x, positions, buffer)
        frame = self.spatial(x)
        past = past_frames(buffer, frame[:, :, None], self.length - 1)
        newest = frame.permute(0, 2, 3, 1)
        y = self.temporal_conv.newest(past, newest).permute(0, 3, 1, 2)
        latest = torch.cat((past[:, 1:], newest[:, None]), dim=1)
        return y, latest.permute(0, 4, 1, 2, 3)


class FusedBlock(Block):
    """``Block`` of fused convolutions; the projection includes ReZero and the gates' factor."""

    expansion: FusedPointwise
    feature: FusedFeature
    attention: SqueezeExcitation
    projection: FusedPointwise

    def __init__(self, block: Block, settings: Settings) -> None:
        nn.Module.__init__(self)
        self.expansion = fused_pointwise(block.expansion, settings.activation)
        self.feature = FusedFeature(block.feature, settings.activation)
        self.attention, factor = _fused_attention(block.attention, settings)
        self.projection = fused_pointwise(block.projection, None, block.scale.double())
        self.projection.weight.mul_(factor)
        self.skip = block.skip
        if isinstance(block.skip, Skip):
            self.skip = nn.Sequential(block.skip.pool, fused_pointwise(block.skip, None))

    def project(self, y: Tensor, gates: Tensor, x: Tensor, positions: FramePositions) -> Tensor:
        """As of ``Block``; may overwrite ``y``."""
        y = y.mul_(gates) if runs_onednn(y) else y * gates
        result: Tensor = self.projection(y, self.skip(x))
        return result


def fused_pointwise(
    layer: Any, activation: str | None, factor: Tensor | None = None
) -> FusedPointwise:
    return fused_conv(FusedPointwise, layer.conv, layer.norm, activation, factor)


def fused_conv(
    kind: type[Conv], conv: Any, norm: Any, activation: str | None, factor: Tensor | None = None
) -> Conv:
    """A ``kind`` of convolution that convolves, normalises, scales and activates at once."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if factor is not None:
        scale, bias = scale * factor, bias * factor
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    dtype = conv.weight.dtype
    return kind(conv, weight.to(dtype), bias.to(dtype), activation)


def _fused_attention(
    attention: SqueezeExcitation, settings: Settings
) -> tuple[SqueezeExcitation, float]:
    """The squeeze-excitation, and the factor of its gates that the projection applies.

    A hard gate becomes a mere clamp: its slope and offset are folded into the expanding layer.
    """
    slope, offset, gate, factor = GATE_PARTS[settings.gating]
    fused = copy.deepcopy(attention).requires_grad_(False)
    fused.expand.weight.mul_(slope)
    fused.expand.bias.mul_(slope).add_(offset)
    fused.gate = gate
    return fused, factor
