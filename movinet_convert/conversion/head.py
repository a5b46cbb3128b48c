"""A classifier for a backbone that was saved without one."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint.mapping import Link

CLASSIFIER = "classifier_head/"
OUTPUT_DEVIATION = 0.01  # of the last layer, as in the official ClassifierHead


def fresh_head(pairs: tuple[Link, ...]) -> dict[str, NDArray[np.float32]]:
    """Variables of an untrained classifier by canonical path: small random kernels, zero biases.

    Drawn from the names, so that the same backbone is converted to the same bytes every time.
    """
    return {
        link.tf: _draw(link.tf, link.tf_shape) for link in pairs if link.tf.startswith(CLASSIFIER)
    }


def _draw(path: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if path.endswith("/bias"):
        return np.zeros(shape, np.float32)
    hidden = "/_head/" in path
    deviation = math.sqrt(2.0 / math.prod(shape[:-1])) if hidden else OUTPUT_DEVIATION
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(path.encode()).digest(), "big"))
    # A uniform of this width has the deviation wanted and, unlike a normal, needs no logarithm,
    # which machines round differently.
    unit = bits.random_raw(math.prod(shape)).astype(np.float64) / 2.0**64
    values = (2.0 * unit - 1.0) * (math.sqrt(3.0) * deviation)
    return values.reshape(shape).astype(np.float32)
