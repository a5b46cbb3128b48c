"""What the first inputs of layers are over calibration clips, and runs with these quantized."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from movinet_convert.export.quantization.fake import Range, best_range
from movinet_convert.export.step import Program

SAMPLED = 2048  # values of a tensor and call by which its range is chosen


class Observed:
    """The first input (1, C, …) of a layer, over all calls."""

    def __init__(self) -> None:
        self.low = self.high = torch.zeros(())
        self.values: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        channels = by_channel(x)
        self.low = torch.minimum(self.low, channels.amin(dim=1))
        self.high = torch.maximum(self.high, channels.amax(dim=1))
        flat = channels.flatten()
        step = max(1, flat.numel() // SAMPLED) | 1  # odd, to meet all pixels of even images
        self.values.append(flat[::step].clone())

    @property
    def largest(self) -> Tensor:
        """(C,) the largest magnitude in each channel."""
        return torch.maximum(-self.low, self.high)

    def range(self) -> Range:
        return best_range(torch.cat(self.values), self.low.amin(), self.high.amax())


def by_channel(x: Tensor) -> Tensor:
    """(1, C, …) -> (C, values)."""
    return x.transpose(0, 1).flatten(1)


@torch.no_grad()
def observe(
    program: Program, inputs: Sequence[tuple[Tensor, ...]], paths: Collection[str]
) -> dict[str, Observed]:
    """Run the program on ``inputs``, and look at those of the layers."""
    found = {path: Observed() for path in paths}
    with watching(program.module, {path: found[path].add for path in paths}):
        for given in inputs:
            program.module(*given)
    return found


def ranges_of(observed: Mapping[str, Observed]) -> dict[str, Range]:
    return {path: seen.range() for path, seen in observed.items()}


@contextmanager
def watching(
    module: nn.Module, watchers: Mapping[str, Callable[[Tensor], Tensor | None]]
) -> Iterator[None]:
    """Call a watcher with a layer's first input (N, C, …), which what it returns replaces."""

    def hook(watch: Callable[[Tensor], Tensor | None]) -> Callable[..., tuple[Tensor, ...] | None]:
        def before(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            x = given[0]
            # The channels of a linear layer are the last axis, of any number of axes.
            first = watch(x.flatten(0, -2) if isinstance(layer, nn.Linear) else x)
            return None if first is None else (first.view_as(x), *given[1:])

        return before

    with ExitStack() as stack:
        for path, watch in watchers.items():
            handle = module.get_submodule(path).register_forward_pre_hook(hook(watch))
            stack.callback(handle.remove)
        yield
