"""TensorFlow's ``SAME`` padding, for any size.

TensorFlow pads so that a stride ``s`` leaves ``ceil(n / s)`` positions, the smaller half first;
unlike PyTorch's symmetric padding it therefore depends on the input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of ``size`` positions; after is before, or one more."""
    positions = -(-size // stride)
    total = max((positions - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padded_weight(weight: Tensor, before_after: Sequence[tuple[int, int]]) -> Tensor:
    """A kernel that reads symmetrically padded input as ``weight`` reads it padded unevenly.

    Where the input is to get one zero more after an axis than before it, it can get as many before
    if the kernel gets a leading zero there. Padding a kernel is cheaper than copying the input.
    """
    if all(before == after for before, after in before_after):
        return weight
    leading = [(after - before, 0) for before, after in before_after]
    return F.pad(weight, [zeros for pair in reversed(leading) for zeros in pair])


def average_pool_same(x: Tensor) -> Tensor:
    """3 x 3 average pooling, stride 2, ``SAME``: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)).

    Padding does not count in the mean. An odd size is padded by one on both sides; an even one
    only at its end, which is what PyTorch's ``ceil_mode`` does.
    """
    padding = (x.shape[-2] % 2, x.shape[-1] % 2)
    return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)
