"""What a stream model remembers between calls, as a value.

A model holds no state: ``model.stream`` takes one and returns the next, so one model serves many
videos and threads, and the videos of a batch may have begun at different times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import StateError


@dataclass(frozen=True)
class StreamState:
    """The memory of B videos; the first axis of every tensor is the video.

    ``frame_count`` (B,) int64: frames seen so far.
    ``buffers`` {block: (B, C, k - 1, H, W)}: the latest inputs of each temporal convolution.
    ``pools`` {block: (B, C)}: sums over the frames of each squeeze-excitation's spatial means.
    ``head`` (B, C): sum over the frames of the last layer's spatial means.

    A pytree: ``torch.utils._pytree``, ``torch.compile`` and ``torch.export`` look inside.
    """

    frame_count: Tensor
    buffers: dict[str, Tensor]
    pools: dict[str, Tensor]
    head: Tensor

    @property
    def batch(self) -> int:
        return self.frame_count.shape[0]

    def of_block(self, name: str) -> tuple[Tensor | None, Tensor]:
        """The buffer, if it has one, and the pool of a block."""
        return self.buffers.get(name), self.pools[name]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with a name like ``block0_layer0.buffer``, in the network's order."""
        yield "frame_count", self.frame_count
        for name, pool in self.pools.items():
            if name in self.buffers:
                yield f"{name}.buffer", self.buffers[name]
            yield f"{name}.pool", pool
        yield "head", self.head

    def map(self, change: Callable[[Tensor], Tensor]) -> StreamState:
        """The state with every tensor replaced by ``change(tensor)``."""
        return StreamState(
            change(self.frame_count),
            {name: change(buffer) for name, buffer in self.buffers.items()},
            {name: change(pool) for name, pool in self.pools.items()},
            change(self.head),
        )

    def detach(self) -> StreamState:
        """The state without its history, to train on a long video in pieces."""
        return self.map(lambda tensor: tensor.detach())

    def clone(self) -> StreamState:
        return self.map(lambda tensor: tensor.clone())

    def to(self, *args: Any, **kwargs: Any) -> StreamState:
        """Move or cast like ``Tensor.to``; the frame count stays an integer."""

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.to(*args, **kwargs)
            return moved if tensor.is_floating_point() else moved.to(tensor.dtype)

        return self.map(move)

    def select(self, videos: Sequence[int] | Tensor) -> StreamState:
        """The state of some of the videos, by their indices, in the order given.

        ``videos`` may also be a mask, (B,) bool, of those to keep. Raises StateError for an index
        outside 0 .. B - 1, and for a mask of another length.
        """
        index = self._indices(videos)
        # Indexing keeps the channels-last memory of the buffers; index_select does not.
        return self.map(lambda tensor: tensor[index])

    def _indices(self, videos: Sequence[int] | Tensor) -> Tensor:
        given = torch.as_tensor(videos)
        if given.dtype == torch.bool:
            if given.shape != (self.batch,):
                raise StateError(
                    f"A mask of videos has one bool each, shape ({self.batch},); "
                    f"got shape {tuple(given.shape)}."
                )
            given = given.nonzero()[:, 0]
        if given.dim() != 1 or (given.is_floating_point() and given.numel()):
            raise StateError(
                f"Videos are selected by a list of indices; got {given.dtype} of shape "
                f"{tuple(given.shape)}."
            )
        wrong = given[(given < 0) | (given >= self.batch)]
        if wrong.numel():
            raise StateError(
                f"There is no video {int(wrong[0])} in a state of {self.batch}; "
                f"indices go from 0 to {self.batch - 1}."
            )
        return given.to(self.frame_count.device, torch.long)

    def split(self) -> list[StreamState]:
        """One state a video, each with a batch of one."""
        return [self.select([video]) for video in range(self.batch)]

    def reset(self, videos: Tensor) -> StreamState:
        """Begin some videos anew: ``videos`` (B,) bool is true where all is forgotten."""
        if videos.shape != (self.batch,) or videos.dtype != torch.bool:
            raise StateError(
                f"reset takes one bool a video, shape ({self.batch},); "
                f"got {videos.dtype} of shape {tuple(videos.shape)}."
            )

        def forget(tensor: Tensor) -> Tensor:
            mask = videos.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
            return torch.where(mask, torch.zeros_like(tensor), tensor)

        return self.map(forget)

    @staticmethod
    def stack(states: Sequence[StreamState]) -> StreamState:
        """Join states into one batch, the inverse of ``split``; each may hold several videos."""
        if not states:
            raise StateError("stack needs at least one state.")
        first = states[0]
        _check_alike(states)
        return StreamState(
            torch.cat([s.frame_count for s in states]),
            {name: torch.cat([s.buffers[name] for s in states]) for name in first.buffers},
            {name: torch.cat([s.pools[name] for s in states]) for name in first.pools},
            torch.cat([s.head for s in states]),
        )


def _check_alike(states: Sequence[StreamState]) -> None:
    shapes = [{name: tuple(t.shape[1:]) for name, t in state.tensors()} for state in states]
    for i, other in enumerate(shapes[1:], 1):
        if other != shapes[0]:
            name = next(n for n in {**shapes[0], **other} if shapes[0].get(n) != other.get(n))
            raise StateError(
                f"State {i} cannot join state 0: {name} is {other.get(name)} against "
                f"{shapes[0].get(name)}; only states of one model and frame size share a batch."
            )


torch.export.register_dataclass(
    StreamState, serialized_type_name="movinet_convert.model.state.StreamState"
)
