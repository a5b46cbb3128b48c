"""A synthetic data set: moving shapes on a background, as mp4 files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from movinet_convert.video.frames import write_video

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Grid = NDArray[np.float64]

FRAMES, SIZE, FPS = 8, 56, 10.0
NOISE = 6.0  # standard deviation, of 255
SMALLEST, LARGEST = 0.25, 0.4  # radius, relative to the image's side
DARK, BRIGHT = (0, 70), (150, 255)
STRIPES = 8.0  # radians from the middle of a shape to its edge

# Each shape within a circle of radius 1, by x and y.
SHAPES: dict[str, Callable[[Grid, Grid], Mask]] = {
    "bars": lambda x, y: (x**2 + y**2 < 1) & (np.sin(STRIPES * y) > 0),
    "columns": lambda x, y: (x**2 + y**2 < 1) & (np.sin(STRIPES * x) > 0),
    "disc": lambda x, y: x**2 + y**2 < 1,
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.6),
}


def write_shapes(root: Path, videos: int, *, seed: int = 0) -> Path:
    """Write ``videos`` videos of every shape as ``root/shape/NNN.mp4``; returns ``root``.

    Colours, sizes and paths differ between videos, and depend only on ``seed``.
    """
    for label, name in enumerate(SHAPES):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(videos):
            random = np.random.default_rng([seed, label, i])
            write_video(folder / f"{i:03d}.mp4", _images(name, random), FPS)
    return root


def _images(name: str, random: np.random.Generator) -> Iterator[Image]:
    background, colour = random.uniform(*DARK, 3), random.uniform(*BRIGHT, 3)
    radius = random.uniform(SMALLEST, LARGEST)
    start = random.uniform(radius, 1 - radius, 2)
    end = random.uniform(radius, 1 - radius, 2)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for time in np.linspace(0, 1, FRAMES):
        centre = start + (end - start) * time
        mask = SHAPES[name]((x - centre[0]) / radius, (y - centre[1]) / radius)
        image = np.where(mask[..., None], colour, background)
        noisy = image + random.normal(0, NOISE, image.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)
