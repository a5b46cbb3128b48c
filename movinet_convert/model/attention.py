"""Squeeze-excitation over a clip (base) or over the frames seen so far (stream)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from movinet_convert.model.layers import ACTIVATIONS, GATES, Linear
from movinet_convert.model.positions import FramePositions
from movinet_convert.variants import Settings, squeeze_width


class SqueezeExcitation(nn.Module):
    """One gate per channel and frame, computed from the frames so far.

    In stream models the input is the cumulative mean, next to the frame's own mean (``2plus3d``)
    and, from A3 on, a positional encoding with its own ReZero scale; in base models it is the mean
    of the whole clip.
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
        self, x: Tensor, positions: FramePositions, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Gates (N, C, 1, 1) of frames (N, C, H, W), and the next ``pool``.

        ``pool`` (B, C) is the sum of the spatial means of the frames before.
        """
        return self.gates(x.mean(dim=(2, 3)), positions, pool)

    def gates(
        self, means: Tensor, positions: FramePositions, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """``forward``, from the spatial means (N, C) of the frames."""
        means = means.reshape(positions.batch, positions.frames, -1)
        if self.causal:
            context, pool = self._past(means, positions, pool)
        else:
            context = means.mean(dim=1, keepdim=True)
        gates = self.gate(self.expand(self.activation(self.reduce(context))))
        return gates.expand(-1, positions.frames, -1).flatten(0, 1)[:, :, None, None], pool

    def _past(
        self, means: Tensor, positions: FramePositions, pool: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        context, pool = positions.cumulative_mean(means, pool)
        if self.with_frame_mean:
            context = torch.cat((context, means), dim=-1)
        if self.encoding_scale is not None:
            encoding = positions.encoding(context.shape[-1], context.dtype)
            context = context + encoding * self.encoding_scale
        return context, pool
