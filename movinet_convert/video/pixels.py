"""Decoded frames as RGB images, scaled and cropped as in the official evaluation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.errors import VideoError
from movinet_convert.model.transforms import center_crop, resize_shorter, resized
from movinet_convert.video.decode import MAX_PIXELS, import_av

Image = NDArray[np.uint8]

# FFmpeg's flags to interpolate subsampled colours, as JPEG decoders do, instead of repeating them:
# SWS_BILINEAR, SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP and SWS_ACCURATE_RND of libswscale/swscale.h.
CONVERSION = 1 << 1 | 1 << 13 | 1 << 14 | 1 << 18


def to_image(
    frame: Any,
    resize: int | None,
    size: int | tuple[int, int] | None,
    source: str | os.PathLike[str],
) -> Image:
    """A decoded frame as an image (H, W, 3), upright, its shorter side scaled to ``resize``.

    Then a center crop of ``size``; None: unchanged. FFmpeg only converts the colours, since its
    scaler smooths what it scales down, and the official one does not. Raises VideoError if the
    image would be too large.
    """
    if resize is not None:
        height, width = resized(frame.height, frame.width, resize)
        if height * width > MAX_PIXELS:
            raise VideoError(
                f"{source} has {frame.width} x {frame.height} pixels, too narrow: its "
                f"shorter side cannot be scaled to {resize}."
            )
    image: Image = frame.to_ndarray(format="rgb24", interpolation=CONVERSION)
    image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if resize is not None:
        pixels = resize_shorter(pixels[None], resize)[0]
    if size is not None:
        pixels = center_crop(pixels, size)
    return pixels.permute(1, 2, 0).contiguous().numpy()


def fitted(
    image: Image, resize: int | None, size: int | tuple[int, int] | None, source: str
) -> Image:
    """An image (H, W, 3), RGB, scaled and cropped as the frames of a video; raises as they do."""
    frame = import_av().VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return to_image(frame, resize, size, source)
