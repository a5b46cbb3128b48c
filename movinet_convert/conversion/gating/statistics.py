"""What reaches the normalisation behind every gate, by either gate, with the batches' statistics.

Every normalisation takes the statistics of its own batch, as in training. What flows is then of
the scale that it had in training whatever the clips look like, and an error does not grow from
block to block, as it would with the stored statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from movinet_convert.model.block import Block
from movinet_convert.model.layers import BatchNorm
from movinet_convert.model.network import MoViNet
from movinet_convert.model.transforms import MAX_VALUE
from movinet_convert.variants import Gating, Variant

SMALLEST_BATCH, LARGEST_BATCH = 8, 64  # clips
MEMORY = 2 * 2**30  # bytes of what is alive at once in the largest block
ALIVE = 3  # of its expanded tensors
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Flow:
    """What reached one normalisation of C channels, clip by clip of N, float64.

    ``means`` (N, C) are over the frames and pixels of a clip, ``squares`` (N, C) those of the
    squared values, ``batch_means`` (N, C) the means over the batch that the clip was part of.
    """

    means: Tensor
    squares: Tensor
    batch_means: Tensor

    @property
    def mean(self) -> Tensor:
        """(C,) what the moving mean would become."""
        return self.means.mean(0)

    @property
    def deviations(self) -> Tensor:
        """(N, C) mean squared deviations from the mean of the clip's batch."""
        return self.squares - 2 * self.batch_means * self.means + self.batch_means**2

    @property
    def variance(self) -> Tensor:
        """(C,) what the moving variance would become."""
        return self.deviations.mean(0)


@torch.no_grad()
def flows(model: MoViNet, gating: Gating, clips: Tensor, batch: int) -> dict[str, Flow]:
    """What ``clips`` (N, 3, T, H, W) bring to the projection of every block, by the block's name.

    ``clips`` are uint8, or floats in [0, 1]. They pass in batches of ``batch`` clips through a copy
    of the network with this gate; clips that do not fill the last batch are left out.
    """
    network = _network(model, gating)
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in network.blocks}
    for name, block in network.blocks.items():
        assert isinstance(block, Block)
        block.projection.norm.register_forward_pre_hook(_recorder(found[name], clips.shape[2]))
    for part in torch.split(clips[: len(clips) // batch * batch], batch):
        network(part if part.is_floating_point() else part / MAX_VALUE)
    return {name: Flow(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}


def _network(model: MoViNet, gating: Gating) -> MoViNet:
    """A copy that normalises as in training, without dropout and stochastic depth."""
    settings = dataclasses.replace(model.settings, gating=gating)
    network = MoViNet(model.variant, settings, model.num_classes, dropout=0.0, stochastic_depth=0.0)
    # Without its record of the settings, one of which is here in question.
    network.load_state_dict(dict(model.state_dict()))
    network.eval()
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.train()
    return network


def _recorder(parts: list[tuple[Tensor, ...]], frames: int) -> Callable[..., None]:
    """A hook that keeps the statistics of a normalisation's inputs (N * T, C, H, W)."""

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].reshape(-1, frames, *inputs[0].shape[1:])
        # Over the pixels in float32, over the frames in float64.
        means = values.mean(dim=(3, 4)).double().mean(dim=1)
        squares = values.square().mean(dim=(3, 4)).double().mean(dim=1)
        parts.append((means, squares, means.mean(0).expand_as(means)))

    return record


def batch_sizes(variant: Variant, clips: Tensor) -> tuple[int, int, int]:
    """Large to small numbers of clips (N, 3, T, H, W) for a batch; memory holds the largest.

    The smaller a batch, the more its own statistics take away; nobody knows how large the batches
    of training were.
    """
    size = max(clips.shape[-2:])
    fitting = MEMORY // (clips.shape[2] * _frame_bytes(variant, size))
    large = max(SMALLEST_BATCH, min(len(clips), LARGEST_BATCH, fitting))
    return large, max(large // 4, 4), max(large // 8, 2)


def longest_clip(variant: Variant, size: int) -> int:
    """Frames of ``size`` pixels square for which there is memory in the smallest batch."""
    return MEMORY // (SMALLEST_BATCH * _frame_bytes(variant, size))


def _frame_bytes(variant: Variant, size: int) -> int:
    """Memory that a frame takes in the largest block."""
    side = -(-size // 2)  # after the stem
    largest = 0
    for block in variant.spec.blocks:
        largest = max(largest, block.expanded * side * side)
        side = -(-side // block.stride)
    return largest * FLOAT_BYTES * ALIVE
