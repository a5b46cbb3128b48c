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
# Added before truncation, so that rounding errors of float32 do not take a value one level down.
ROUNDING_ERROR = 1e-3


def resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Height and width once the shorter side is ``shorter`` pixels; the other rounds down.

    As ``resize_smallest`` in official/vision/ops/preprocess_ops_3d.py.
    """
    least = min(height, width)
    return height * shorter // least, width * shorter // least


def resize_shorter(frames: Tensor, shorter: int) -> Tensor:
    """Frames (N, 3, H, W), uint8 or float32, with the shorter side scaled to ``shorter`` pixels.

    Bilinear interpolation without smoothing; uint8 is truncated to whole levels. Both are as in
    ``resize_smallest``, which resizes by ``tf.image.resize`` and casts the result.
    """
    size = resized(frames.shape[-2], frames.shape[-1], shorter)
    if size == tuple(frames.shape[-2:]):
        return frames
    scaled = F.interpolate(frames.float(), size, mode="bilinear", align_corners=False)
    return (scaled + ROUNDING_ERROR).to(torch.uint8) if frames.dtype == torch.uint8 else scaled


def center_crop(frames: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle of frames (…, H, W): ``size`` x ``size`` pixels, or (height, width)."""
    height, width = size if isinstance(size, tuple) else (size, size)
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    return frames[..., max(top, 0) :, max(left, 0) :][..., :height, :width]


@dataclass(frozen=True)
class ClipTransform:
    """Frames as they were decoded -> a clip for the network.

    Takes (T, 3, H, W) or (B, T, 3, H, W), uint8 or floats in [0, 1], as torchvision's video
    transforms do, and returns (3, T, size, size) or (B, 3, T, size, size), float32 in [0, 1];
    ``size`` may also be (height, width). The shorter side is scaled to ``resize`` as by
    ``resize_shorter``, so uint8 frames give the values of the official evaluation.
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
        whole = frames.dtype == torch.uint8
        if not (whole or frames.is_floating_point()):
            raise UsageError(f"Frames are uint8, or floats in [0, 1]; got {frames.dtype}.")
        if not whole and frames.device.type == "cpu":  # other devices: the network checks them
            warn_of_range(frames)
        flat = (frames if whole else frames.float()).flatten(0, -4)
        cut = center_crop(resize_shorter(flat, self.resize), self.size)
        scaled = cut.float() / MAX_VALUE if whole else cut
        return scaled.reshape(*frames.shape[:-2], *scaled.shape[-2:]).transpose(-4, -3)
