"""The frames of one call and their positions in their videos.

Inside the network time is folded into the batch, ``(B * T, C, H, W)`` with the frames of a video
adjacent; ``FramePositions`` unfolds it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LONGEST_WAVELENGTH = 10_000.0  # of the sinusoids, as in "Attention Is All You Need", section 3.5


@dataclass(frozen=True)
class FramePositions:
    """``batch`` videos of ``frames`` frames each.

    ``seen`` (B,) counts the frames of each video before this call; None for a whole clip.
    """

    batch: int
    frames: int
    seen: Tensor | None = None
    _cache: dict[object, Tensor] = field(default_factory=dict)  # computed once per call

    def counts(self) -> Tensor:
        """(B, T) the 1-based index of each frame in its own video."""
        if "counts" not in self._cache:
            assert self.seen is not None, "a clip without stream state has no counts"
            self._cache["counts"] = _counts(self.seen, self.frames)
        return self._cache["counts"]

    def divisors(self, dtype: torch.dtype) -> Tensor:
        """(B, T, 1) the counts, to divide sums over the frames so far."""
        if dtype not in self._cache:
            self._cache[dtype] = self.counts()[..., None].to(dtype)
        return self._cache[dtype]

    def encoding(self, width: int, dtype: torch.dtype) -> Tensor:
        """Sinusoidal encoding (B, T, width) of the positions."""
        if width not in self._cache:
            self._cache[width] = _sinusoids(self.counts() - 1, width, dtype)
        return self._cache[width]

    def cumulative_mean(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Means (B, T, C) of ``x`` (B, T, C) over all frames so far, and their sums (B, C).

        ``before`` (B, C) is the sum over the frames of earlier calls.
        """
        sums = running_sums(x, before)
        return (sums / self.divisors(sums.dtype)).to(x.dtype), sums[:, -1]

    def unfold(self, x: Tensor) -> Tensor:
        """(B * T, C, H, W) -> (B, C, T, H, W), a view of channels-last memory."""
        _, channels, height, width = x.shape
        frames = x.permute(0, 2, 3, 1).reshape(self.batch, self.frames, height, width, channels)
        return frames.permute(0, 4, 1, 2, 3)


def fold_time(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), a view of channels-last memory."""
    batch, channels, frames, height, width = x.shape
    flat = x.permute(0, 2, 3, 4, 1).reshape(batch * frames, height, width, channels)
    return flat.permute(0, 3, 1, 2)


# torch.fx takes the functions below, which branch on shapes, as one node each.


@torch.fx.wrap
def running_sums(frames: Tensor, before: Tensor | None) -> Tensor:
    """Sums over the frames so far: (B, T, C), added to ``before`` (B, C), -> (B, T, C).

    At least float32, since half precision stops counting after a few hundred frames.
    """
    exact = frames if frames.dtype.itemsize >= 4 else frames.float()
    sums = exact if exact.shape[1] == 1 else exact.cumsum(dim=1)
    return sums if before is None else sums + before[:, None]


@torch.fx.wrap
def _counts(seen: Tensor, frames: int) -> Tensor:
    # Not `+ 1`: PyTorch's quantizers take every number for a float, and the sum for one too.
    return seen[:, None] + torch.arange(1, frames + 1, device=seen.device)


@torch.fx.wrap
def _sinusoids(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sines of the even angles, then cosines of the odd ones, not interleaved.

    As ``PositionalEncoding`` in official/vision/modeling/layers/nn_layers.py.
    """
    # Half precision cannot represent frame 2049, so positions stay in float32.
    exact = torch.promote_types(dtype, torch.float32)
    channels = torch.arange(width, device=positions.device)
    power = (2 * (channels // 2)).to(exact) / width
    radians = positions.to(exact)[..., None] * (1.0 / LONGEST_WAVELENGTH**power)
    return torch.cat((radians[..., 0::2].sin(), radians[..., 1::2].cos()), dim=-1).to(dtype)
