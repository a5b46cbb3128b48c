"""The stream state: what a stream model keeps between calls, as a value.

A model has no state of its own: ``model.stream`` takes one and returns the next, so one model
serves many videos and threads, and the videos of a batch may have started at different times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from movinet_convert.errors import StateError
from movinet_convert.variants import Settings, Variant

STEM_STRIDE = 2


@dataclass(frozen=True, repr=False)
class StreamState:
    """The state of B videos; the first axis of every tensor is the video.

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

    def __repr__(self) -> str:
        """One line, without the values: they are thousands."""
        try:
            counts = self.frame_count.tolist()
            seen = "-".join(map(str, sorted({min(counts), max(counts)})))
        except (RuntimeError, TypeError, ValueError):  # without values or videos
            seen = "?"
        return (
            f"StreamState(videos={len(self.frame_count)}, frames={seen}, blocks={len(self.pools)}, "
            f"dtype={str(self.head.dtype).removeprefix('torch.')}, device={self.head.device})"
        )

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

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> StreamState:
        """The inverse of ``tensors``."""

        def kind(suffix: str) -> dict[str, Tensor]:
            ends = {n: t for n, t in tensors.items() if n.endswith(suffix)}
            return {name.removesuffix(suffix): tensor for name, tensor in ends.items()}

        return StreamState(tensors["frame_count"], kind(".buffer"), kind(".pool"), tensors["head"])

    def map(self, change: Callable[[Tensor], Tensor]) -> StreamState:
        """The state with every tensor replaced by ``change(tensor)``."""
        return StreamState.of_tensors({name: change(t) for name, t in self.tensors()})

    def detach(self) -> StreamState:
        """The state detached from the graph, for truncated backpropagation through time."""
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
        index = torch.as_tensor(videos)
        if index.dtype == torch.bool:
            self._check_mask(index, "A mask of videos has")
            index = index.nonzero()[:, 0]
        if index.dim() != 1 or (index.is_floating_point() and index.numel()):
            raise StateError(
                f"Videos are selected by a list of indices; got {index.dtype} of shape "
                f"{tuple(index.shape)}."
            )
        wrong = index[(index < 0) | (index >= self.batch)]
        if wrong.numel():
            raise StateError(
                f"There is no video {int(wrong[0])} in a state of {self.batch}; "
                f"indices go from 0 to {self.batch - 1}."
            )
        index = index.to(self.frame_count.device, torch.long)
        # Indexing keeps the channels-last memory of the buffers; index_select does not.
        return self.map(lambda tensor: tensor[index])

    def split(self) -> list[StreamState]:
        """One state per video, each with a batch of one."""
        return [self.select([video]) for video in range(self.batch)]

    def reset(self, videos: Tensor) -> StreamState:
        """Reset the videos for which ``videos`` (B,) bool is true to a video's start."""
        self._check_mask(videos, "reset takes")

        def reset(tensor: Tensor) -> Tensor:
            mask = videos.to(tensor.device).view(-1, *[1] * (tensor.dim() - 1))
            return torch.where(mask, torch.zeros_like(tensor), tensor)

        return self.map(reset)

    def _check_mask(self, mask: Tensor, who: str) -> None:
        if mask.shape != (self.batch,) or mask.dtype != torch.bool:
            raise StateError(
                f"{who} one bool a video, shape ({self.batch},); "
                f"got {mask.dtype} of shape {tuple(mask.shape)}."
            )

    @staticmethod
    def stack(states: Sequence[StreamState]) -> StreamState:
        """Join states, of one or more videos each, into one batch; the inverse of ``split``."""
        if not states:
            raise StateError("stack needs at least one state.")
        tensors = [dict(state.tensors()) for state in states]
        shapes = [{name: tuple(t.shape[1:]) for name, t in each.items()} for each in tensors]
        for i, other in enumerate(shapes):
            for name in {**shapes[0], **other}:
                if other.get(name) != (first := shapes[0].get(name)):
                    raise StateError(
                        f"State {i} cannot join state 0: {name} is {other.get(name)} against "
                        f"{first}; only states of one model and frame size share a batch."
                    )
        return StreamState.of_tensors(
            {name: torch.cat([other[name] for other in tensors]) for name in tensors[0]}
        )


@dataclass(frozen=True)
class StateSpec:
    """The shapes of a network's stream state, derived from its specification.

    ``blocks`` has (name, channels, frames, reduction) of every block: ``frames`` of its buffer, 0
    without one, whose height and width are a ``reduction``-th of the video's, rounded up.
    """

    blocks: tuple[tuple[str, int, int, int], ...]
    head: int

    @staticmethod
    def of(variant: Variant, settings: Settings) -> StateSpec:
        after = STEM_STRIDE
        blocks = []
        for spec in variant.spec.blocks:
            before, after = after, after * spec.stride
            # A 3D convolution strides by itself; in (2+1)D the spatial one before it does.
            reduction = before if settings.conv_type == "3d" else after
            blocks.append((spec.name, spec.expanded, spec.kernel[0] - 1, reduction))
        return StateSpec(tuple(blocks), variant.spec.head)

    def shapes(self, batch: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by its name in ``StreamState.tensors``."""
        shapes: dict[str, tuple[int, ...]] = {"frame_count": (batch,)}
        for name, channels, frames, reduction in self.blocks:
            if frames:
                size = (-(-height // reduction), -(-width // reduction))
                shapes[f"{name}.buffer"] = (batch, channels, frames, *size)
            shapes[f"{name}.pool"] = (batch, channels)
        return {**shapes, "head": (batch, self.head)}

    def zeros(
        self, batch: int, height: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> StreamState:
        """The state before the first frame, in the memory format in which a network returns it."""
        kinds = {1: torch.long, 2: torch.promote_types(dtype, torch.float32), 5: dtype}
        tensors = {}
        for name, shape in self.shapes(batch, height, width).items():
            order = (shape[0], *shape[2:], shape[1]) if len(shape) == 5 else shape
            zeros = torch.zeros(order, dtype=kinds[len(shape)], device=device)
            tensors[name] = zeros.permute(0, 4, 1, 2, 3) if len(shape) == 5 else zeros
        return StreamState.of_tensors(tensors)

    def check(self, state: StreamState, batch: int, height: int, width: int, model: str) -> None:
        """Raise StateError unless the state is of ``batch`` videos of this size, of ``model``."""
        count = state.frame_count
        if count.dim() != 1 or state.batch != batch:
            raise StateError(
                f"The state holds {count.numel()} videos and the frames {batch}; "
                "both need the same batch."
            )
        if count.is_floating_point() or count.dtype == torch.bool:
            raise StateError(f"The frame count of a state is of integers; got {count.dtype}.")
        buffered = sum(frames > 0 for _, _, frames, _ in self.blocks)
        if len(state.pools) != len(self.blocks) or len(state.buffers) != buffered:
            raise StateError(
                f"The state has {len(state.pools)} blocks, {len(state.buffers)} of them with a "
                f"stream buffer, where {model} has {len(self.blocks)}, {buffered} with one; "
                "continue with the model that the state came from."
            )
        tensors = dict(state.tensors())
        for name, shape in self.shapes(batch, height, width).items():
            found = tensors.get(name)
            if found is None or found.shape != shape:
                what = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise StateError(
                    f"The state's {name} is {what} where this network and these frames need "
                    f"{shape}; pass the state that came from this model and frames of this size, "
                    "or None to start a video."
                )


torch.export.register_dataclass(
    StreamState, serialized_type_name="movinet_convert.model.state.StreamState"
)
