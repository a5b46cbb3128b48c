"""The network for inference: normalisation and ReZero folded into the convolutions.

``fuse(model)`` has the interface of the model and, up to rounding, its results. The folding is
done in float64. What a block computes between its convolutions then fits few passes over memory,
and long clips go through it in pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.errors import UsageError
from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.block import Block
from movinet_convert.model.layers import BatchNorm, ConvNorm, Linear, SpatioTemporalConv
from movinet_convert.model.network import MoViNet
from movinet_convert.model.packed import Pointwise, Spatial, Temporal
from movinet_convert.model.pieces import FusedBlock, FusedStem
from movinet_convert.variants import Settings


def _clip_to_one(x: Tensor) -> Tensor:
    return F.hardtanh(x, 0.0, 1.0)


# Each gate as slope and offset before, what is left of it, and a factor after.
GATE_PARTS: dict[str, tuple[float, float, Callable[[Tensor], Tensor], float]] = {
    "sigmoid": (1.0, 0.0, torch.sigmoid, 1.0),
    "keras": (0.2, 0.5, _clip_to_one, 1.0),
    "model-garden": (1.0, 3.0, F.relu6, 0.16667),
}


@torch.inference_mode(False)  # so that the copy can be used in either mode
@torch.no_grad()
def fuse(model: MoViNet) -> MoViNet:
    """A copy of ``model`` for inference, with everything folded that can be.

    The copy computes what ``model.eval()`` does, to 1e-5 of the logits' deviation or better, with
    the same ``forward``, ``stream`` and state; a model in training mode is folded with its moving
    statistics all the same, and stays in training mode. The copy has no dropout, takes no gradients
    for its weights, which go by other names, and refuses ``train()``: train, save and convert the
    model it came from.

    Raises UsageError if the model is fused already.
    """
    if model.fused:
        raise UsageError("This model is fused already; use it as it is.")
    assert isinstance(model.stem, ConvNorm)
    assert isinstance(model.head, ConvNorm)
    with torch.device("meta"):
        fused = MoViNet(model.variant, model.settings, model.num_classes, dropout=0.0)
    fused.origins = model.origins
    fused.fused = True
    settings = model.settings
    fused.stem = FusedStem(_spatial(model.stem, settings.activation))
    for name, block in model.blocks.items():
        assert isinstance(block, Block)
        fused.blocks[name] = _block(block, settings)
    fused.head = _pointwise(model.head, settings.activation)
    fused.classifier.hidden = _frozen(model.classifier.hidden)
    fused.classifier.output = _frozen(model.classifier.output)
    return fused.eval()


def _folded(weight: Tensor, norm: BatchNorm, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weight and bias that convolve, normalise and multiply by ``factor`` at once."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    if factor is not None:
        scale, bias = scale * factor.double(), bias * factor.double()
    folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return folded.to(weight.dtype), bias.to(weight.dtype)


def _pointwise(
    layer: ConvNorm, activation: str | None = None, factor: Tensor | None = None
) -> Pointwise:
    return Pointwise(*_folded(layer.conv.weight, layer.norm, factor), activation)


def _spatial(layer: ConvNorm, activation: str) -> Spatial:
    conv = layer.conv
    return Spatial(*_folded(conv.weight, layer.norm), activation, conv.stride, conv.groups)


def _block(block: Block, settings: Settings) -> FusedBlock:
    act = settings.activation
    feature = block.feature
    weight, bias = _folded(feature.conv.weight, feature.norm)
    spatial: Spatial | None = None
    temporal: Temporal | None = None
    if isinstance(feature.conv, SpatioTemporalConv):
        temporal = Temporal(weight, bias, act, feature.conv.stride[1])
    else:
        spatial = Spatial(weight, bias, act, feature.conv.stride, feature.conv.groups)
        if feature.temporal_conv is not None and feature.temporal_norm is not None:
            folded = _folded(feature.temporal_conv.weight, feature.temporal_norm)
            temporal = Temporal(*folded, act, 1)
    attention, factor = _attention(block.attention, settings)
    return FusedBlock(
        expansion=_pointwise(block.expansion, act),
        spatial=spatial,
        temporal=temporal,
        attention=attention,
        projection=_projection(block, factor),
        skip=_pointwise(block.skip) if isinstance(block.skip, ConvNorm) else None,
        downsample=getattr(block.skip, "downsample", False),
    )


def _projection(block: Block, gate_factor: float) -> Pointwise:
    weight, bias = _folded(block.projection.conv.weight, block.projection.norm, block.scale)
    return Pointwise((weight.double() * gate_factor).to(weight.dtype), bias, None)


def _attention(attention: SqueezeExcitation, settings: Settings) -> tuple[SqueezeExcitation, float]:
    """The squeeze-excitation, and a factor that its gates leave to the projection.

    A hard gate becomes a bare clipping: its slope and offset go into the expanding layer.
    """
    slope, offset, gate, factor = GATE_PARTS[settings.gating]
    with torch.device("meta"):
        folded = SqueezeExcitation(attention.expand.out_features, settings)
    folded.reduce = _frozen(attention.reduce)
    folded.expand = _frozen(attention.expand)
    folded.expand.weight.mul_(slope)
    folded.expand.bias.mul_(slope).add_(offset)
    folded.gate = gate
    if attention.encoding_scale is not None:
        scale = attention.encoding_scale.clone()
        folded.encoding_scale = nn.Parameter(scale, requires_grad=False)
    return folded, factor


def _frozen(layer: Linear) -> Linear:
    with torch.device("meta"):
        copy = Linear(layer.in_features, layer.out_features)
    copy.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    copy.bias = nn.Parameter(layer.bias.clone(), requires_grad=False)
    return copy
