"""How a file stores the tensors of a ``StreamState``: in a shape that its runtime is fast with.

Both directions are views, without a copy, of memory in the file's own order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """``pack`` a buffer (B, C, n, H, W) as in the file, and ``unpack`` it to such a shape.

    ``flat``: pools are (B, C, 1, 1) instead of (B, C).
    """

    pack: Callable[[Tensor], Tensor]
    unpack: Callable[[Tensor, Shape], Tensor]
    flat: bool = True

    def to_file(self, tensor: Tensor) -> Tensor:
        """Any tensor of a ``StreamState``, as in the file."""
        if tensor.dim() == 5:
            return self.pack(tensor)
        return tensor[:, :, None, None] if self.flat and tensor.dim() == 2 else tensor

    def from_file(self, tensor: Tensor, shape: Shape) -> Tensor:
        """The inverse of ``to_file``, where ``shape`` is that in the ``StreamState``."""
        return self.unpack(tensor, shape) if len(shape) == 5 else tensor.reshape(shape)


def _channels_last(buffer: Tensor) -> Tensor:
    return buffer.permute(0, 2, 3, 4, 1).contiguous()


def _channels_first(tensor: Tensor, shape: Shape) -> Tensor:
    batch, channels, *sizes = shape
    return tensor.reshape(batch, *sizes, channels).permute(0, 4, 1, 2, 3)


def _tall(buffer: Tensor) -> Tensor:
    batch, channels, _, _, width = buffer.shape
    return buffer.reshape(batch, channels, -1, width).contiguous()


def _tall_by_shape(buffer: Tensor) -> Tensor:
    return _channels_last(buffer).flatten(1, 2)


def _tall_by_strides(buffer: Tensor) -> Tensor:
    tall = _tall_by_shape(buffer).permute(0, 3, 1, 2)
    return tall.contiguous(memory_format=torch.channels_last)


AS_THEY_ARE = Layout(lambda buffer: buffer, Tensor.reshape, flat=False)
PLAIN = Layout(Tensor.contiguous, Tensor.reshape, flat=False)
CHANNELS_LAST = Layout(_channels_last, _channels_first, flat=False)  # (B, n, H, W, C)
TALL = Layout(_tall, Tensor.reshape)  # (B, C, n * H, W)
TALL_CHANNELS_LAST = Layout(_tall_by_shape, _channels_first)  # (B, n * H, W, C)
TALL_STRIDED = Layout(_tall_by_strides, Tensor.reshape)  # (B, C, n * H, W), torch.channels_last
