"""Random crops and flips of training clips, as the official input pipeline draws them.

Sources: ``random_crop_resize`` and ``random_flip_left_right`` in
official/vision/ops/preprocess_ops_3d.py, which call ``tf.image.sample_distorted_bounding_box``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from movinet_convert.errors import UsageError

MIN_COVERED = 0.1  # of the image, whatever the range of areas
MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class Augmentation:
    """How clips are varied in training; one choice for all frames of a clip.

    ``area``: the range of a crop's area, relative to the frame's, and ``aspect`` that of its width
    over its height; the crop is resized to the clip's size. Without ``area`` it is a square of the
    clip's size at a random place. ``flip``: the probability of a flip left to right.

    Raises UsageError for ranges that no crop can have.
    """

    area: tuple[float, float] | None = None
    aspect: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.area or (1.0, 1.0)
        if not 0 < low <= high <= 1 or high < MIN_COVERED:
            raise UsageError(
                f"The area of a crop is a range within (0, 1] that reaches {MIN_COVERED}, got "
                f"{low} to {high}."
            )
        low, high = self.aspect
        if not 0 < low <= high:
            raise UsageError(f"The aspect ratio is a range above 0, got {low} to {high}.")
        if not 0 <= self.flip <= 1:
            raise UsageError(f"The probability of a flip is from 0 to 1, got {self.flip}.")

    def __call__(self, clip: Tensor, size: int, random: np.random.Generator) -> Tensor:
        """(3, T, H, W) -> (3, T, size, size); H and W are at least ``size`` without ``area``."""
        height, width = clip.shape[-2:]
        if self.area is None:
            top, left = random.integers([height - size + 1, width - size + 1])
            clip = clip[..., top : top + size, left : left + size]
        else:
            top, left, below, right = random_crop(height, width, self.area, self.aspect, random)
            frames = clip[..., top : top + below, left : left + right].transpose(0, 1)
            # As TensorFlow's resize: bilinear, without smoothing.
            resized = F.interpolate(frames, (size, size), mode="bilinear", align_corners=False)
            clip = resized.transpose(0, 1)
        if self.flip and random.random() < self.flip:
            clip = clip.flip(-1)
        return clip.contiguous()


def random_crop(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random crop of an image of ``height`` x ``width`` pixels.

    As TensorFlow draws it: a uniform aspect ratio, then a uniform height among those for which the
    area is in its range and the crop in the image. The whole image if there is no such crop.
    """
    low, high = (share * height * width for share in (max(area[0], MIN_COVERED), area[1]))
    for _ in range(MAX_ATTEMPTS):
        ratio = random.uniform(*aspect)
        smallest = round((area[0] * height * width / ratio) ** 0.5)
        largest = min(height, int((width + 0.5) / ratio), round((high / ratio) ** 0.5))
        below = int(random.integers(min(smallest, largest), largest, endpoint=True))
        right = round(below * ratio)
        if 0 < below <= height and 0 < right <= width and low <= below * right <= high:
            top, left = random.integers([height - below + 1, width - right + 1])
            return int(top), int(left), below, right
    return 0, 0, height, width
