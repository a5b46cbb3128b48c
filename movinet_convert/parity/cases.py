"""The cases of a comparison, and their seeded random clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import Settings, Variant

# Small, since Conv3D is slow in TensorFlow on a CPU, yet more frames than the longest temporal
# kernel has and more than one pixel in the last stage.
DEFAULT_FRAMES = 8
DEFAULT_SIZE = (64, 64)
BATCH = 2

# One longer video, in chunks shorter and longer than any kernel, and one of the variant's own size.
LONG_CHUNKS = (1, 7, 24, 33)
LONG_SIZE = (36, 36)
OWN_SIZE_CHUNKS = (1, 2)

WAVES = 3
NOISE_STD = 0.08


@dataclass(frozen=True)
class Case:
    """``batch`` videos of ``size`` (height, width), given in calls of ``chunks`` frames."""

    name: str
    batch: int
    size: tuple[int, int]
    chunks: tuple[int, ...]

    @property
    def frames(self) -> int:
        return sum(self.chunks)

    def clip(self, seed: int) -> NDArray[np.float32]:
        """The random clips (B, 3, T, H, W) of the case."""
        return random_clips(self.batch, self.frames, *self.size, seed=seed)


def parity_cases(variant: Variant, settings: Settings, options: ParityOptions) -> tuple[Case, ...]:
    """The cases of a variant; only stream variants take a video in more than one call."""
    frames = options.frames or DEFAULT_FRAMES
    height, width = size = options.size or DEFAULT_SIZE
    streams = settings.causal
    whole, uneven = (frames,), _uneven(frames)
    cases = [Case("one clip", 1, size, whole)]
    if streams:
        cases.append(Case("frame by frame", 1, size, (1,) * frames))
        cases.append(Case("uneven chunks", 1, size, uneven))
    cases.append(Case("batch", BATCH, size, uneven if streams else whole))
    cases.append(Case("not square", 1, (height, width + max(width // 2, 1)), whole))
    cases.append(Case("odd size", 1, (_odd(height), _odd(width - 4)), whole))
    if options.coverage == "full":
        long, own = LONG_CHUNKS, OWN_SIZE_CHUNKS
        pixels = variant.input.size
        cases.append(Case("long", 1, LONG_SIZE, long if streams else (sum(long),)))
        cases.append(Case("own size", 1, (pixels, pixels), own if streams else (sum(own),)))
    return tuple(cases)


def _uneven(frames: int) -> tuple[int, ...]:
    """1, about half, the rest: 13 frames become 1 + 6 + 6, 8 become 1 + 4 + 3, 3 become 1 + 2."""
    middle = frames // 2 if frames > 3 else 0
    return tuple(chunk for chunk in (1, middle, frames - 1 - middle) if chunk > 0)


def _odd(pixels: int) -> int:
    return max(pixels - 1 + pixels % 2, 1)


def random_clips(
    count: int, frames: int, height: int, width: int, *, seed: int
) -> NDArray[np.float32]:
    """``count`` clips (B, 3, T, H, W), float32 RGB in [0, 1]; clip i depends on (seed, i).

    Pure noise has the same statistics in every clip and frame, so a network that pools over space
    would hardly distinguish them. Each clip therefore has its own waves, colours and moving spot,
    plus some noise. A shorter clip is a prefix of a longer one of the same size, except its noise.
    """
    return np.stack([_random_clip(frames, height, width, (seed, i)) for i in range(count)])


def _random_clip(
    frames: int, height: int, width: int, seed: tuple[int, int]
) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
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
    colour = random.uniform(-0.6, 0.6, (3, 1, 1, 1))
    start_y, start_x = random.uniform(0.2, 0.8, 2)
    speed_y, speed_x = random.uniform(-0.5, 0.5, 2)
    radius = random.uniform(0.08, 0.25)
    distance = (y - start_y - speed_y * time) ** 2 + (x - start_x - speed_x * time) ** 2
    clip += colour * np.exp(-distance / radius**2)
    clip += random.normal(0, NOISE_STD, clip.shape)
    return np.clip(clip, 0, 1).astype(np.float32)
