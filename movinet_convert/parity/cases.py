"""What a comparison runs: clips of several shapes, cut into calls in several ways."""

from __future__ import annotations

from dataclasses import dataclass

from movinet_convert.parity.options import ParityOptions
from movinet_convert.variants import Settings, Variant

# Small, since Conv3D is slow in TensorFlow on a CPU, yet more frames than the longest temporal
# kernel has and more than one pixel in the last stage.
DEFAULT_FRAMES = 8
DEFAULT_SIZE = (64, 64)
BATCH = 2

# One video that goes on for longer, in chunks shorter and longer than any kernel, and one of the
# size that the variant was made for.
LONG_CHUNKS = (1, 7, 24, 33)
LONG_SIZE = (36, 36)
OWN_SIZE_CHUNKS = (1, 2)


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
