"""What a difference is relative to: a spread that no single value decides."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    Array = NDArray[np.float64]

# The share of values that decide. Logits may be few, and any minority of them far away; the values
# of a state are many and heavy-tailed, and float32 rounds all of them like those in the tails.
HALF, MOST = 0.5, 0.9
# An element this many spreads from zero is relative to its own size: its rounding grows with it.
FAR = 4.0
# A state that spreads less than the logits is judged by the logits' spread, up to this multiple of
# its own: what the logits owe to a sum of many small activations rounds like the logits.
NARROW = 32.0
# A class counts where what the network computes is so many roundings of its logit in float32.
TOLD = 1024.0


def spread(values: NDArray[Any], share: float = HALF) -> float:
    """A standard deviation that the furthest values do not move.

    The distance from the median that ``share`` of the values keep to, over what it is of a unit
    normal: for a half, 1.4826 times the median absolute deviation. Of the distinct values, so that
    the zeros of ``hard_swish``, of pruned channels and of buffers not yet filled do not count as
    agreement. Where all are equal, the size of that one value.
    """
    distinct = np.unique(values.astype(np.float64))
    if distinct.size < 2:
        return float(np.abs(distinct).max(initial=0.0))
    distance = np.quantile(np.abs(distinct - np.median(distinct)), share)
    return float(distance) / NormalDist().inv_cdf((1.0 + share) / 2.0)


def logit_spread(logits: NDArray[np.float32], bias: NDArray[np.float32]) -> float | None:
    """The spread of logits (N, classes) without the classifier's bias (classes,).

    A bias is no work of the network, and one that masks classes may be a million times what the
    network computes. None where the biases hide all of it, or all weights are zero.
    """
    with np.errstate(invalid="ignore"):  # infinite logits are told of elsewhere
        computed = logits.astype(np.float64) - bias
    rounding = np.finfo(np.float32).eps * np.abs(logits.astype(np.float64))
    told = np.median(np.abs(computed), axis=0) > TOLD * np.median(rounding, axis=0)
    return spread(computed[:, told]) if told.any() else None


def state_spread(state: NDArray[Any], logits: float | None) -> float:
    """What differences of a state tensor are relative to; ``logits`` is the logits' spread."""
    if np.issubdtype(state.dtype, np.integer):
        return 1.0
    own = spread(state, MOST)
    if logits is None:
        return own or 1.0
    return max(own, min(logits, NARROW * own)) if own else logits


def element_scales(reference: NDArray[Any], spread: float) -> Array:
    """What each element's difference is relative to, of the shape of ``reference``."""
    if np.issubdtype(reference.dtype, np.integer):
        return np.full(reference.shape, spread)
    scales: Array = np.maximum(np.abs(reference.astype(np.float64)) / FAR, spread)
    return scales
