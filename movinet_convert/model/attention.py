"""Squeeze-excitation over a clip (base) or over the frames seen so far (stream)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from movinet_convert.model.layers import ACTIVATIONS, GATES, Linear
from movinet_convert.model.timeline import Timeline
from movinet_convert.variants import Settings, squeeze_width


def running_sums(frames: Tensor, before: Tensor | None) -> Tensor:
    """Sums over the frames so far: (B, T, C), added to ``before`` (B, C), -> (B, T, C).

    At least float32, since half precision stops counting after a few hundred frames.
    """
    exact = frames if frames.dtype.itemsize >= 4 else frames.float()
    sums = exact if exact.shape[1] == 1 else exact.cumsum(dim=1)
    return sums if before is None else sums + before[:, None]


class SqueezeExcitation(nn.Module):
    """Scales every channel of a frame by a gate computed from the frame's past, (N, C, H, W).

    The gate of a stream model reads the cumulative mean beside the frame's own mean (``2plus3d``)
    and, from A3 on, a positional encoding with its own ReZero scale; that of a base model reads
    the mean of the whole clip.
    """

    def __init__(self, channels: int, settings: Settings) -> None:
        super().__init__()
        self.causal = settings.causal
        self.with_frame_mean = settings.se_type == "2plus3d"
        context = 2 * channels if self.with_frame_mean else channels
        hidden = squeeze_width(channels, settings.se_type)
        self.reduce = Linear(context, hidden)
        self.expand = Linear(hidden, channels)
        self.encoding_scale = (
            nn.Parameter(torch.empty(())) if settings.positional_encoding else None
        )
        self.activation = ACTIVATIONS[settings.activation]
        self.gate = GATES[settings.gating]

    def forward(
        self, x: Tensor, timeline: Timeline, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gate frames; ``pool`` (B, C) is the sum of the spatial means of the frames before."""
        frame_means = x.mean(dim=(2, 3)).reshape(timeline.batch, timeline.frames, -1)
        gates, pool = self.gates(frame_means, timeline, pool)
        return x * gates.flatten(0, 1)[:, :, None, None], pool

    def gates(
        self, frame_means: Tensor, timeline: Timeline, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """One factor for every channel of every frame, (B, T, C), from their spatial means."""
        if self.causal:
            context, pool = self._past(frame_means, timeline, pool)
        else:
            context = frame_means.mean(dim=1, keepdim=True)
        gates = self.gate(self.expand(self.activation(self.reduce(context))))
        return gates.expand(-1, timeline.frames, -1), pool

    def _past(
        self, frame_means: Tensor, timeline: Timeline, pool: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        sums = running_sums(frame_means, pool)
        context = (sums / timeline.divisors(sums.dtype)).to(frame_means.dtype)
        if self.with_frame_mean:
            context = torch.cat((context, frame_means), dim=-1)
        if self.encoding_scale is not None:
            encoding = timeline.encoding(context.shape[-1], context.dtype)
            context = context + encoding * self.encoding_scale
        return context, sums[:, -1]
