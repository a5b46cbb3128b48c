"""Seeded random clips that look a little like video, and the cases they are cut into.

Pure noise has the same statistics in every clip and frame, so a network that pools over space
would see hardly any difference between them. These clips have moving waves, colours and a
travelling spot of their own, under some noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

WAVES = 3
NOISE = 0.08


def random_clips(count: int, frames: int, height: int, width: int, *, seed: int) -> Array:
    """Return ``count`` clips (B, 3, T, H, W), float32 RGB in [0, 1]; clip i depends on (seed, i).

    A shorter clip is the beginning of a longer one of the same size, up to its noise.
    """
    return np.stack([_random_clip(frames, height, width, (seed, i)) for i in range(count)])


def _random_clip(frames: int, height: int, width: int, seed: Sequence[int]) -> Array:
    random = np.random.default_rng(list(seed))
    time = np.arange(frames)[:, None, None] / 8
    y = np.linspace(0, 1, height)[None, :, None]
    x = np.linspace(0, 1, width)[None, None, :]

    clip = np.empty((3, frames, height, width))
    clip[:] = random.uniform(0.2, 0.8, (3, 1, 1, 1))
    for _ in range(WAVES):
        u, v = random.uniform(-25, 25, 2)
        speed, phase = random.uniform(-6, 6), random.uniform(0, 2 * np.pi)
        wave = np.sin(u * x + v * y + speed * time + phase)
        clip += random.uniform(-0.3, 0.3, (3, 1, 1, 1)) * wave
    clip += random.uniform(-0.6, 0.6, (3, 1, 1, 1)) * _travelling_spot(random, time, y, x)
    clip += random.normal(0, NOISE, clip.shape)
    return np.clip(clip, 0, 1).astype(np.float32)


def _travelling_spot(
    random: np.random.Generator,
    time: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
) -> NDArray[np.float64]:
    start_y, start_x = random.uniform(0.2, 0.8, 2)
    speed_y, speed_x = random.uniform(-0.5, 0.5, 2)
    radius = random.uniform(0.08, 0.25)
    distance = (y - start_y - speed_y * time) ** 2 + (x - start_x - speed_x * time) ** 2
    spot: NDArray[np.float64] = np.exp(-distance / radius**2)
    return spot
