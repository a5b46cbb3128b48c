"""A training step whose gradients are well-conditioned in float32.

Two things make the gradient of a sound network ill-conditioned, so that two programs which round
differently get visibly different gradients from the same formulas:

- ``hard_swish`` and the hard sigmoids have kinks, where the derivative jumps. Of a million
  activations one or another lies within rounding of a kink, and which derivative it gets is chance.
- The gradient of a single number, such as a block's ReZero scale, is a sum over a whole activation
  that may by chance come out near zero, while the rounding of its terms stays.

Neither says anything about the programs, so both are taken out of the step, by looking at the
mathematical problem alone (our network in float64), never at the programs that are compared.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.block import Feature
from movinet_convert.model.layers import ACTIVATIONS, GATES, BatchNorm, ConvNorm, Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from movinet_convert.model import MoViNet

BiasedLayer = BatchNorm | Linear

MARGIN = 1e-4  # some ten times the rounding of an activation of size 3 deep in the network
DRAWS = 16  # of labels

KINKS: dict[object, tuple[float, float]] = {
    ACTIVATIONS["hard_swish"]: (-3.0, 3.0),
    GATES["keras"]: (-2.5, 2.5),
    GATES["model-garden"]: (-3.0, 3.0),
}


@torch.no_grad()
def clear_kinks(model: MoViNet, video: Tensor) -> None:
    """Shift biases, by next to nothing, until no activation lies within ``MARGIN`` of a kink.

    ``video`` is (B, 3, T, H, W), and ``model`` in the mode, training or not, that it is to be
    compared in. Changes biases alone, and to values that float32 has.
    """
    exact = copy.deepcopy(model).double()  # whose moving statistics may change
    for layer, kinks in _layers_before_kinks(exact):
        layer.register_forward_hook(
            lambda layer, _, output, kinks=kinks: output + _shift_bias(layer, output, kinks)
        )
    exact(video.double())
    biases = {name: p for name, p in exact.named_parameters() if name.endswith("bias")}
    for name, parameter in model.named_parameters():
        if name in biases:
            parameter.copy_(biases[name])


def _layers_before_kinks(model: MoViNet) -> Iterator[tuple[BiasedLayer, tuple[float, float]]]:
    for module in model.modules():
        pairs: list[tuple[BiasedLayer | None, object]] = []
        if isinstance(module, ConvNorm):
            pairs = [(module.norm, module.activation)]
        elif isinstance(module, Feature):
            pairs = [(module.norm, module.activation), (module.temporal_norm, module.activation)]
        elif isinstance(module, SqueezeExcitation):
            pairs = [(module.reduce, module.activation), (module.expand, module.gate)]
        for layer, activation in pairs:
            if layer is not None and activation in KINKS:
                yield layer, KINKS[activation]


def _shift_bias(layer: BiasedLayer, output: Tensor, kinks: tuple[float, float]) -> Tensor:
    """Shift the bias of each channel where it has to be; returns what that adds to ``output``."""
    channels = 1 if isinstance(layer, BatchNorm) else -1
    rows = output.movedim(channels, 0).flatten(1)
    distances = torch.cat([rows - kink for kink in kinks], dim=1)
    before = layer.bias.clone()
    for channel in (distances.abs() < MARGIN).any(dim=1).nonzero().flatten().tolist():
        shifted = layer.bias[channel] + smallest_shift(distances[channel])
        layer.bias[channel] = shifted.float()
    shift = layer.bias - before
    return shift[:, None, None] if channels == 1 else shift


def smallest_shift(distances: Tensor) -> Tensor:
    """The smallest number that brings every one of ``distances`` (N,) to ``MARGIN`` or more."""
    ordered = distances.sort().values
    margin = 1.01 * MARGIN
    wide = (ordered.diff() > 2 * margin).nonzero().flatten()
    # Zero can lie in a gap that is wide enough, right of its lower end or left of its upper one,
    # or beyond all of them.
    ends = torch.cat((ordered[wide] + margin, ordered[wide + 1] - margin))
    ends = torch.cat((ends, ordered[:1] - margin, ordered[-1:] + margin))
    return -ends[ends.abs().argmin()]


def choose_labels(model: MoViNet, video: Tensor, seed: int) -> Tensor:
    """Labels (B,) for ``video`` under which no scale's gradient is a chance near-zero.

    Of ``DRAWS`` seeded draws, the one whose smallest gradient of a single number is the largest,
    each measured by its root mean square over the draws. ``model`` is in the mode to compare in.
    """
    exact = copy.deepcopy(model).double()
    scalars = [parameter for parameter in exact.parameters() if parameter.dim() == 0]
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(model.num_classes, (DRAWS, len(video)), generator=generator)
    logits = exact(video.double())
    gradients = torch.stack(
        [
            torch.stack(
                torch.autograd.grad(F.cross_entropy(logits, labels), scalars, retain_graph=True)
            ).abs()
            for labels in draws
        ]
    )
    relative = gradients / gradients.square().mean(dim=0).sqrt()
    return draws[relative.min(dim=1).values.argmax()]
