"""Convolutions and pooling with TensorFlow's ``SAME`` padding, for any size of input.

TensorFlow pads so that a stride ``s`` leaves ``ceil(n / s)`` positions, the smaller half first;
unlike PyTorch's symmetric padding it therefore depends on the input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.variants import Kernel

# PyTorch 2.6 lacks it.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of ``size`` positions; after equals before or is one more."""
    positions = -(-size // stride)
    total = max((positions - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def same_paddings(
    x: Tensor, weight: Tensor, stride: Sequence[int], *, causal: bool = False
) -> list[tuple[int, int]]:
    """Zeros before and after each spatial or time axis; ``causal``: none on the first."""
    axes = zip(x.shape[2:], weight.shape[2:], stride, strict=True)
    paddings = [same_padding(*axis) for axis in axes]
    return [(0, 0), *paddings[1:]] if causal else paddings


def padded_weight(weight: Tensor, paddings: Sequence[tuple[int, int]]) -> Tensor:
    """A kernel that gives on symmetrically padded input what ``weight`` gives on ``SAME`` padding.

    If an axis needs one more zero after it than before it, it can get the same number on both sides
    and the kernel a leading zero instead. Padding a kernel is cheaper than copying the input.
    """
    if all(before == after for before, after in paddings):
        return weight
    leading = [(after - before, 0) for before, after in paddings]
    return F.pad(weight, [zeros for pair in reversed(leading) for zeros in pair])


@torch.fx.wrap  # one node for torch.fx, which cannot follow padding that depends on the size
def conv_same(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int,
    *,
    causal: bool = False,
    pad_input: bool = False,
) -> Tensor:
    """``F.conv2d`` or ``F.conv3d`` with ``SAME`` padding.

    ``causal``: no padding on the first axis, time, since the past frames are already in front.
    ``pad_input``: pad the input, not the weight, which exporters need to be a constant.
    """
    paddings = same_paddings(x, weight, stride, causal=causal)
    if pad_input and any(before != after for before, after in paddings):
        x = F.pad(x, [zeros for pair in reversed(paddings) for zeros in pair])
        paddings = [(0, 0)] * len(paddings)
    weight = padded_weight(weight, paddings)
    if _trains_in_half_precision(x):
        x = x.contiguous()
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    return convolve(x, weight, bias, stride, [after for _, after in paddings], groups=groups)


def _trains_in_half_precision(x: Tensor) -> bool:
    """Whether a 3D convolution computes gradients in half precision on a CPU.

    In channels-last memory oneDNN's bfloat16 kernel (PyTorch 2.13) then returns wrong gradients
    for a depthwise 3D kernel if the clip is shorter than the kernel.
    """
    if x.dim() == 4 or not torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


class Uninitialized(nn.Module):
    """A layer whose weights come from ``create.initialize`` or from a file."""

    def reset_parameters(self) -> None:
        """Do nothing: initializing weights that a file replaces takes half of the load time."""


class Conv2dSame(Uninitialized, nn.Conv2d):
    """2D convolution, ``SAME`` padding: (N, C, H, W) -> (N, C', ceil(H/s), ceil(W/s)).

    At stride 1 an odd kernel needs the same zeros on both sides for any size of input.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1
    ) -> None:
        symmetric = stride == 1 and all(size % 2 for size in kernel)
        padding = (kernel[0] // 2, kernel[1] // 2) if symmetric else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.symmetric = symmetric

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if self.symmetric:
            return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)
        return conv_same(x, weight, bias, self.stride, self.groups, pad_input=is_exporting())


class Conv3dSame(Uninitialized, nn.Conv3d):
    """Depthwise 3D convolution, ``SAME`` padding: (B, C, T, H, W) -> (B, C, T, H/s, W/s).

    ``causal``, in the legacy stream models: takes (B, C, T + k - 1, H, W) with the past in front.
    """

    def __init__(self, channels: int, kernel: Kernel, stride: int, *, causal: bool) -> None:
        strides = (1, stride, stride)
        super().__init__(channels, channels, kernel, strides, groups=channels, bias=False)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, options = self.weight, self.bias, (self.stride, self.groups)
        return conv_same(x, weight, bias, *options, causal=self.causal, pad_input=is_exporting())


class TemporalConv2d(Uninitialized, nn.Conv2d):
    """Depthwise convolution over time: (B, C, T + k - 1, H, W), past in front, -> (B, C, T, H, W).

    Computed as a 2D one with a kernel of (k, 1) over frames and pixels, which is faster than 3D.
    """

    def __init__(self, channels: int, length: int) -> None:
        super().__init__(channels, channels, (length, 1), groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[3:]
        y = F.conv2d(x.flatten(3), self.weight, self.bias, groups=self.groups)
        batch, channels, frames, _ = y.shape
        return y.reshape(batch, channels, frames, height, width)


class AvgPool2dSame(nn.AvgPool2d):
    """3 x 3 average pooling, stride 2, ``SAME``: (N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2)).

    The mean excludes padding. Odd sizes are padded by one on both sides, even ones only at the end,
    as PyTorch's ``ceil_mode`` does.
    """

    def __init__(self) -> None:
        super().__init__(3, stride=2, ceil_mode=True, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = (x.shape[-2] % 2, x.shape[-1] % 2)
        return F.avg_pool2d(x, 3, 2, padding, ceil_mode=True, count_include_pad=False)
