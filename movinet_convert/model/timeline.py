"""Where the frames of one call stand in their videos.

Inside the network the frames of all videos lie in one batch, ``(B * T, C, H, W)`` with the frames
of a video side by side; the timeline says how to tell them apart again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LONGEST_WAVELENGTH = 10_000.0  # of the sinusoids, as in "Attention Is All You Need", section 3.5


@dataclass(frozen=True)
class Timeline:
    """``batch`` videos of ``frames`` frames each.

    ``seen`` (B,) counts the frames of each video before this call; None for a whole clip.
    """

    batch: int
    frames: int
    seen: Tensor | None = None
    _encodings: dict[int, Tensor] = field(default_factory=dict)
    _counts: list[Tensor] = field(default_factory=list)
    _divisors: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def counts(self) -> Tensor:
        """(B, T) frames of its own video up to every frame, from 1; computed once per call."""
        if not self._counts:
            assert self.seen is not None, "a clip without stream state has no counts"
            first = self.seen[:, None] + 1
            steps = torch.arange(self.frames, device=self.seen.device)
            self._counts.append(first if self.frames == 1 else first + steps)
        return self._counts[0]

    def divisors(self, dtype: torch.dtype) -> Tensor:
        """(B, T, 1) the counts, to divide sums over the frames so far; computed once per call."""
        if dtype not in self._divisors:
            self._divisors[dtype] = self.counts()[..., None].to(dtype)
        return self._divisors[dtype]

    def encoding(self, width: int, dtype: torch.dtype) -> Tensor:
        """Sinusoidal encoding (B, T, width) of the positions, computed once per call and width.

        Sines of the even angles come first, then cosines of the odd ones; they are not
        interleaved (``PositionalEncoding`` in official/vision/modeling/layers/nn_layers.py).
        """
        if width not in self._encodings:
            # Half precision cannot tell frame 2049 from 2048, so positions stay in float32.
            exact = torch.promote_types(dtype, torch.float32)
            positions = (self.counts() - 1).to(exact)[..., None]
            channels = torch.arange(width, device=positions.device)
            power = (2 * (channels // 2)).to(exact) / width
            radians = positions * (1.0 / LONGEST_WAVELENGTH**power)
            waves = torch.cat((radians[..., 0::2].sin(), radians[..., 1::2].cos()), dim=-1)
            self._encodings[width] = waves.to(dtype)
        return self._encodings[width]

    def to_videos(self, x: Tensor) -> Tensor:
        """(B * T, C, H, W) -> (B, C, T, H, W), a view of channels-last memory."""
        _, channels, height, width = x.shape
        frames = x.permute(0, 2, 3, 1).reshape(self.batch, self.frames, height, width, channels)
        return frames.permute(0, 4, 1, 2, 3)


def to_frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B * T, C, H, W), a view of channels-last memory."""
    batch, channels, frames, height, width = x.shape
    flat = x.permute(0, 2, 3, 4, 1).reshape(batch * frames, height, width, channels)
    return flat.permute(0, 3, 1, 2)
