"""What a comparison runs: clips of several shapes, cut into calls in several ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from movinet_convert.parity.options import ParityOptions

if TYPE_CHECKING:
    from movinet_convert.variants import Settings

# Small, since Conv3D is slow in TensorFlow on a CPU, yet more frames than the longest temporal
# kernel has and more than one pixel in the last stage.
DEFAULT_FRAMES = 8
DEFAULT_SIZE = (64, 64)
BATCH = 2


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


def parity_cases(settings: Settings, options: ParityOptions) -> tuple[Case, ...]:
    """The cases of a variant; only stream variants take a video in more than one call."""
    frames = options.frames or DEFAULT_FRAMES
    height, width = size = options.size or DEFAULT_SIZE
    whole = (frames,)
    streamed = (
        Case("frame by frame", 1, size, (1,) * frames),
        Case("uneven chunks", 1, size, _uneven(frames)),
    )
    return (
        Case("one clip", 1, size, whole),
        *(streamed if settings.causal else ()),
        Case("batch", BATCH, size, whole),
        Case("not square", 1, (height, width + max(width // 2, 1)), whole),
        Case("odd size", 1, (_odd(height), _odd(width - 4)), whole),
    )


def _uneven(frames: int) -> tuple[int, ...]:
    """1, about half, the rest: 13 frames become 1 + 6 + 6, 8 become 1 + 4 + 3."""
    middle = frames // 2
    return tuple(chunk for chunk in (1, middle, frames - 1 - middle) if chunk > 0)


def _odd(pixels: int) -> int:
    return max(pixels - 1 + pixels % 2, 1)
