"""Moving statistics and classifier biases for drawn weights, measured on a few still images.

This is the network once more, on images that stand still (a temporal convolution then adds up its
taps), in NumPy and in plain arithmetic of a fixed order, so that every machine measures the same
bits. Gates and activations are the piecewise ones in all variants, since exponentials differ
between machines; for statistics that is near enough. Images are (N, H, W, C), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from movinet_convert.variants import BATCH_NORM_EPSILON, BlockSpec, Variant

Array = NDArray[np.float64]
Variables = dict[str, NDArray[np.float32]]


def calibrate(
    variant: Variant, drawn: Mapping[str, NDArray[np.float32]], images: Array
) -> Variables:
    """Return ``drawn`` with moving statistics and the classifier's biases made absolute.

    In ``drawn``, by canonical TF path, a moving mean counts deviations from the measured mean, a
    moving variance multiplies the measured variance, and a classifier bias is added to the one
    that centres its outputs.
    """
    network = _Network(dict(drawn))
    x = _hard_swish(network.conv_norm("stem/_stem", images, stride=2))
    for block in variant.spec.blocks:
        x = network.block(block, x)
    x = _spatial_mean(_hard_swish(network.conv_norm("head/_project", x)))
    x = _hard_swish(network.centred("classifier_head/_head", x))
    network.centred("classifier_head/_classifier", x)
    return network.variables


class _Network:
    """The network on still images; fills in its own statistics as they pass."""

    def __init__(self, variables: Variables) -> None:
        self.variables = variables

    def block(self, spec: BlockSpec, x: Array) -> Array:
        name = spec.name
        y = _hard_swish(self.conv_norm(f"{name}/_expansion", x))
        y = self._feature(f"{name}/_feature", y, spec.stride)
        y = y * self._gates(f"{name}/_attention", _spatial_mean(y))
        y = self.conv_norm(f"{name}/_projection", y)
        if spec.has_skip_projection:
            x = self.conv_norm(f"{name}/_skip/_projection", _average_pool(x, spec.stride))
        return x + y * self._values(f"{name}/_mobile_bottleneck/_rezero/scale")

    def conv_norm(self, layer: str, x: Array, stride: int = 1) -> Array:
        return self._norm(f"{layer}/_batch_norm", self._conv(f"{layer}/_conv", x, stride))

    def centred(self, layer: str, x: Array) -> Array:
        """A layer whose bias first takes away the mean of its outputs."""
        y = self._conv(f"{layer}/_conv", x)
        return y + self._fill(self._bias(f"{layer}/_conv"), lambda drawn: drawn - _mean(y))

    def _feature(self, layer: str, x: Array, stride: int) -> Array:
        x = self._depthwise(f"{layer}/_conv", x, stride)
        x = _hard_swish(self._norm(f"{layer}/_batch_norm", x))
        if f"{layer}/_batch_norm_temporal/gamma" in self.variables:
            kernel = self._values(self._kernel(f"{layer}/_conv_temporal"))
            x = x * reduce(np.add, kernel.reshape(-1, x.shape[-1]))
            x = _hard_swish(self._norm(f"{layer}/_batch_norm_temporal", x))
        return x

    def _gates(self, layer: str, means: Array) -> Array:
        reduce_inputs = self.variables[self._kernel(f"{layer}/_se_reduce/_conv")].shape[-2]
        if reduce_inputs == 2 * means.shape[-1]:  # the mean of the past beside the frame's own
            means = np.concatenate((means, means), axis=-1)
        y = self._conv(f"{layer}/_se_reduce/_conv", means)
        y = _hard_swish(y + self._values(self._bias(f"{layer}/_se_reduce/_conv")))
        y = self._conv(f"{layer}/_se_expand/_conv", y)
        y = y + self._values(self._bias(f"{layer}/_se_expand/_conv"))
        return np.clip(0.2 * y + 0.5, 0.0, 1.0)

    def _norm(self, layer: str, x: Array) -> Array:
        mean = _mean(x)
        variance = _mean((x - mean) ** 2)
        # A channel that hardly moves on these images may move a lot on others.
        variance = np.maximum(variance, _mean(variance[:, None]))
        deviation = np.sqrt(variance)
        moved_mean = self._fill(f"{layer}/moving_mean", lambda drawn: mean + deviation * drawn)
        moved_variance = self._fill(f"{layer}/moving_variance", lambda drawn: variance * drawn)
        scale = self._values(f"{layer}/gamma") / np.sqrt(moved_variance + BATCH_NORM_EPSILON)
        return (x - moved_mean) * scale + self._values(f"{layer}/beta")

    def _conv(self, conv: str, x: Array, stride: int = 1) -> Array:
        """A dense convolution: taps and input channels added one after the other."""
        kernel = self._values(self._kernel(conv))
        height, width = kernel.shape[-4:-2]
        matrices = kernel.reshape(-1, *kernel.shape[-2:])
        return reduce(
            np.add,
            (
                shifted[..., i, None] * row
                for shifted, matrix in zip(_shifts(x, height, width, stride), matrices, strict=True)
                for i, row in enumerate(matrix)
            ),
        )

    def _depthwise(self, conv: str, x: Array, stride: int) -> Array:
        kernel = self._values(self._kernel(conv))
        height, width = kernel.shape[-4:-2]
        stills = reduce(np.add, kernel.reshape(-1, height * width, x.shape[-1]))
        return reduce(
            np.add,
            (
                shifted * tap
                for shifted, tap in zip(_shifts(x, height, width, stride), stills, strict=True)
            ),
        )

    def _kernel(self, conv: str) -> str:
        """The kernel's path: 2D layers of (2+1)D networks are wrapped once more."""
        paths = (f"{conv}/kernel", f"{conv}/_conv/kernel", f"{conv}/_conv/depthwise_kernel")
        return next(path for path in paths if path in self.variables)

    def _bias(self, conv: str) -> str:
        return self._kernel(conv).rsplit("/", 1)[0] + "/bias"

    def _values(self, name: str) -> Array:
        return self.variables[name].astype(np.float64)

    def _fill(self, name: str, measure: Callable[[Array], Array]) -> Array:
        self.variables[name] = measure(self._values(name)).astype(np.float32)
        return self._values(name)


def _shifts(x: Array, height: int, width: int, stride: int) -> Iterator[Array]:
    """What each tap of a ``SAME`` convolution sees: height * width arrays (N, H', W', C)."""
    padding = [(0, 0), _same(x.shape[1], height, stride), _same(x.shape[2], width, stride), (0, 0)]
    rows, columns = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = np.pad(x, padding) if height * width > 1 else x
    for top in range(height):
        for left in range(width):
            bottom, right = top + stride * rows, left + stride * columns
            yield padded[:, top:bottom:stride, left:right:stride]


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _average_pool(x: Array, stride: int) -> Array:
    """3 x 3 means that leave the padding out, where the block strides."""
    if stride == 1:
        return x
    total: Array = reduce(np.add, _shifts(x, 3, 3, stride))
    count: Array = reduce(np.add, _shifts(np.ones_like(x), 3, 3, stride))
    return total / count


def _mean(x: Array) -> Array:
    """Over all axes but the last, row by row."""
    rows = x.reshape(-1, x.shape[-1])
    total: Array = reduce(np.add, rows)
    return total / rows.shape[0]


def _spatial_mean(x: Array) -> Array:
    """(N, H, W, C) -> (N, 1, 1, C)."""
    return np.stack([_mean(image) for image in x])[:, None, None]


def _hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0
