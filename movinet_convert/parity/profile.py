"""How rounding grows through a network, and logits side by side: what a report draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from movinet_convert.model import MoViNet
from movinet_convert.parity.cases import DEFAULT_FRAMES, DEFAULT_SIZE
from movinet_convert.parity.clips import random_clips
from movinet_convert.parity.compare import Trio
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.result import Distances
from movinet_convert.parity.spread import spread
from movinet_convert.parity.trace import activations


@dataclass(frozen=True)
class Profile:
    """One clip through the official model and ours.

    ``layers`` gives the distances after stem, blocks and head, each relative to the spread
    of that layer's reference activations. ``tf_fp32_logits`` and ``pt_fp32_logits`` are
    (classes,) of the same clip.
    """

    layers: dict[str, Distances]
    tf_fp32_logits: NDArray[np.float32]
    pt_fp32_logits: NDArray[np.float32]


def profile_model(model: MoViNet, reference: Reference, options: ParityOptions) -> Profile:
    """Run one seeded clip; ``reference`` holds the weights that ``model`` is compared with."""
    trio = Trio.of(model, reference)
    frames, size = options.frames or DEFAULT_FRAMES, options.size or DEFAULT_SIZE
    clip = random_clips(1, frames, *size, seed=options.seed)
    pt_fp32, pt_fp64 = activations(trio.pt_fp32, clip), activations(trio.pt_fp64, clip)
    layers = {
        name: _distances(theirs, pt_fp32[name], pt_fp64[name])
        for name, theirs in reference.endpoints(clip).items()
    }
    return Profile(layers, reference.logits(clip)[0], trio.pt_fp32_logits(clip)[0])


def _distances(
    tf_fp32: NDArray[np.float32], pt_fp32: NDArray[np.float32], pt_fp64: NDArray[np.float64]
) -> Distances:
    scale = spread(tf_fp32) or 1.0
    return Distances(
        _furthest(tf_fp32, pt_fp32) / scale,
        _furthest(tf_fp32, pt_fp64) / scale,
        _furthest(pt_fp32, pt_fp64) / scale,
    )


def _furthest(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())
