"""The scale of a difference: a standard deviation that is robust to outliers."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The share of values that count. Logits may be few, any minority of them outliers; the values
# of a state are many and heavy-tailed, and float32 rounds all of them like those in the tails.
LOGITS_SHARE, STATE_SHARE = 0.5, 0.9
# An element this many standard deviations from zero is relative to its own size: its rounding grows
# with it.
OUTLIER = 4.0
# A state that varies less than the logits is relative to the logits' standard deviation, up to this
# multiple of its own: what logits owe to a sum of many small activations rounds like the logits.
MAX_STATE_RATIO = 32.0
# A class counts where what the network computes is so many roundings of its logit in float32.
MIN_ROUNDINGS = 1024.0


def robust_std(values: Array, share: float = LOGITS_SHARE) -> float:
    """A standard deviation that outliers do not affect.

    The distance from the median within which ``share`` of the values are, divided by what it is for
    a unit normal; for a half, 1.4826 times the median absolute deviation. Of the distinct values,
    so that the zeros of ``hard_swish``, of pruned channels and of empty buffers do not count as
    agreement. Where all are equal, the size of that one value.
    """
    distinct = np.unique(values.astype(np.float64))
    if distinct.size < 2:
        return float(np.abs(distinct).max(initial=0.0))
    distance = np.quantile(np.abs(distinct - np.median(distinct)), share)
    return float(distance) / NormalDist().inv_cdf((1.0 + share) / 2.0)


def logits_std(logits: Array, bias: Array) -> float | None:
    """The standard deviation of logits (N, classes) without the classifier's bias (classes,).

    The network does not compute its bias, and one that masks classes may be a million times what it
    computes. None where the biases hide all of it, or all weights are zero.
    """
    with np.errstate(invalid="ignore"):  # infinite logits are reported elsewhere
        computed = logits.astype(np.float64) - bias
    rounding = np.finfo(np.float32).eps * np.abs(logits.astype(np.float64))
    visible = np.median(np.abs(computed), axis=0) > MIN_ROUNDINGS * np.median(rounding, axis=0)
    return robust_std(computed[:, visible]) if visible.any() else None


def state_std(state: Array, logits_std: float | None) -> float:
    """The standard deviation to which differences of a state tensor are relative."""
    if np.issubdtype(state.dtype, np.integer):
        return 1.0
    own = robust_std(state, STATE_SHARE)
    if logits_std is None:
        return own or 1.0
    return max(own, min(logits_std, MAX_STATE_RATIO * own)) if own else logits_std


def element_scales(reference: Array, std: float) -> Array:
    """The scale of each element's difference, of the shape of ``reference``."""
    if np.issubdtype(reference.dtype, np.integer):
        return np.full(reference.shape, std)
    scales: Array = np.maximum(np.abs(reference.astype(np.float64)) / OUTLIER, std)
    return scales
