"""Preprocessing of clips: resize, center crop, RGB in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from movinet_convert.errors import UsageError
from movinet_convert.model.input_check import warn_of_range
from movinet_convert.variants import Variant

CHANNELS = 3
MAX_VALUE = 255.0


def resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width once the shorter side is ``shorter`` pixels; the other rounds down.

    As ``resize_smallest`` in official/vision/ops/preprocess_ops_3d.py.
    """
    least = min(height, width)
    return height * shorter // least, width * shorter // least


@dataclass(frozen=True)
class ClipTransform:
    """Frames as they were decoded -> a clip for the network.

    Takes (T, 3, H, W) or (B, T, 3, H, W), uint8 or floats in [0, 1], as torchvision's video
    transforms do, and returns (3, T, size, size) or (B, 3, T, size, size), float32 in [0, 1];
    ``size`` may also be (height, width). The shorter side is scaled to ``resize`` by bilinear
    interpolation without smoothing, as in the official evaluation.
    """

    resize: int
    size: int | tuple[int, int]

    @classmethod
    def of(cls, variant: Variant, size: tuple[int, int] | None = None) -> ClipTransform:
        """Decoded frames -> a clip of the size the variant was evaluated on.

        Another ``size`` shows as much of the frames.
        """
        if size is None or size == (variant.input.size,) * 2:
            return cls(resize=variant.input.resize, size=variant.input.size)
        return cls(resize=max(size) * variant.input.resize // variant.input.size, size=size)

    def __call__(self, frames: Tensor) -> Tensor:
        if frames.dim() not in (4, 5) or frames.shape[-3] != CHANNELS or 0 in frames.shape:
            raise UsageError(
                f"Frames are (T, {CHANNELS}, H, W) or (B, T, {CHANNELS}, H, W) with no empty "
                f"axis; got shape {tuple(frames.shape)}."
            )
        if frames.dtype == torch.uint8:
            frames = frames.float() / MAX_VALUE
        elif not frames.is_floating_point():
            raise UsageError(f"Frames are uint8, or floats in [0, 1]; got {frames.dtype}.")
        elif frames.device.type == "cpu":  # the network sees those of other devices soon enough
            warn_of_range(frames)
        flat = frames.float().flatten(0, -4)
        height, width = resized(flat.shape[-2], flat.shape[-1], self.resize)
        if (height, width) != tuple(flat.shape[-2:]):
            flat = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False)
        below, right = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        top, left = (height - below) // 2, (width - right) // 2
        cut = flat[..., top : top + below, left : left + right]
        return cut.reshape(*frames.shape[:-2], below, right).transpose(-4, -3)
