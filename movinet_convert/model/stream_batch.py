"""Many videos at once: independent streams that share a batch.

Single frames do not fully use a processor; the frames of sixteen videos do. A ``StreamBatch`` runs
the next frames of any of its videos as one batch; videos join and leave at any time, and a video
without a new frame keeps its state.

Videos are independent: the contents of one, NaN included, do not change a bit of another's logits.
The *number* of videos may change the last bits, since matrix products are tiled differently for
other batch sizes; the logits agree to rounding with those of a video that is run alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from movinet_convert.errors import StateError, UsageError
from movinet_convert.model.state import StreamState
from movinet_convert.variants import Settings, Variant

Key = TypeVar("Key")


class StreamModel(Protocol):
    """What is needed of a network: a ``MoViNet``, or one that ``load_exported`` opened."""

    @property
    def variant(self) -> Variant: ...

    @property
    def settings(self) -> Settings: ...

    def stream(
        self, frames: Tensor, state: StreamState | None = None
    ) -> tuple[Tensor, StreamState]: ...

    def initial_state(self, batch: int, height: int, width: int) -> StreamState: ...

    def check_state(self, state: StreamState, batch: int, height: int, width: int) -> None: ...


class StreamBatch(Generic[Key]):
    """Streams of one model and one frame size, each identified by a key of your choice.

        batch = StreamBatch(fuse(model))
        batch.join("door")
        logits = batch.step({"door": frame})["door"]  # frame (3, H, W), logits (classes,)
        state = batch.leave("door")                   # to resume: batch.join("door", state)

    The videos of an exported file run in groups of as many as it takes at a time.

    Gradients are not tracked. Raises UsageError for a base variant, and for a model in training
    mode, whose normalisations would mix the videos.
    """

    def __init__(self, model: StreamModel, size: tuple[int, int] | None = None) -> None:
        if not model.settings.causal:
            raise UsageError(
                f"{model.variant.name} reads whole clips and cannot stream; "
                f"use {model.variant.arch}-stream."
            )
        _require_eval(model)
        self.model = model
        self.size = size or (model.variant.input.size,) * 2
        self._keys: list[Key] = []
        self._state: StreamState | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The videos in the batch, in the order in which they joined."""
        return tuple(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def join(self, key: Key, state: StreamState | None = None) -> None:
        """Add a video, at its start or with the ``state`` (batch of one) that ``leave`` returned.

        Raises UsageError if the key is in use, StateError if the state is of another network or
        frame size.
        """
        if key in self._keys:
            raise UsageError(f"Stream {key!r} is already in the batch; leave() it first.")
        if state is None:
            state = self.model.initial_state(1, *self.size)
        elif state.batch != 1:
            raise StateError(f"A state that joins must have one video; this one has {state.batch}.")
        else:
            self.model.check_state(state, 1, *self.size)
        old = self._state
        self._state = state if old is None else StreamState.stack([old, state])
        self._keys.append(key)

    def leave(self, key: Key) -> StreamState:
        """Remove a video; returns its state, with which it can join this or another batch."""
        index = self._index(key)
        state = self._joined()
        rest = [i for i in range(len(self._keys)) if i != index]
        self._state = state.select(rest) if rest else None
        self._keys.pop(index)
        return state.select([index])

    def reset(self, key: Key) -> None:
        """Reset a video to its start, as after a scene change."""
        mask = torch.zeros(len(self._keys), dtype=torch.bool)
        mask[self._index(key)] = True
        self._state = self._joined().reset(mask)

    @torch.no_grad()
    def step(self, frames: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """Run the next frame (3, H, W), or frames (3, t, H, W), of some of the videos.

        Returns the logits (classes,) of each after its latest frame. All must have the same shape;
        videos without a frame keep their state.
        """
        if not frames:
            return {}
        _require_eval(self.model)
        keys = list(frames)
        indices = [self._index(key) for key in keys]
        clip = torch.stack([self._clip(frames[key]) for key in keys])
        state = self._joined()
        everyone = indices == list(range(len(self._keys)))
        logits, after = self._stream(clip, state if everyone else state.select(indices))
        self._state = after if everyone else _replaced(state, after, indices)
        return dict(zip(keys, logits, strict=True))

    def _stream(self, clip: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        most = getattr(self.model, "batch", None) or len(clip)  # of an exported file
        if len(clip) <= most:
            return self.model.stream(clip, state)
        groups = [range(i, min(i + most, len(clip))) for i in range(0, len(clip), most)]
        found = [self.model.stream(clip[list(group)], state.select(group)) for group in groups]
        logits, states = zip(*found, strict=True)
        return torch.cat(logits), StreamState.stack(states)

    def _clip(self, frames: Tensor) -> Tensor:
        clip = frames[:, None] if frames.dim() == 3 else frames
        if clip.shape[-2:] != self.size:
            raise UsageError(
                f"Frames of this batch are {self.size[0]} x {self.size[1]}; "
                f"got {tuple(frames.shape)}: resize them, or use a batch of that size."
            )
        return clip

    def _index(self, key: Key) -> int:
        try:
            return self._keys.index(key)
        except ValueError:
            raise UsageError(f"There is no stream {key!r} in the batch; join() it first.") from None

    def _joined(self) -> StreamState:
        assert self._state is not None
        return self._state


def _require_eval(model: StreamModel) -> None:
    if getattr(model, "training", False):
        raise UsageError(
            "The model is in training mode, in which the videos of a batch are normalised "
            "together; call model.eval() first."
        )


def _replaced(state: StreamState, part: StreamState, indices: Sequence[int]) -> StreamState:
    """``state`` with the videos at ``indices`` taken from ``part``."""
    source = list(range(state.batch))
    for place, index in enumerate(indices):
        source[index] = state.batch + place
    return StreamState.stack([state, part]).select(source)
