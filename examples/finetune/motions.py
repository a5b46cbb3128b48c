"""Synthetic data sets whose classes are motions: no single frame tells anything about its class.

Every frame of every class is a window into a random field that is stationary and isotropic: its
distribution is the same at any place and in any direction. The motions only shift and rotate that
window, so a frame has the same distribution in all classes, whatever its number.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.finetune.shapes import Image
from examples.finetune.splits import SEPARATOR
from movinet_convert.video.encode import write_video

Grid = NDArray[np.float64]

FRAMES, SIZE, FPS = 8, 32, 10.0
WAVES = 24  # in a field: of few, one may be so strong that its direction is all that is seen
WAVELENGTH = (9.0, 24.0)  # pixels
CONTRAST = 75.0  # standard deviation, of 255
NOISE = 5.0
SPEED = (2.5, 3.5)  # pixels per frame: less than half a wavelength
TURN = (0.15, 0.25)  # radians per frame
PERIOD = 4  # frames from one turning point to the next

# What is seen to move, by x and y, which points down.
DIRECTIONS = {
    "down": (0, 1),
    "down-left": (-1, 1),
    "down-right": (1, 1),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "up-left": (-1, -1),
    "up-right": (1, -1),
}
# Back and forth, along x or y.
SWINGS = {"swing-horizontal": (1, 0), "swing-vertical": (0, 1)}
# Seen with y pointing down.
TURNS = {"clockwise": 1, "counter-clockwise": -1}
MOTIONS = tuple(sorted({**DIRECTIONS, **SWINGS, **TURNS}))


@dataclass(frozen=True)
class Field:
    """A sum of plane waves (K, 2) with phases (K,) and amplitudes of the colours (K, 3)."""

    waves: Grid
    phases: Grid
    amplitudes: Grid

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Field:
        angles = random.uniform(0, 2 * np.pi, WAVES)
        numbers = 2 * np.pi / random.uniform(*WAVELENGTH, WAVES)
        waves = numbers[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        colours = random.normal(0, 1, (WAVES, 3))
        colours *= np.sqrt(3) / np.linalg.norm(colours, axis=1, keepdims=True)
        amplitudes = CONTRAST * np.sqrt(2 / WAVES) * colours
        return cls(waves, random.uniform(0, 2 * np.pi, WAVES), amplitudes)

    def at(self, points: Grid) -> Grid:
        """The colours (H, W, 3) at points (H, W, 2)."""
        return np.cos(points @ self.waves.T + self.phases) @ self.amplitudes + 127.5


def write_motions(root: Path, videos: int, *, seed: int = 0) -> Path:
    """Write ``videos`` videos of every motion as ``root/motion/NNN.mp4``; returns ``root``."""
    for label, motion in enumerate(MOTIONS):
        (root / motion).mkdir(parents=True, exist_ok=True)
        for i in range(videos):
            random = np.random.default_rng([seed, label, i])
            write_video(root / motion / f"{i:03d}.mp4", _noisy(moving(motion, random), random), FPS)
    return root


def write_pairs(root: Path, name: str, videos: int, *, seed: int = 0) -> Path:
    """Write ``videos`` videos with two motions each, one after the other, in any order.

    As ``root/name/NNNNN.mp4``, with their labels in ``root/name.csv``, which ``read_lists`` reads;
    returns ``root``.
    """
    (root / name).mkdir(parents=True, exist_ok=True)
    with (root / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "label"])
        for i in range(videos):
            random = np.random.default_rng([seed, len(MOTIONS), i])
            pair = random.choice(MOTIONS, 2, replace=False)
            path = f"{name}/{i:05d}.mp4"
            frames = chain.from_iterable(moving(motion, random) for motion in pair)
            write_video(root / path, _noisy(frames, random), FPS)
            writer.writerow([path, SEPARATOR.join(sorted(pair))])
    return root


def moving(motion: str, random: np.random.Generator) -> Iterator[Grid]:
    """The frames (H, W, 3) of a field that moves, or turns around the middle of the image."""
    field = Field.drawn(random)
    speed, turn = random.uniform(*SPEED), random.uniform(*TURN)
    phase = int(random.integers(2 * PERIOD))
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    points = np.stack([x, y], axis=-1)
    for time in range(FRAMES):
        if motion in TURNS:
            yield field.at(points @ _rotation(TURNS[motion] * turn * time))
            continue
        direction = np.array(DIRECTIONS.get(motion) or SWINGS[motion])
        way = _back_and_forth(time + phase) if motion in SWINGS else time
        yield field.at(points - direction / np.linalg.norm(direction) * speed * way)


def _noisy(frames: Iterator[Grid], random: np.random.Generator) -> Iterator[Image]:
    for frame in frames:
        noisy = frame + random.normal(0, NOISE, frame.shape)
        yield np.clip(noisy, 0, 255).astype(np.uint8)


def _rotation(angle: float) -> Grid:
    """Turns the seen image by ``angle``, clockwise where y points down."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _back_and_forth(time: int) -> int:
    """0, 1, …, PERIOD, …, 1, 0, …"""
    return PERIOD - abs(time % (2 * PERIOD) - PERIOD)
