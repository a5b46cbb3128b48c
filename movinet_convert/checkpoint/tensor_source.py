"""What a layout makes of the stored variables: weights under canonical names, and the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from movinet_convert.errors import CheckpointError

Array = npt.NDArray[Any]
Change = Callable[[Array], Array]

MAX_RANK = 8
_MAX_ELEMENTS = 1 << 48


class TensorSource(Protocol):
    """A checkpoint file as stored: arrays by stored name, checked when they are read."""

    @property
    def where(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored array."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape as stored, without reading the data."""

    def read(self, name: str) -> Array:
        """The array, freshly read; CheckpointError if it is damaged."""


def plausible(shape: tuple[int, ...]) -> bool:
    """Whether arrays of this shape exist at all: numpy cannot even name larger ones."""
    if len(shape) > MAX_RANK or any(n < 0 for n in shape):
        return False
    return math.prod(max(n, 1) for n in shape) < _MAX_ELEMENTS


def unchanged(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Weight:
    """A stored array and the change of axes that gives it the canonical TF shape."""

    stored: str
    change: Change = unchanged

    def shape(self, source: TensorSource) -> tuple[int, ...]:
        """The canonical shape; nothing is read or allocated for it."""
        return self.change(np.broadcast_to(np.int8(0), source.shape(self.stored))).shape

    def read(self, source: TensorSource) -> Array:
        return np.asarray(self.change(source.read(self.stored)), order="C")


@dataclass(frozen=True)
class Names:
    """Every stored variable, either as a weight or as ignored with the reason."""

    layout: str
    arch: str
    weights: dict[str, Weight]  # by canonical name
    ignored: dict[str, str]  # stored name -> reason


def collect(
    pairs: list[tuple[str, Weight]], ignored: dict[str, str], source: TensorSource
) -> tuple[dict[str, Weight], dict[str, str]]:
    """``(weights, ignored)`` of the canonical name of each weight, and of what else is stored.

    A weight that is stored twice is ignored the second time if it is the same to the bit;
    otherwise nothing tells which one is right, and CheckpointError names both.
    """
    weights: dict[str, Weight] = {}
    copies: dict[str, str] = {}
    for name, weight in pairs:
        first = weights.setdefault(name, weight)
        if first is weight:
            continue
        if not _same_bits(first, weight, source):
            raise CheckpointError(
                f"{source.where}: {first.stored!r} and {weight.stored!r} are both {name!r}, and "
                "differ; expected each weight of the network once."
            )
        copies[weight.stored] = f"copy of {first.stored}"
    return weights, {**ignored, **copies}


def _same_bits(first: Weight, second: Weight, source: TensorSource) -> bool:
    if first.shape(source) != second.shape(source):  # nothing is read for it
        return False
    a, b = first.read(source), second.read(source)
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()
