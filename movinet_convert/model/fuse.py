"""The network for inference: normalisation and ReZero folded into the convolutions.

``fuse(model)`` has the interface of the model and, up to rounding, its results. The folding is
done in float64. What a block computes between its convolutions then fits few passes over memory,
and long clips go through it in chunks that stay in the processor's cache.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from movinet_convert.errors import UsageError
from movinet_convert.model.chunked import ChunkedBlock, ChunkedStem
from movinet_convert.model.fused_block import FusedBlock, fused_conv, fused_pointwise
from movinet_convert.model.network import MoViNet
from movinet_convert.model.onednn import FusedConv2d


@torch.inference_mode(False)  # so that the copy can be used in either mode
@torch.no_grad()
def fuse(model: MoViNet) -> MoViNet:
    """A copy of ``model`` for inference, with everything folded that can be.

    The copy computes what ``model.eval()`` does, to 1e-5 of the standard deviation of the logits or
    better, with the same ``forward``, ``stream`` and state; a model in training mode is folded with
    its moving statistics all the same, and stays in training mode. The copy has no dropout, takes
    no gradients for its weights, which go by other names, and refuses ``train()``: train, save and
    convert the model it came from.

    Raises UsageError if the model is fused already.
    """
    if model.fused:
        raise UsageError("This model is fused already; use it as it is.")
    with torch.device("meta"):
        fused = MoViNet(model.variant, model.settings, model.num_classes)
    fused.origins, fused.fused = model.origins, True
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
