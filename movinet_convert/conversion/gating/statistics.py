"""Statistics of the inputs of the batch normalization after every gate, for a given gating.

Batch normalization uses batch statistics, as in training. Activations then have the same scale as
in training for any clips, and errors do not grow from block to block, as they would with the stored
statistics.
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
MEMORY = 2 * 2**30  # bytes of the activations of the largest block
LIVE_TENSORS = 3  # expanded tensors of a block in memory at once
FLOAT_BYTES = 4


@dataclass(frozen=True)
class InputStatistics:
    """The inputs of a batch normalization of C channels for N clips, float64.

    ``means`` (N, C) are over the frames and pixels of a clip, ``squares`` (N, C) are the means of
    the squared values, ``batch_means`` (N, C) the means over the clip's batch.
    """

    means: Tensor
    squares: Tensor
    batch_means: Tensor

    @property
    def mean(self) -> Tensor:
        """(C,) the expected moving mean."""
        return self.means.mean(0)

    @property
    def variances(self) -> Tensor:
        """(N, C) mean squared differences from the mean of the clip's batch."""
        return self.squares - 2 * self.batch_means * self.means + self.batch_means**2

    @property
    def variance(self) -> Tensor:
        """(C,) the expected moving variance."""
        return self.variances.mean(0)


@torch.no_grad()
def projection_inputs(
    model: MoViNet, gating: Gating, clips: Tensor, batch: int
) -> dict[str, InputStatistics]:
    """Statistics of the inputs of every block's projection norm, by block name.

    ``clips`` (N, 3, T, H, W), uint8 or floats in [0, 1], are run in batches of ``batch`` through a
    copy of the network with this gating; an incomplete last batch is dropped.
    """
    network = _network(model, gating)
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in network.blocks}
    for name, block in network.blocks.items():
        assert isinstance(block, Block)
        block.projection.norm.register_forward_pre_hook(_recorder(found[name], clips.shape[2]))
    for chunk in torch.split(clips[: len(clips) // batch * batch], batch):
        network(chunk if chunk.is_floating_point() else chunk / MAX_VALUE)
    return {
        name: InputStatistics(*map(torch.cat, zip(*batches, strict=True)))
        for name, batches in found.items()
    }


def _network(model: MoViNet, gating: Gating) -> MoViNet:
    """A copy with batch statistics as in training, but without dropout and stochastic depth."""
    settings = dataclasses.replace(model.settings, gating=gating)
    network = MoViNet(model.variant, settings, model.num_classes, dropout=0.0, stochastic_depth=0.0)
    # As a plain dict: without the recorded settings, as the gating differs.
    network.load_state_dict(dict(model.state_dict()))
    network.eval()
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.train()
    return network


def _recorder(batches: list[tuple[Tensor, ...]], frames: int) -> Callable[..., None]:
    """A hook that records the statistics of a layer's inputs (N * T, C, H, W)."""

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].reshape(-1, frames, *inputs[0].shape[1:])
        # Pixels are averaged in float32, frames in float64.
        means = values.mean(dim=(3, 4)).double().mean(dim=1)
        squares = values.square().mean(dim=(3, 4)).double().mean(dim=1)
        batches.append((means, squares, means.mean(0).expand_as(means)))

    return record


def batch_sizes(variant: Variant, clips: Tensor) -> tuple[int, int, int]:
    """Three batch sizes for clips (N, 3, T, H, W), starting with the largest that fits in memory.

    Smaller batches have noisier statistics; the training batch size is unknown.
    """
    size = max(clips.shape[-2:])
    fitting = MEMORY // (clips.shape[2] * _frame_bytes(variant, size))
    large = max(SMALLEST_BATCH, min(len(clips), LARGEST_BATCH, fitting))
    return large, max(large // 4, 4), max(large // 8, 2)


def longest_clip(variant: Variant, size: int) -> int:
    """The maximum number of ``size`` x ``size`` frames in memory with the smallest batch."""
    return MEMORY // (SMALLEST_BATCH * _frame_bytes(variant, size))


def _frame_bytes(variant: Variant, size: int) -> int:
    """Bytes of a frame's activations in the largest block."""
    side = -(-size // 2)  # after the stem
    largest = 0
    for block in variant.spec.blocks:
        largest = max(largest, block.expanded * side * side)
        side = -(-side // block.stride)
    return largest * FLOAT_BYTES * LIVE_TENSORS
