"""The fused block: a clip goes through it in pieces that stay in the processor's cache.

A block's expanded frames are its largest tensor and are needed for the next convolution alone.
For a long clip they would be written to memory, fresh pages every time, only to be read back once;
a few frames at a time they never leave the cache. The squeeze-excitation parts a block in two: all
frames must have been seen before the first can be gated, so there the pieces wait.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from movinet_convert.model.attention import SqueezeExcitation
from movinet_convert.model.layers import join_buffer, past_frames
from movinet_convert.model.packed import Pointwise, Spatial, Temporal, runs_packed
from movinet_convert.model.padding import average_pool_same, same_padding
from movinet_convert.model.timeline import Timeline, to_frames

PIECE_BYTES = 4 * 2**20  # of expanded frames: in the cache with room to spare, and few calls


def piece_length(x: Tensor, channels: int) -> int | None:
    """How many of the frames (N, C, H, W) a layer with ``channels`` outputs takes at once.

    None is all of them: where they are few, or where oneDNN does not run.
    """
    if not runs_packed(x):
        return None
    length = max(1, PIECE_BYTES // (channels * x.shape[2] * x.shape[3] * x.element_size()))
    return length if length < x.shape[0] else None


def cut(x: Tensor, length: int | None) -> tuple[Tensor, ...]:
    return (x,) if length is None else tuple(torch.split(x, length))


class FusedStem(nn.Module):
    """The first convolution, (N, 3, H, W) in any layout -> (N, C, H/2, W/2) channels-last."""

    def __init__(self, conv: Spatial) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return _joined(
            [
                self.conv(piece.contiguous(memory_format=torch.channels_last))
                for piece in cut(x, piece_length(x, self.conv.weight.shape[0]))
            ]
        )


class FusedBlock(nn.Module):
    """What ``Block`` computes, from convolutions that normalise and activate by themselves.

    ``spatial`` and ``temporal`` are the depthwise convolutions: one or the other, or one after
    the other; a 3D one is ``temporal``.
    """

    def __init__(
        self,
        *,
        expansion: Pointwise,
        spatial: Spatial | None,
        temporal: Temporal | None,
        attention: SqueezeExcitation,
        projection: Pointwise,
        skip: Pointwise | None,
        downsample: bool,
    ) -> None:
        super().__init__()
        self.expansion = expansion
        self.spatial = spatial
        self.temporal = temporal
        self.attention = attention
        self.projection = projection
        self.skip = skip
        self.downsample = downsample

    def forward(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        features, buffer = self._features(x, timeline, buffer)
        means = _joined([piece.mean(dim=(2, 3)) for piece in features])
        means = means.reshape(timeline.batch, timeline.frames, -1)
        gates, pool = self.attention.gates(means, timeline, pool)
        gates = gates.flatten(0, 1)[:, :, None, None]
        if len(features) == 1:
            return self._project(features[0], gates, x), buffer, pool
        results = []
        first = 0
        while features:
            feature = features.pop(0)  # so that each is freed once it is projected
            frames = slice(first, first := first + feature.shape[0])
            results.append(self._project(feature, gates[frames], x[frames]))
        return torch.cat(results), buffer, pool

    def _newest(self, frame: Tensor, buffer: Tensor | None) -> tuple[Tensor, Tensor]:
        """One frame of each video (B, C, H, W), summed with those before it."""
        assert self.temporal is not None
        past = past_frames(buffer, frame[:, :, None], self.temporal.length - 1)
        newest = frame.permute(0, 2, 3, 1)
        y = self.temporal.newest(past, newest).permute(0, 3, 1, 2)
        joined = torch.cat((past[:, 1:], newest[:, None]), dim=1)
        return y, joined.permute(0, 4, 1, 2, 3)

    def _project(self, feature: Tensor, gates: Tensor, before: Tensor) -> Tensor:
        """Gate the expanded frames, project them and add what came in; may overwrite them."""
        y = feature.mul_(gates) if runs_packed(feature) else feature * gates
        x = average_pool_same(before) if self.downsample else before
        result: Tensor = self.projection(y, x if self.skip is None else self.skip(x))
        return result

    def _features(
        self, x: Tensor, timeline: Timeline, buffer: Tensor | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Pieces of the frames, in order, after the depthwise convolution; and the new buffer."""
        length = piece_length(x, self.expansion.weight.shape[0])
        if self.temporal is None:
            return [self._expand(piece) for piece in cut(x, length)], None
        if length is None:
            return self._in_time(x, timeline, buffer, None)
        features: list[Tensor] = []
        buffers: list[Tensor] = []
        batch, frames = timeline.batch, timeline.frames
        videos_at_once = max(1, length // frames)
        for first in range(0, batch, videos_at_once):
            videos = Timeline(min(videos_at_once, batch - first), frames)
            part = x[first * frames : (first + videos.batch) * frames]
            past = None if buffer is None else buffer[first : first + videos.batch]
            pieces, past = self._in_time(part, videos, past, length if frames > length else None)
            features += pieces
            buffers += [] if past is None else [past]
        return features, _joined(buffers) if buffers else None

    def _in_time(
        self, x: Tensor, videos: Timeline, buffer: Tensor | None, length: int | None
    ) -> tuple[list[Tensor], Tensor | None]:
        """Frames of some videos, or of a single one in pieces of a ``length``."""
        if not self.attention.causal:
            return self._clip(x, videos, length), None
        if videos.frames == 1 and self.spatial is not None:
            frame, buffer = self._newest(self._expand(x), buffer)
            return [frame], buffer
        return self._stream(x, videos, buffer, length)

    def _expand(self, x: Tensor) -> Tensor:
        x = self.expansion(x)
        return x if self.spatial is None else self.spatial(x)

    def _stream(
        self, x: Tensor, videos: Timeline, buffer: Tensor | None, length: int | None
    ) -> tuple[list[Tensor], Tensor]:
        """Frames of some videos; pieces of a single one hand on their buffer."""
        assert self.temporal is not None
        pieces = []
        for part in cut(x, length):
            piece = videos if length is None else Timeline(1, part.shape[0])
            frames = piece.to_videos(self._expand(part))
            joined, buffer = join_buffer(buffer, frames, self.temporal.length - 1)
            pieces.append(to_frames(self.temporal(joined)))
        assert buffer is not None
        return pieces, buffer

    def _clip(self, x: Tensor, videos: Timeline, length: int | None) -> list[Tensor]:
        """Frames of whole clips, for a convolution that looks both ways.

        Pieces of a single clip wait for the first frames of the next: the first gives fewer frames
        than were read for it, and the last more.
        """
        assert self.temporal is not None
        kernel = self.temporal.length
        if length is None or videos.frames <= max(length, kernel):
            return [to_frames(self.temporal(videos.to_videos(self._expand(x)), whole=True))]
        front, back = same_padding(videos.frames, kernel, 1)
        pieces = []
        parts = cut(x, max(length, kernel))
        channels = self.expansion.weight.shape[0]
        # Written anew for every piece: fresh memory costs more than what is computed in it.
        shape = (kernel - 1 + parts[0].shape[0] + back, *x.shape[2:], channels)
        window = x.new_empty(shape)
        window[:front].zero_()
        before = front
        for i, part in enumerate(parts):
            end = before + part.shape[0]
            self._expand_into(part, window[before:end])
            if i == len(parts) - 1:
                window[end : end + back].zero_()
                end += back
            frames = window[None, :end].permute(0, 4, 1, 2, 3)
            pieces.append(to_frames(self.temporal(frames)))
            before = kernel - 1
            latest = window[end - before : end]
            window[:before] = latest if end >= 2 * before else latest.clone()
        return pieces

    def _expand_into(self, x: Tensor, window: Tensor) -> None:
        """Write the expanded frames (N, C, H, W) into a part (N, H, W, C) of a window."""
        if self.spatial is None:
            self.expansion.packed_into(x, window)
        else:
            window.copy_(self._expand(x).permute(0, 2, 3, 1))


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
