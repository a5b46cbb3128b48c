"""A base network as one would first write it: 3D convolutions over clips in plain memory order.

The yardstick for memory: layer by layer over (B, C, T, H, W), contiguous, nothing folded.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.model import MoViNet
from movinet_convert.model.block import Block
from movinet_convert.model.layers import ConvNorm, SpatialConv, SpatioTemporalConv
from movinet_convert.model.padding import average_pool_same, same_padding


def plain_forward(model: MoViNet, clip: Tensor) -> Tensor:
    """What ``model(clip)`` computes for a base variant, (B, 3, T, H, W) -> (B, classes)."""
    x = _conv_norm(model.stem, clip.contiguous())
    for block in model.blocks.values():
        x = _block(block, x)
    features = _conv_norm(model.head, x).mean(dim=(2, 3, 4))
    logits: Tensor = model.classifier(features)
    return logits


def _block(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block, Block)
    feature = block.feature
    y = _conv_norm(block.expansion, x)
    y = feature.activation(feature.norm(_conv(feature.conv, y)))
    means = y.mean(dim=(2, 3, 4))
    attention = block.attention
    gates = attention.gate(attention.expand(attention.activation(attention.reduce(means))))
    y = y * gates[:, :, None, None, None]
    y = _conv_norm(block.projection, y) * block.scale
    if not isinstance(block.skip, ConvNorm):
        return y + x
    if block.skip.downsample:
        frames = x.transpose(1, 2).flatten(0, 1)
        pooled = average_pool_same(frames).unflatten(0, (x.shape[0], -1))
        x = pooled.transpose(1, 2).contiguous()
    return y + _conv_norm(block.skip, x)


def _conv_norm(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, ConvNorm)
    return layer.activation(layer.norm(_conv(layer.conv, x)))


def _conv(layer: SpatialConv | SpatioTemporalConv, x: Tensor) -> Tensor:
    if isinstance(layer, SpatioTemporalConv):
        weight, stride = layer.weight, layer.stride
    else:
        weight, stride = layer.weight[:, :, None], (1, layer.stride, layer.stride)
    sizes = zip(x.shape[2:], weight.shape[2:], stride, strict=True)
    padding = [same_padding(*size) for size in sizes]
    groups = x.shape[1] // weight.shape[1]
    if all(before == after for before, after in padding):
        return F.conv3d(x, weight, None, stride, [before for before, _ in padding], groups=groups)
    x = F.pad(x, [zeros for pair in reversed(padding) for zeros in pair])
    return F.conv3d(x, weight, None, stride, groups=groups)
