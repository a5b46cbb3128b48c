"""``3d_2plus1d`` checkpoints: (2+1)D networks whose kernels are stored in 3D shapes.

Training on TPUs ran so; the releases hold the same numbers in 2D shapes. What tells them apart
from 3D networks is the temporal convolution, and from ``2plus1d`` that it wraps no 2D layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from movinet_convert.checkpoint.names import Array, Change, Names, TensorSource, Weight
from movinet_convert.errors import CheckpointError

_CONV = re.compile(r"(?P<layer>.*/_conv(?P<temporal>_temporal)?)/(?P<leaf>kernel|bias)")
_FEATURE = "/_feature/"


def stored_in_3d(names: Iterable[str]) -> bool:
    return any(name.endswith("/_conv_temporal/kernel") for name in names)


def to_2plus1d(names: Names, source: TensorSource) -> Names:
    """The same weights under the names and in the shapes of ``2plus1d``; others as they are."""
    if not stored_in_3d(names.weights):
        return names
    renamed = dict(_unfold(name, weight, source) for name, weight in names.weights.items())
    return replace(names, weights=renamed)


def _unfold(name: str, weight: Weight, source: TensorSource) -> tuple[str, Weight]:
    match = _CONV.fullmatch(name)
    if match is None or match["layer"].endswith("/_conv/_conv"):
        return name, weight
    if match["leaf"] == "bias":
        return f"{match['layer']}/_conv/bias", weight
    shape = weight.shape(source)
    axis = 1 if match["temporal"] else 0
    if len(shape) != 5 or shape[axis] != 1:
        raise CheckpointError(
            f"{source.where}: variable {name!r} has shape {shape}; a kernel of 5 axes was "
            f"expected, with 1 in axis {axis}, as in every 3d_2plus1d checkpoint."
        )
    depthwise = _FEATURE in name
    leaf = "depthwise_kernel" if depthwise else "kernel"
    change = _then(weight.change, _flatten(axis, depthwise))
    return f"{match['layer']}/_conv/{leaf}", Weight(weight.stored, change)


def _flatten(axis: int, depthwise: bool) -> Change:
    """Drop ``axis``; a depthwise kernel also swaps (1, channels) for (channels, 1)."""

    def change(array: Array) -> Array:
        flat = np.squeeze(array, axis)
        return flat.swapaxes(2, 3) if depthwise else flat

    return change


def _then(first: Change, second: Change) -> Change:
    return lambda array: second(first(array))
