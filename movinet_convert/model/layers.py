"""Normalisation, activations and the other parts of blocks, on frames ``(N, C, H, W)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from movinet_convert.model.convolutions import Conv2dSame, Uninitialized
from movinet_convert.variants import BATCH_NORM_EPSILON

BATCH_NORM_MOMENTUM = 0.01  # of the new value; Keras counts the old one and calls it 0.99


def _hard_sigmoid_keras(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0.0, 1.0)


def _hard_sigmoid_model_garden(x: Tensor) -> Tensor:
    return F.relu6(x + 3.0) * 0.16667  # this constant, not 1/6, is the official code's


# Both take ``inplace`` as their second argument.
ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"swish": F.silu, "hard_swish": F.hardswish}

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "keras": _hard_sigmoid_keras,
    "model-garden": _hard_sigmoid_model_garden,
}


class Linear(Uninitialized, nn.Linear):
    """A linear layer that does not initialize its weights."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation with Keras' epsilon and momentum, over all axes but the second.

    In training the moving variance is updated with the biased batch variance (divided by n), as in
    Keras' unfused layer, which the official model uses because it synchronises over replicas.
    ``unbiased=True`` uses the estimate divided by n - 1, as the fused layer and PyTorch do.

    There is no ``num_batches_tracked``: with a fixed momentum it has no effect, and TensorFlow's
    checkpoints have no such variable.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    momentum: float
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, unbiased: bool = False) -> None:
        super().__init__(channels, BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM)
        self.num_batches_tracked = None
        self.unbiased = unbiased

    def reset_running_stats(self) -> None:
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # PyTorch's own would add num_batches_tracked to a dict without metadata.
        nn.Module._load_from_state_dict(self, *args, **kwargs)

    def extra_repr(self) -> str:
        plain = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{plain}, unbiased={self.unbiased}"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            moving = (self.running_mean, self.running_var)
            return F.batch_norm(x, *moving, self.weight, self.bias, False, 0.0, self.eps)
        # New tensors receive the batch mean and variance, so that the moving ones may change before
        # the backward pass, as they do in a stream of several calls.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        with torch.no_grad():
            if not self.unbiased:
                count = x.numel() // x.shape[1]
                variance = variance * ((count - 1) / count)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return y


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, if given, an activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        stride: int = 1,
        activation: str | None = None,
        unbiased: bool = False,
    ) -> None:
        super().__init__()
        self.conv = Conv2dSame(inputs, outputs, kernel, stride)
        self.norm = BatchNorm(outputs, unbiased=unbiased)
        self.activation = ACTIVATIONS[activation] if activation else None

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        return normed if self.activation is None else self.activation(normed)


def past_frames(buffer: Tensor | None, videos: Tensor, length: int) -> Tensor:
    """The last ``length`` frames before ``videos`` (B, C, T, H, W): the buffer, or zeros.

    Both in the memory order (B, T, H, W, C), in which frames are concatenated and sliced.
    """
    if buffer is None:
        batch, channels, _, height, width = videos.shape
        return videos.new_zeros(batch, length, height, width, channels)
    return buffer.permute(0, 2, 3, 4, 1)


def join_buffer(buffer: Tensor | None, videos: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Prepend the last ``length`` frames of the previous call to ``videos`` (B, C, T, H, W).

    Returns the longer video and the buffer for the next call.
    """
    frames = videos.shape[2]
    past = past_frames(buffer, videos, length)
    joined = torch.cat((past, videos.permute(0, 2, 3, 4, 1)), dim=1)
    # A view would keep the whole clip in memory, and its strides would trigger a recompilation; so
    # would those of a batch of one without an explicit memory format.
    latest = joined[:, frames:].clone(memory_format=torch.contiguous_format)
    return joined.permute(0, 4, 1, 2, 3), latest.permute(0, 4, 1, 2, 3)
