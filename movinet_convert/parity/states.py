"""The states of the official stream models, by their names there, and ``StreamState``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from movinet_convert.errors import StateError
from movinet_convert.model import StreamState

Array = NDArray[Any]


def official_state(name: str, state: StreamState) -> Array:
    """The official model's state ``name``, as (B, T, H, W, C) or the frame count (1,) int32."""
    block, kind = _split_name(name)
    if kind == "stream_buffer":
        return state.buffers[block].movedim(1, -1).numpy()
    if kind == "pool_buffer":
        pool = state.head if block == "head" else state.pools[block]
        return pool[:, None, None, None, :].numpy()
    if (state.frame_count != state.frame_count[0]).any():
        raise StateError("The official model has one frame count for all videos of a batch.")
    return state.frame_count[:1].int().numpy()


def stream_state(states: Mapping[str, Array], batch: int) -> StreamState:
    """The official model's states of ``batch`` videos; the buffers are views of its arrays.

    It has a frame count per layer for the whole batch; StateError unless they agree.
    """
    buffers, pools, counts = {}, {}, set()
    for name, array in states.items():
        block, kind = _split_name(name)
        if kind == "stream_buffer":
            buffers[block] = torch.from_numpy(array).movedim(-1, 1)
        elif kind == "pool_buffer":
            pools[block] = torch.from_numpy(array)[:, 0, 0, 0, :]
        else:
            counts.add(int(array[0]))
    if len(counts) != 1:
        raise StateError(f"The official model returned frame counts that differ: {sorted(counts)}.")
    head = pools.pop("head")
    return StreamState(torch.full((batch,), counts.pop()), buffers, pools, head)


def _split_name(name: str) -> tuple[str, str]:
    """``state_block0_layer1_pool_frame_count`` -> (``block0_layer1``, ``pool_frame_count``)."""
    for kind in ("stream_buffer", "pool_buffer", "pool_frame_count", "pos_enc_frame_count"):
        if name.endswith(f"_{kind}"):
            return name.removeprefix("state_").removesuffix(f"_{kind}"), kind
    raise StateError(f"The official model has a state this tool does not know: {name}.")
