"""Chunked execution: run a clip through a fused block in chunks that stay in the cache.

A block's expanded frames are its largest tensor, and only the next convolution reads them. For a
long clip they would be written to newly allocated memory and read back once; a few frames at a time
they never leave the cache. The squeeze-excitation splits a block in two, since it needs the means
of all frames before the first is gated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from movinet_convert.model.block import Block
from movinet_convert.model.convolutions import same_padding
from movinet_convert.model.onednn import FusedConv2d, runs_onednn
from movinet_convert.model.positions import FramePositions, fold_time

CHUNK_BYTES = 4 * 2**20  # of expanded frames: fits in the cache, and keeps the calls few


def chunk_length(x: Tensor, channels: int) -> int | None:
    """How many of the frames (N, C, H, W) a layer with ``channels`` outputs takes at once.

    None is all of them: if they are few, or oneDNN is not used.
    """
    if not runs_onednn(x):
        return None
    length = max(1, CHUNK_BYTES // (channels * x.shape[2] * x.shape[3] * x.element_size()))
    return length if length < x.shape[0] else None


class ChunkedStem(nn.Module):
    """The first convolution, (N, 3, H, W) in any layout -> (N, C, H/2, W/2) channels-last."""

    def __init__(self, conv: FusedConv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        length = chunk_length(x, self.conv.out_channels)
        # Not split into len(x) frames: the number of frames stays dynamic in an exported graph.
        chunks = (x,) if length is None else torch.split(x, length)
        return _cat(
            [self.conv(chunk.contiguous(memory_format=torch.channels_last)) for chunk in chunks]
        )


class ChunkedBlock(nn.Module):
    """A fused block that takes a long clip in chunks."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None, pool: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        block = self.block
        length = chunk_length(x, block.expansion.out_channels)
        if length is None:
            result: tuple[Tensor, Tensor | None, Tensor | None] = block(x, positions, buffer, pool)
            return result
        features, buffer = self._features(x, positions, buffer, length)
        means = _cat([chunk.mean(dim=(2, 3)) for chunk in features])
        gates, pool = block.attention.gates(means, positions, pool)
        results = []
        first = 0
        while features:
            feature = features.pop(0)  # so that each is freed once it is projected
            frames = slice(first, first := first + feature.shape[0])
            results.append(block.project(feature, gates[frames], x[frames], positions))
        return torch.cat(results), buffer, pool

    def _features(
        self, x: Tensor, positions: FramePositions, buffer: Tensor | None, length: int
    ) -> tuple[list[Tensor], Tensor | None]:
        """Chunks of the frames, in order, after the depthwise convolution; and the new buffer."""
        block, frames = self.block, positions.frames
        if block.feature.length == 1:
            return [
                block.feature.spatial(block.expansion(chunk)) for chunk in torch.split(x, length)
            ], None
        features: list[Tensor] = []
        buffers: list[Tensor] = []
        videos_at_once = max(1, length // frames)
        for first in range(0, positions.batch, videos_at_once):
            videos = slice(first, first + videos_at_once)
            part = x[first * frames : videos.stop * frames]
            past = None if buffer is None else buffer[videos]
            if frames > length and not block.feature.causal:
                features += self._window(part, max(length, block.feature.length))
                continue
            if frames > length:  # chunks of one video, which pass on their buffer
                chunks = [
                    (chunk, FramePositions(1, len(chunk))) for chunk in torch.split(part, length)
                ]
            else:
                chunks = [(part, FramePositions(len(part) // frames, frames))]
            for chunk, here in chunks:
                y, past = block.feature(block.expansion(chunk), here, past)
                features.append(y)
            buffers += [] if past is None else [past]
        return features, _cat(buffers) if buffers else None

    def _window(self, x: Tensor, length: int) -> list[Tensor]:
        """Frames (T, C, H, W) of one clip, for a 3D convolution that is not causal.

        A chunk needs the first frames of the next: the first returns fewer frames than it reads,
        and the last more.
        """
        kernel, conv = self.block.feature.length, self.block.feature.conv
        front, back = same_padding(len(x), kernel, 1)
        chunks = torch.split(x, length)
        # Reused for every chunk: allocating memory costs more than the computation in it.
        shape = (kernel - 1 + chunks[0].shape[0] + back, *x.shape[2:], conv.in_channels)
        window = x.new_empty(shape)
        window[:front].zero_()
        features = []
        before = front
        for i, chunk in enumerate(chunks):
            end = before + chunk.shape[0]
            self.block.expansion.into(chunk, window[before:end])
            if i == len(chunks) - 1:
                window[end : end + back].zero_()
                end += back
            frames = window[None, :end].permute(0, 4, 1, 2, 3)
            features.append(fold_time(conv(frames, padded=True)))
            before = kernel - 1
            latest = window[end - before : end]
            window[:before] = latest if end >= 2 * before else latest.clone()
        return features


def _cat(chunks: list[Tensor]) -> Tensor:
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)
