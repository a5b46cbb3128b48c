"""Convolutions, normalisation and activations, on frames ``(N, C, H, W)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.model.padding import padded_weight, same_padding
from movinet_convert.model.timeline import Timeline, to_frames
from movinet_convert.variants import BATCH_NORM_EPSILON, Kernel

BATCH_NORM_MOMENTUM = 0.01  # of the new value; Keras counts the old one and calls it 0.99


def _hard_sigmoid_keras(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0.0, 1.0)


def _hard_sigmoid_model_garden(x: Tensor) -> Tensor:
    return F.relu6(x + 3.0) * 0.16667  # this constant, not 1/6, is the official code's


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "hard_swish": F.hardswish}

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "keras": _hard_sigmoid_keras,
    "model-garden": _hard_sigmoid_model_garden,
}


class Linear(nn.Linear):
    """A linear layer whose weights are drawn by ``create.initialize`` or come from a file."""

    def reset_parameters(self) -> None:
        """Nothing: drawing weights that a file replaces would take half of loading it."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with Keras' epsilon and momentum, over all axes but the second.

    In training the moving variance takes up each batch's own variance (divided by n), as Keras'
    unfused layer does; the official model runs that one because it synchronises over replicas.
    ``unbiased=True`` takes up the estimate divided by n - 1, as the fused layer and PyTorch do.

    It does not count batches, unlike PyTorch's: with a fixed momentum the count changes nothing,
    and a tensor without a counterpart in TensorFlow would be one that no checkpoint fills.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    momentum: float
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, unbiased: bool = False) -> None:
        # Told that there are no tensors, it makes none only to draw them: files bring their own.
        super().__init__(
            channels,
            BATCH_NORM_EPSILON,
            BATCH_NORM_MOMENTUM,
            affine=False,
            track_running_stats=False,
        )
        self.affine = self.track_running_stats = True
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.running_mean = torch.empty(channels)
        self.running_var = torch.empty(channels)
        self.unbiased = unbiased

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Neither shift nor scale, and no history."""
        if not self.affine:  # called by the constructor of the base class
            return
        self.weight.fill_(1)
        self.bias.zero_()
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # PyTorch's own would miss the count of batches in a dict without metadata, and add it.
        nn.Module._load_from_state_dict(self, *args, **kwargs)

    def extra_repr(self) -> str:
        plain = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, unbiased={self.unbiased}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            moving = (self.running_mean, self.running_var)
            return F.batch_norm(x, *moving, self.weight, self.bias, False, 0.0, self.eps)
        # Fresh tensors take the batch's own mean and variance: the moving ones are then free to
        # change before the backward pass, as they do in a stream of several calls.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            if not self.unbiased:
                count = x.numel() // x.shape[1]
                variance = variance * ((count - 1) / count)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return y


class SpatialConv(nn.Module):
    """2D convolution with ``SAME`` padding: (N, C, H, W) -> (N, C', ceil(H/s), ceil(W/s))."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, *kernel))
        self.bias: nn.Parameter | None = None
        self.kernel = kernel
        self.stride = stride
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == (1, 1):
            return F.conv2d(x, self.weight, self.bias, self.stride)
        rows = same_padding(x.shape[-2], self.kernel[0], self.stride)
        columns = same_padding(x.shape[-1], self.kernel[1], self.stride)
        weight = padded_weight(self.weight, (rows, columns))
        padding = (rows[1], columns[1])
        return F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, if given, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = None,
        unbiased: bool = False,
    ) -> None:
        super().__init__()
        self.conv = SpatialConv(inputs, outputs, kernel, stride, groups)
        self.norm = BatchNorm(outputs, unbiased=unbiased)
        self.activation = ACTIVATIONS[activation] if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return self.activation(normed)


def past_frames(buffer: Tensor | None, videos: Tensor, length: int) -> Tensor:
    """The last ``length`` frames before ``videos`` (B, C, T, H, W): of the buffer, or zeros.

    Both in the memory order (B, T, H, W, C), in which frames are joined and cut off.
    """
    if buffer is None:
        batch, channels, _, height, width = videos.shape
        return videos.new_zeros(batch, length, height, width, channels)
    return buffer.permute(0, 2, 3, 4, 1)


def join_buffer(buffer: Tensor | None, videos: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Put the last ``length`` frames of the call before in front of ``videos`` (B, C, T, H, W).

    Returns the longer video and the buffer for the next call.
    """
    frames = videos.shape[2]
    past = past_frames(buffer, videos, length)
    joined = torch.cat((past, videos.permute(0, 2, 3, 4, 1)), dim=1)
    # A view would keep the whole clip in memory, and its strides would compile anew; so would those
    # of a batch of one, unless they are told to be plain.
    latest = joined[:, frames:].clone(memory_format=torch.contiguous_format)
    return joined.permute(0, 4, 1, 2, 3), latest.permute(0, 4, 1, 2, 3)


class SpatioTemporalConv(nn.Module):
    """Depthwise 3D convolution of base models, and causally of the legacy stream models.

    Frames (B * T, C, H, W) -> (B * T, C, ceil(H/s), ceil(W/s)). Causally, the frames before the
    first come from a buffer (B, C, k - 1, H, W) of this layer's own input.
    """

    def __init__(self, channels: int, kernel: Kernel, stride: int, *, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, *kernel))
        self.bias: nn.Parameter | None = None
        self.kernel = kernel
        self.stride = (1, stride, stride)
        self.causal = causal

    def forward(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        videos = timeline.to_videos(x)
        frames = same_padding(timeline.frames, self.kernel[0], 1)
        if self.causal:
            videos, buffer = join_buffer(buffer, videos, self.kernel[0] - 1)
            frames = (0, 0)
        rows = same_padding(x.shape[-2], self.kernel[1], self.stride[1])
        columns = same_padding(x.shape[-1], self.kernel[2], self.stride[2])
        weight = padded_weight(self.weight, (frames, rows, columns))
        padding = (frames[1], rows[1], columns[1])
        if _learns_in_half_precision(videos):
            videos = videos.contiguous()
        y = F.conv3d(videos, weight, self.bias, self.stride, padding, groups=weight.shape[0])
        return to_frames(y), buffer


def _learns_in_half_precision(videos: Tensor) -> bool:
    """Whether a gradient will be taken in half precision on a CPU.

    In channels-last memory oneDNN's bfloat16 kernel (PyTorch 2.13) then returns wrong gradients of
    a depthwise 3D kernel wherever the clip is shorter than the kernel.
    """
    halved = videos.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    return halved and videos.device.type == "cpu" and torch.is_grad_enabled()


class TemporalConv(nn.Module):
    """Causal depthwise convolution over frames, the second half of a (2+1)D convolution.

    Frames (B * T, C, H, W) stay that shape; the buffer is (B, C, k - 1, H, W) of its input.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, 1))
        self.bias: nn.Parameter | None = None
        self.kernel = kernel

    def forward(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        joined, buffer = join_buffer(buffer, timeline.to_videos(x), self.kernel - 1)
        channels, height, width = x.shape[1:]
        # Pixels side by side on one axis make it a 2D convolution, which is the faster one.
        y = F.conv2d(joined.flatten(3), self.weight, self.bias, groups=channels)
        return to_frames(y.reshape(*y.shape[:3], height, width)), buffer
