"""Differences after each layer: how rounding grows, and where two networks first differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.parity.models import Models, activations
from movinet_convert.parity.result import LOGITS, CaseResult, Distances
from movinet_convert.parity.scales import robust_std

CLASSIFIER = "classifier_head"
# TensorFlow's rounding is up to a few times PyTorch's; a mistake is orders of magnitude larger.
MAX_ROUNDINGS = 20.0
FLOOR = 1e-6


def layer_distances(models: Models, clip: NDArray[np.float32]) -> dict[str, Distances]:
    """Differences after stem, blocks and head on one clip (B, 3, T, H, W).

    Each is relative to the standard deviation of the layer's reference activations.
    """
    pt_fp32, pt_fp64 = activations(models.pt_fp32, clip), activations(models.pt_fp64, clip)
    distances = {}
    for name, tf_fp32 in models.tf_fp32.endpoints(clip).items():
        pairs = (
            (tf_fp32, pt_fp32[name]),
            (tf_fp32, pt_fp64[name]),
            (pt_fp32[name], pt_fp64[name]),
        )
        std = robust_std(tf_fp32) or 1.0
        distances[name] = Distances(*(_largest_difference(a, b) / std for a, b in pairs))
    return distances


def first_different_layer(
    models: Models, clip: NDArray[np.float32], failed: CaseResult, tolerance: float
) -> str:
    """Name the first of stem, blocks, head and classifier that differs by more than rounding.

    If only streaming is wrong, all layers of the whole clip are equal; the first state tensor that
    differs then indicates the block.
    """
    for name, distances in layer_distances(models, clip).items():
        # Written so that NaN is a difference.
        if not distances.tf_fp32_pt_fp32 <= MAX_ROUNDINGS * distances.pt_fp32_pt_fp64 + FLOOR:
            return name
    states = [name for name in failed.beyond(tolerance) if name != LOGITS]
    return states[0].split(".")[0] if states else CLASSIFIER


def _largest_difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
