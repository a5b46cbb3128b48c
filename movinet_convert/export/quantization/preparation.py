"""Changes of the float weights that make 8 bits lose less."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from movinet_convert.export.flat_step import FlatAttention
from movinet_convert.export.quantization.fake import (
    TINY,
    Range,
    is_depthwise,
    layers,
    quantized_weight,
    weight_of,
)
from movinet_convert.export.quantization.observation import Observed, by_channel, watching
from movinet_convert.export.step import Program

LARGEST_FACTOR = 64.0
LINEAR = ("reduce", "expand", "hidden", "output")


def keeps_float_input(path: str) -> bool:
    """Squeeze-excitation and classifier, whose inputs are means over frames and pixels.

    A mean over a video changes by less than a step of 8 bits; they cost little computation.
    """
    return path.rpartition(".")[2] in LINEAR


@torch.no_grad()
def equalize(module: nn.Module, observed: Mapping[str, Observed]) -> None:
    """Bring the channels of each projection's input, which share a range, closer to one another.

    The gates are multiplied by a factor for each channel, and the weights of the projection divided
    by it: the network is the same. The square root divides the difference between input and
    weights. (The activations before the other convolutions do not commute with a factor.) After
    cross-layer equalization, Nagel et al., 2019 (arXiv:1906.04721).
    """
    for path, attention in module.named_modules():
        if not isinstance(attention, FlatAttention):
            continue
        projection = path.replace("attention", "projection")
        largest = observed[projection].largest
        factors = (largest.max() / largest.clamp_min(TINY)).sqrt().clamp(max=LARGEST_FACTOR)
        attention.scale_gates(factors)
        weight_of(module.get_submodule(projection)).div_(factors[:, None, None])


@torch.no_grad()
def correct_biases(
    program: Program,
    inputs: Sequence[tuple[Tensor, ...]],
    ranges: Mapping[str, Range],
    quantized: Collection[str],
    stored: Collection[str],
) -> None:
    """Subtract the mean error of each layer's output from its bias.

    The weights of the layers ``stored`` are quantized, the inputs of ``quantized``. Bias correction
    is by Nagel et al., 2019 (arXiv:1906.04721), here from calibration clips.
    """
    found = layers(program.module)
    means: dict[str, list[Tensor]] = {path: [] for path in stored}  # (2, C) of each call

    def watch(path: str, x: Tensor) -> None:
        after = ranges[path].quantize(x) if path in quantized else x
        means[path].append(torch.stack([by_channel(y).mean(dim=1) for y in (x, after)]))

    with watching(program.module, {path: _partial(watch, path) for path in stored}):
        for given in inputs:
            program.module(*given)
    for path in stored:
        layer = found[path]
        before, after = torch.stack(means[path]).mean(dim=0)
        bias: Any = layer.bias
        error = _mean_output(layer, quantized_weight(weight_of(layer)), after)
        bias.sub_(error - _mean_output(layer, weight_of(layer), before))


def _partial(watch: Any, path: str) -> Any:
    return lambda x: watch(path, x)


def _mean_output(layer: nn.Module, weight: Tensor, mean: Tensor) -> Tensor:
    """(O,) of a layer without bias and far from borders, for the mean input (C,)."""
    summed = weight.flatten(2).sum(dim=2) if weight.dim() > 2 else weight
    return summed[:, 0] * mean if is_depthwise(layer) else summed @ mean
