"""8-bit results, for runtimes whose integer convolutions have them before the activation (XNNPACK).

They share one range for all channels, although those before hard swish differ much: their channels
are scaled to the same range, and back in float. What hard swish maps to zero is left out of it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.export.quantization.fake import TINY, Range
from movinet_convert.export.quantization.observation import Observed
from movinet_convert.export.quantization.plan import TARGET, Plan, Simulation, choose
from movinet_convert.model.layers import ACTIVATIONS

HARD_SWISH_IS_ZERO = -3.0  # at this input, and below
# Scaled channels leave no room to values that calibration has not seen, and to clip them costs more
# than the half bit.
MARGIN = 1.5
# Of inputs and results together, half of what inputs alone may have: rounding anywhere moves the
# logits in one direction, as the activations are convex, so that errors add up on some clips.
RESULT_TARGET = TARGET / 2


class EqualizedPointwise(nn.Module):
    """A pointwise convolution; its results have ``factors`` (C,), undone before the activation."""

    def __init__(self, conv: Any, factors: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight * factors[:, None, None, None], requires_grad=False)
        self.bias = nn.Parameter(conv.bias * factors, requires_grad=False)
        self.register_buffer("shares", (1.0 / factors)[None, :, None, None])
        self.shares: Tensor
        self.activation: str = conv.activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(F.conv2d(x, self.weight, self.bias))

    def activate(self, y: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](y * self.shares)


@torch.no_grad()
def with_8_bit_results(plan: Plan) -> tuple[Plan, dict[str, Range]]:
    """The plan with scaled channels, and ranges of the layers whose results may be 8-bit too.

    The range is before the activation, and before what is added. Of the plan's 8-bit layers, which
    have to be pointwise convolutions of ``export.flat_step``, those are chosen that together lose
    little in a simulation.
    """
    program = replace(plan.program, module=copy.deepcopy(plan.program.module))
    module = program.module
    ranges: dict[str, Range] = {}
    for path, seen in _observe(module, plan).items():
        layer: Any = module.get_submodule(path)
        if layer.activation is None:
            ranges[path] = seen.range()
            continue
        factors = 1.0 / seen.largest.clamp_min(TINY)
        module.set_submodule(path, EqualizedPointwise(layer, factors))
        low, high = (MARGIN * factors * limits for limits in (seen.low, seen.high))
        ranges[path] = Range(low.amin(), high.amax())
    simulation = _ResultSimulation(program, plan.clips, ranges)
    of_inputs = {error.layer: error.mean_error for error in plan.errors}
    errors = {path: math.hypot(of_inputs[path], simulation.error([path])) for path in ranges}
    chosen, _ = choose(simulation, errors, RESULT_TARGET)
    return replace(plan, program=program), {path: ranges[path] for path in chosen}


def _observe(module: nn.Module, plan: Plan) -> dict[str, Observed]:
    observed = {path: Observed() for path in plan.ranges}

    def look(path: str, layer: Any, y: Tensor) -> Tensor:
        lowest = HARD_SWISH_IS_ZERO if layer.activation == "hard_swish" else -torch.inf
        observed[path].add(y.clamp(min=lowest))
        return y

    with _results(module, observed, look):
        for given in plan.inputs:
            module(*given)
    return observed


class _ResultSimulation(Simulation):
    """Runs with the results of some layers in 8 bits, instead of their inputs and weights."""

    def error(self, quantized: Collection[str]) -> float:
        def quantize(path: str, layer: Any, y: Tensor) -> Tensor:
            return self.ranges[path].quantize(y)

        with _results(self.program.module, quantized, quantize):
            return self.error_of(self.logits())


@contextmanager
def _results(
    module: nn.Module, paths: Iterable[str], change: Callable[[str, Any, Tensor], Tensor]
) -> Iterator[None]:
    """Replace what convolutions compute before the activation and what is added to it."""

    def hook(path: str) -> Callable[..., Tensor]:
        def after(layer: Any, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
            x, *plus = given
            y = change(path, layer, F.conv2d(x, layer.weight, layer.bias))
            result: Tensor = layer.activate(y + plus[0] if plus else y)
            return result

        return after

    with ExitStack() as stack:
        for path in paths:
            handle = module.get_submodule(path).register_forward_hook(hook(path))
            stack.callback(handle.remove)
        yield
