"""Synthetic data sets: moving shapes on a background, as mp4 files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from movinet_convert.video.encode import write_video

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Grid = NDArray[np.float64]

FRAMES, SIZE, FPS = 8, 56, 10.0
STRIPES = 8.0  # radians from the middle of a shape to its edge

# Each shape within a circle of radius 1, by x and y.
SHAPES: dict[str, Callable[[Grid, Grid], Mask]] = {
    "bars": lambda x, y: (x**2 + y**2 < 1) & (np.sin(STRIPES * y) > 0),
    "columns": lambda x, y: (x**2 + y**2 < 1) & (np.sin(STRIPES * x) > 0),
    "disc": lambda x, y: x**2 + y**2 < 1,
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.6),
}
# By x and y, which points down.
MOTIONS = {"down": (0, 1), "left": (-1, 0), "right": (1, 0), "still": (0, 0), "up": (0, -1)}


@dataclass(frozen=True)
class Look:
    """How well the shapes can be seen, and what tells the classes apart.

    ``noise`` is a standard deviation, of 255; ``radius`` is relative to the image's side.
    ``motions``: a class for every shape and direction, which no single frame shows.
    """

    noise: float = 6.0
    radius: tuple[float, float] = (0.25, 0.4)
    background: tuple[float, float] = (0, 70)
    colour: tuple[float, float] = (150, 255)
    motions: bool = False


EASY = Look()
HARD = Look(noise=40.0, radius=(0.13, 0.26), background=(0, 120), colour=(120, 255), motions=True)


def write_shapes(root: Path, videos: int, *, seed: int = 0, look: Look = EASY) -> Path:
    """Write ``videos`` videos of every class as ``root/class/NNN.mp4``; returns ``root``.

    Colours, sizes and paths differ between videos, and depend only on ``seed``.
    """
    motions = MOTIONS if look.motions else [None]
    classes = [(shape, motion) for shape in SHAPES for motion in motions]
    for label, (shape, motion) in enumerate(classes):
        folder = root / (f"{shape}-{motion}" if motion else shape)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(videos):
            random = np.random.default_rng([seed, label, i])
            images = _images(shape, motion, look, random)
            write_video(folder / f"{i:03d}.mp4", images, FPS)
    return root


def _images(
    shape: str, motion: str | None, look: Look, random: np.random.Generator
) -> Iterator[Image]:
    background, colour = random.uniform(*look.background, 3), random.uniform(*look.colour, 3)
    radius = random.uniform(*look.radius)
    start = random.uniform(radius, 1 - radius, 2)
    end = random.uniform(radius, 1 - radius, 2)
    if motion is not None:
        start, end = _path(start, np.array(MOTIONS[motion]), radius)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for time in np.linspace(0, 1, FRAMES):
        centre = start + (end - start) * time
        mask = SHAPES[shape]((x - centre[0]) / radius, (y - centre[1]) / radius)
        image = np.where(mask[..., None], colour, background)
        noisy = image + random.normal(0, look.noise, image.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _path(
    middle: NDArray[np.float64], direction: NDArray[np.int_], radius: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From edge to edge in a ``direction``, or ``middle`` twice if that is (0, 0)."""
    way = 0.5 - radius
    along = np.where(direction != 0, 0.5, middle)
    return along - way * direction, along + way * direction
