"""Tensors as stored, in any file format, and their conversion to the canonical axis order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]

MAX_RANK = 8
_MAX_ELEMENTS = 1 << 48


class TensorSource(Protocol):
    """A checkpoint file as stored: arrays by stored name, verified when they are read."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every stored array."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape as stored, without reading the data."""

    def read(self, name: str) -> Array:
        """Read the array from the file; CheckpointError if it is damaged."""


def plausible(shape: tuple[int, ...]) -> bool:
    """Whether NumPy supports arrays of this shape."""
    if len(shape) > MAX_RANK or any(n < 0 for n in shape):
        return False
    return math.prod(max(n, 1) for n in shape) < _MAX_ELEMENTS


def unchanged(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Weight:
    """A stored array and the axis permutation that gives it the canonical TF shape."""

    stored: str
    change: Change = unchanged

    def shape(self, source: TensorSource) -> tuple[int, ...]:
        """The canonical shape, without reading or allocating anything."""
        return self.change(np.broadcast_to(np.int8(0), source.shape(self.stored))).shape

    def read(self, source: TensorSource) -> Array:
        return np.asarray(self.change(source.read(self.stored)), order="C")

    def equals(self, other: Weight, source: TensorSource) -> bool:
        """Whether both are bitwise equal; if the shapes differ, nothing is read."""
        if self.shape(source) != other.shape(source):
            return False
        a, b = self.read(source), other.read(source)
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
