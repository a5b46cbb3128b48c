"""Mistakes of time: in buffers, counts, running means and the positional encoding."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from movinet_convert.model.positions import FramePositions, running_sums
from scripts.mutations.mistake import STREAM, Mistake, become, original

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from movinet_convert.model import MoViNet, StreamState


def buffered(
    before: Callable[[Tensor | None, Tensor], Tensor | None] = lambda buffer, x: buffer,
    after: Callable[[Tensor | None, Tensor, Tensor], Tensor] = lambda buffer, new, y: new,
) -> Callable[[MoViNet], None]:
    """Temporal convolutions that read ``before(buffer, input)`` and leave ``after(...)`` behind."""

    def forward(self: Any, x: Tensor, positions: FramePositions, buffer: Tensor | None) -> Any:
        read = before(buffer, positions.unfold(self.spatial(x)))
        y, new = original(self).forward(self, x, positions, read)
        return y, after(buffer, new, positions.unfold(y))

    return lambda model: change_temporal(model, forward=forward)


def change_temporal(model: MoViNet, **methods: Any) -> None:
    """Give every ``Feature`` with a temporal convolution other methods."""
    blocks: Any = model.blocks.values()
    for block in blocks:
        if block.feature.temporal_conv is not None:
            become(block.feature, **methods)


def last_frames(new: Tensor, videos: Tensor) -> Tensor:
    """As many of the last frames of ``videos`` (B, C, T, H, W) as fit the buffer ``new``."""
    length = new.shape[2]
    return torch.cat((torch.zeros_like(new), videos), 2)[:, :, -length:]


def one_frame_late(buffer: Tensor | None, new: Tensor, y: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(new[:, :, :1]), new[:, :, :-1]), 2)


def never_updated(buffer: Tensor | None, new: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(new) if buffer is None else buffer


def of_the_first_video(buffer: Tensor | None, videos: Tensor) -> Tensor | None:
    return None if buffer is None else buffer[:1].expand_as(buffer)


def non_causal(model: MoViNet) -> None:
    """Temporal convolutions that see as many future frames as past ones."""

    def temporal(self: Any, videos: Tensor) -> Any:
        frames, half = videos[:, :, self.length - 1 :], self.length // 2
        return original(self).temporal(self, F.pad(frames, (0, 0, 0, 0, half, half)))

    change_temporal(model, temporal=temporal)


def begun_with_the_first_frame(model: MoViNet) -> None:
    """Buffers that start as copies of the first frame, where the official ones start empty."""

    def forward(self: Any, x: Tensor, positions: FramePositions, buffer: Tensor | None) -> Any:
        if buffer is None:
            first = positions.unfold(self.spatial(x))[:, :, :1]
            buffer = first.repeat(1, 1, self.length - 1, 1, 1)
        return original(self).forward(self, x, positions, buffer)

    change_temporal(model, forward=forward)


def counted(wrong: Callable[[Tensor, FramePositions], Tensor]) -> Callable[[MoViNet], None]:
    """Replace the frame counts (B, T), from 1, by ``wrong(counts, positions)``."""

    class WrongCounts(FramePositions):
        def counts(self) -> Tensor:
            return wrong(super().counts(), self)

    def to_frames(self: Any, clip: Tensor, seen: Tensor | None) -> Any:
        flat, positions = original(self)._to_frames(self, clip, seen)
        return flat, WrongCounts(positions.batch, positions.frames, positions.seen)

    return lambda model: become(model, _to_frames=to_frames)


def context(
    past: Callable[[Any, Tensor, FramePositions, Tensor | None], tuple[Tensor, Tensor]],
) -> Callable[[MoViNet], None]:
    """What the squeeze-excitation reads, from frame means (B, T, C) and pool (B, C)."""

    def wrong_past(self: Any, means: Tensor, positions: FramePositions, pool: Tensor | None) -> Any:
        read, pool = past(self, means, positions, pool)
        if self.encoding_scale is not None:
            read = read + positions.encoding(read.shape[-1], read.dtype) * self.encoding_scale
        return read, pool

    def make(model: MoViNet) -> None:
        for block in model.blocks.values():
            become(block.attention, _past=wrong_past)  # type: ignore[arg-type]

    return make


def sums_and_mean(
    means: Tensor, positions: FramePositions, pool: Tensor | None
) -> tuple[Tensor, Tensor]:
    sums = running_sums(means, pool)
    return sums[:, -1], sums / positions.divisors(sums.dtype)


def frame_mean_first(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, past = sums_and_mean(means, positions, pool)
    return torch.cat((means, past), -1), sums


def frame_mean_twice(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, _past = sums_and_mean(means, positions, pool)
    return torch.cat((means, means), -1), sums


def cumulative_mean_twice(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, past = sums_and_mean(means, positions, pool)
    return torch.cat((past, past), -1), sums


def chunk_mean(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, _past = sums_and_mean(means, positions, pool)
    return torch.cat((means.mean(1, keepdim=True).expand_as(means), means), -1), sums


def mean_to_come(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, past = sums_and_mean(means, positions, pool)
    return torch.cat((past[:, -1:].expand_as(past), means), -1), sums


def moving_average(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, _past = sums_and_mean(means, positions, pool)
    average, averages = means[:, 0] if pool is None else pool, []
    for t in range(positions.frames):
        average = 0.9 * average + 0.1 * means[:, t]
        averages.append(average)
    return torch.cat((torch.stack(averages, 1), means), -1), sums


def pool_forgotten(_: Any, means: Tensor, positions: FramePositions, pool: Any) -> Any:
    sums, past = sums_and_mean(means, positions, None)
    return torch.cat((past, means), -1), sums


def state_before(change: Callable[[StreamState], StreamState]) -> Callable[[MoViNet], None]:
    """Read another state than the one that is given."""

    def stream(self: Any, frames: Tensor, state: StreamState | None = None, **kwargs: Any) -> Any:
        read = None if state is None else change(state)
        return original(self).stream(self, frames, read, **kwargs)

    return lambda model: become(model, stream=stream)


def first_video_for_all(state: StreamState) -> StreamState:
    return state.map(lambda tensor: tensor[:1].expand_as(tensor))


def without_head(state: StreamState) -> StreamState:
    """The head pools over the chunk, the count goes on."""
    return dataclasses.replace(state, head=torch.zeros_like(state.head))


def pools_of_the_next_block(state: StreamState) -> StreamState:
    """Two blocks of equal width read each other's pool."""
    names = list(state.pools)
    a, b = next(
        (a, b) for a, b in itertools.pairwise(names) if state.pools[a].shape == state.pools[b].shape
    )
    pools = {**state.pools, a: state.pools[b], b: state.pools[a]}
    return dataclasses.replace(state, pools=pools)


def head_of_the_last_frame(model: MoViNet) -> None:
    def spatial_means(self: Any, x: Tensor, positions: FramePositions) -> Tensor:
        means: Tensor = original(self)._spatial_means(self, x, positions)
        return means * positions.counts()[..., None]

    become(model, _spatial_means=spatial_means)


def counts_stop_at(limit: int) -> Callable[[Tensor, FramePositions], Tensor]:
    return lambda counts, positions: counts.clamp(max=limit)


STREAM_MISTAKES = (
    Mistake("buffer one frame late", STREAM, buffered(after=one_frame_late)),
    Mistake("buffer never updated", STREAM, buffered(after=never_updated)),
    Mistake(
        "buffer of outputs instead of inputs",
        STREAM,
        buffered(after=lambda buffer, new, y: last_frames(new, y)),
    ),
    Mistake("buffer reset between calls", STREAM, buffered(before=lambda buffer, x: None)),
    Mistake(
        "buffer in reverse time order",
        STREAM,
        buffered(before=lambda buffer, x: None if buffer is None else buffer.flip(2)),
    ),
    Mistake("buffer of the batch's first video", STREAM, buffered(before=of_the_first_video)),
    Mistake("buffer initialized with the first frame", STREAM, begun_with_the_first_frame),
    Mistake("temporal convolution that is not causal", STREAM, non_causal),
    Mistake("frame count from 0", STREAM, counted(lambda counts, _: (counts - 1).clamp(min=1))),
    Mistake("frame count one too high", STREAM, counted(lambda counts, _: counts + 1)),
    Mistake("frame count that saturates at 8", STREAM, counted(counts_stop_at(8))),
    Mistake("frame count that saturates at 64", STREAM, counted(counts_stop_at(64))),
    Mistake(
        "frame count that restarts every call",
        STREAM,
        counted(lambda counts, positions: counts - counts[:, :1] + 1),
    ),
    Mistake(
        "number of calls instead of frames",
        STREAM,
        counted(lambda counts, positions: counts[:, :1].expand_as(counts)),
    ),
    Mistake(
        "frame count summed over the batch",
        STREAM,
        counted(lambda counts, positions: counts * positions.batch),
    ),
    Mistake(
        "state of the batch's first video for all videos", STREAM, state_before(first_video_for_all)
    ),
    Mistake("head pooled over the chunk only", STREAM, state_before(without_head)),
    Mistake("pools of two blocks exchanged", STREAM, state_before(pools_of_the_next_block)),
    Mistake("head's sums weighted by the count", STREAM, head_of_the_last_frame),
    Mistake("frame mean and cumulative mean in the wrong order", STREAM, context(frame_mean_first)),
    Mistake("frame mean instead of cumulative mean", STREAM, context(frame_mean_twice)),
    Mistake("cumulative mean instead of frame mean", STREAM, context(cumulative_mean_twice)),
    Mistake("chunk mean instead of cumulative mean", STREAM, context(chunk_mean)),
    Mistake("cumulative mean that includes the rest of the chunk", STREAM, context(mean_to_come)),
    Mistake("moving average instead of cumulative mean", STREAM, context(moving_average)),
    Mistake("pool reset between calls", STREAM, context(pool_forgotten)),
)
