"""Fake quantization: 8-bit numbers as every format stores them, computed with in float.

Weights are symmetric, one scale per output channel, max|w| / 127. Activations are affine, one range
per tensor, which includes 0.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from movinet_convert.export.step import Program

LEVELS = 255  # steps of an 8-bit range
LARGEST = 127  # of a symmetric weight
CLIPPED = tuple(2.0 ** (-i / 3) for i in range(16))  # shares of a range that are tried
TINY = torch.finfo(torch.float32).tiny


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of a module, by path: those whose first input is data."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(getattr(layer, "weight", None), Tensor) and weight_of(layer).dim() > 1
    }


def weight_of(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def is_depthwise(layer: nn.Module) -> bool:
    weight = weight_of(layer)
    return weight.dim() > 2 and weight.shape[1] == 1 and weight.shape[0] > 1


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer is linear over channels: a kernel of 1 x 1, or no kernel."""
    weight = weight_of(layer)
    return weight[0, 0].numel() == 1 and not is_depthwise(layer)


def weight_scale(weight: Tensor) -> Tensor:
    """(O,) of weights (O, …)."""
    return (weight.detach().flatten(1).abs().amax(dim=1) / LARGEST).clamp_min(TINY)


def quantized_weight(weight: Tensor) -> Tensor:
    """(O, …) rounded to 8 bits; a factor for each output channel commutes with it."""
    scale = weight_scale(weight)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -LARGEST, LARGEST)


def integers(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights as a file stores them; ``scale`` broadcasts."""
    return (weight / scale).round().clip(-LARGEST, LARGEST).astype(np.int8)


@torch.no_grad()
def rounded(
    program: Program, paths: Collection[str] | None = None
) -> tuple[Program, dict[str, Tensor]]:
    """The program with the weights of layers, all by default, rounded to 8 bits.

    Also returns their scales (O,), by path.
    """
    program = replace(program, module=copy.deepcopy(program.module))
    found = layers(program.module)
    weights = {path: weight_of(found[path]) for path in (found if paths is None else paths)}
    scales = {path: weight_scale(weight) for path, weight in weights.items()}
    for weight in weights.values():
        weight.copy_(quantized_weight(weight))
    return program, scales


@dataclass(frozen=True)
class Range:
    """Of activations; scalars."""

    low: Tensor
    high: Tensor

    def affine(self) -> tuple[Tensor, Tensor]:
        """The scale and the zero point, from 0 to 255."""
        scale = ((self.high - self.low) / LEVELS).clamp_min(TINY)
        return scale, (-self.low / scale).round().int()

    def quantize(self, x: Tensor) -> Tensor:
        """``x`` rounded to 8 bits, and clipped."""
        return torch.fake_quantize_per_tensor_affine(x, *self.affine(), 0, LEVELS)


def best_range(sample: Tensor, low: Tensor, high: Tensor) -> Range:
    """The range of the least squared error: (low, high), clipped at the larger end."""
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    below = bool(-low > high)
    tried = (Range(low * c, high) if below else Range(low, high * c) for c in CLIPPED)
    return min(tried, key=lambda tested: float((tested.quantize(sample) - sample).square().mean()))
