"""The positional encoding in the squeeze-excitation of A3, A4 and A5 stream models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from movinet_convert.checkpoint.tflite.graph import TOLERANCE, Graph
from movinet_convert.checkpoint.tflite.layers import find_pair, joins_channels
from movinet_convert.checkpoint.tflite.model import Tensor

_MAX_WIDTH = 1 << 14  # channels; an A5 has 1,792
_LONGEST_WAVELENGTH = 10_000.0


@dataclass(frozen=True)
class Encoding:
    """``input + scale * [sin, cos](angles * frame)``; the angles are constants, but no weights."""

    input: int
    scale: Tensor
    angles: Tensor


def find_encoding(graph: Graph, tensor: int) -> Encoding | None:
    """The positional encoding that is added in ``tensor``."""
    for input_, other in graph.either_way(tensor, "ADD"):
        scaled = graph.with_scalar(other, "MUL")
        angles = _find_angles(graph, scaled[0]) if scaled else None
        if scaled is not None and angles is not None:
            return Encoding(input_, scaled[1], angles)
    return None


def _find_angles(graph: Graph, tensor: int) -> Tensor | None:
    """The angles in sines of the even ones, then cosines of the odd ones, of a frame's number."""
    pair = find_pair(graph, tensor)
    if pair is None or not joins_channels(graph, pair):
        return None
    radians = set()
    for first, (part, kind) in enumerate(zip(pair.inputs, ("SIN", "COS"), strict=True)):
        inside = graph.unary(part, kind)
        sliced = graph.operator(inside, "STRIDED_SLICE") if inside is not None else None
        if sliced is None or len(sliced.inputs) != 4:
            return None
        begin, stride = (graph.integers(sliced.inputs[at])[-1:] for at in (1, 3))
        if begin != (first,) or stride != (2,):
            return None
        radians.add(graph.source(sliced.inputs[0]))
    found = graph.with_constant(radians.pop(), "MUL") if len(radians) == 1 else None
    if found is None or not _counts_frames(graph, found[0]):
        return None
    return found[1] if _are_angles(found[1], graph.elements(tensor)) else None


def _counts_frames(graph: Graph, tensor: int) -> bool:
    """Whether a number is the count of frames so far, an input, as a range of one number."""
    while (inside := graph.unary(tensor, "STRIDED_SLICE", "RANGE", "CAST")) is not None:
        tensor = inside
    return graph.is_state(tensor)


def _are_angles(constant: Tensor, width: int) -> bool:
    if not constant.readable or math.prod(constant.shape) != width or width > _MAX_WIDTH:
        return False
    wanted = 1.0 / _LONGEST_WAVELENGTH ** (2 * (np.arange(width) // 2) / width)
    return bool(np.allclose(constant.real().reshape(-1), wanted, rtol=0, atol=TOLERANCE))
