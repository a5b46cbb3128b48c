"""Moving statistics and classifier biases for random weights, measured on a few still images.

Every machine must compute the same bits, so this does not run ``model.Block``: the summation order
of PyTorch's kernels differs between processors, as do exponentials. It is the same network in
NumPy, with additions in a fixed order, the piecewise gates and activations in all variants, and
temporal convolutions as the sum of their taps, since the images are static. For statistics that is
accurate enough. Images are (N, H, W, C), in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from movinet_convert.variants import BATCH_NORM_EPSILON, BlockSpec, Variant

Array = NDArray[np.float64]
Variables = dict[str, NDArray[np.float32]]


def measure_statistics(
    variant: Variant, drawn: Mapping[str, NDArray[np.float32]], images: Array
) -> Variables:
    """Return ``drawn`` with absolute moving statistics and classifier biases.

    In ``drawn``, by canonical TF path, a moving mean is in standard deviations from the measured
    mean, a moving variance is a multiple of the measured variance, and a classifier bias is added
    to the one that centres its outputs.
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
    """The network on still images; measures the statistics layer by layer."""

    def __init__(self, variables: Variables) -> None:
        self.variables = variables

    def block(self, spec: BlockSpec, x: Array) -> Array:
        name = spec.name
        y = _hard_swish(self.conv_norm(f"{name}/_expansion", x))
        y = self._feature(f"{name}/_feature", y, spec.stride)
        y = y * self._gates(f"{name}/_attention", _spatial_mean(y))
        y = self.conv_norm(f"{name}/_projection", y)
        if spec.has_skip_projection:
            x = x if spec.stride == 1 else _average_pool(x, spec.stride)
            x = self.conv_norm(f"{name}/_skip/_projection", x)
        return x + y * self._value(f"{name}/_mobile_bottleneck/_rezero/scale")

    def conv_norm(self, layer: str, x: Array, stride: int = 1) -> Array:
        return self._norm(f"{layer}/_batch_norm", self._conv(f"{layer}/_conv", x, stride))

    def centred(self, layer: str, x: Array) -> Array:
        """A dense layer whose bias first removes the mean of its outputs."""
        y = self._conv(f"{layer}/_conv", x)
        return y + self._fill(self._path(f"{layer}/_conv", "bias"), lambda drawn: drawn - _mean(y))

    def _feature(self, layer: str, x: Array, stride: int) -> Array:
        kernel = self._value(self._path(f"{layer}/_conv", "kernel"))
        height, width = kernel.shape[-4:-2]
        taps = _sum(kernel.reshape(-1, height * width, x.shape[-1]))
        shifts = _shifts(x, height, width, stride)
        x = _sum(shifted * tap for shifted, tap in zip(shifts, taps, strict=True))
        x = _hard_swish(self._norm(f"{layer}/_batch_norm", x))
        if f"{layer}/_batch_norm_temporal/gamma" in self.variables:
            kernel = self._value(self._path(f"{layer}/_conv_temporal", "kernel"))
            x = x * _sum(kernel.reshape(-1, x.shape[-1]))
            x = _hard_swish(self._norm(f"{layer}/_batch_norm_temporal", x))
        return x

    def _gates(self, layer: str, means: Array) -> Array:
        squeeze, excite = f"{layer}/_se_reduce/_conv", f"{layer}/_se_expand/_conv"
        if self.variables[self._path(squeeze, "kernel")].shape[-2] == 2 * means.shape[-1]:
            means = np.concatenate((means, means), axis=-1)  # of the past and of the frame
        y = _hard_swish(self._conv(squeeze, means) + self._value(self._path(squeeze, "bias")))
        y = self._conv(excite, y) + self._value(self._path(excite, "bias"))
        return np.clip(0.2 * y + 0.5, 0.0, 1.0)

    def _norm(self, layer: str, x: Array) -> Array:
        mean = _mean(x)
        variance = _mean((x - mean) ** 2)
        # A channel that hardly varies on these images may vary much more on others.
        variance = np.maximum(variance, _mean(variance[:, None]))
        std = np.sqrt(variance)
        moving_mean = self._fill(f"{layer}/moving_mean", lambda drawn: mean + std * drawn)
        moving_variance = self._fill(f"{layer}/moving_variance", lambda drawn: variance * drawn)
        scale = self._value(f"{layer}/gamma") / np.sqrt(moving_variance + BATCH_NORM_EPSILON)
        return (x - moving_mean) * scale + self._value(f"{layer}/beta")

    def _conv(self, conv: str, x: Array, stride: int = 1) -> Array:
        """A dense convolution: taps and input channels are added sequentially."""
        kernel = self._value(self._path(conv, "kernel"))
        height, width = kernel.shape[-4:-2]
        shifts = _shifts(x, height, width, stride)
        matrices = kernel.reshape(-1, *kernel.shape[-2:])
        return _sum(
            shifted[..., i, None] * row
            for shifted, matrix in zip(shifts, matrices, strict=True)
            for i, row in enumerate(matrix)
        )

    def _path(self, conv: str, kind: str) -> str:
        """The path of a kernel or bias: 2D layers of (2+1)D networks are wrapped once more."""
        paths = (f"{conv}/{kind}", f"{conv}/_conv/{kind}", f"{conv}/_conv/depthwise_{kind}")
        return next(path for path in paths if path in self.variables)

    def _value(self, name: str) -> Array:
        return self.variables[name].astype(np.float64)

    def _fill(self, name: str, measure: Callable[[Array], Array]) -> Array:
        self.variables[name] = measure(self._value(name)).astype(np.float32)
        return self._value(name)


def _shifts(x: Array, height: int, width: int, stride: int) -> Iterator[Array]:
    """The inputs of each tap of a ``SAME`` convolution: height * width arrays (N, H', W', C)."""
    rows, columns = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    if height * width > 1:
        totals = (
            max((rows - 1) * stride + height - x.shape[1], 0),
            max((columns - 1) * stride + width - x.shape[2], 0),
        )
        x = np.pad(x, [(0, 0), *((total // 2, total - total // 2) for total in totals), (0, 0)])
    for top in range(height):
        for left in range(width):
            yield x[:, top : top + stride * rows : stride, left : left + stride * columns : stride]


def _average_pool(x: Array, stride: int) -> Array:
    """3 x 3 means that exclude padding."""
    return _sum(_shifts(x, 3, 3, stride)) / _sum(_shifts(np.ones_like(x), 3, 3, stride))


def _sum(arrays: Iterable[Array]) -> Array:
    """Sequential sum; the order of ``np.sum`` is not specified."""
    total: Array = reduce(np.add, arrays)
    return total


def _mean(x: Array) -> Array:
    """Over all axes but the last, row by row."""
    rows = x.reshape(-1, x.shape[-1])
    return _sum(rows) / rows.shape[0]


def _spatial_mean(x: Array) -> Array:
    """(N, H, W, C) -> (N, 1, 1, C)."""
    return np.stack([_mean(image) for image in x])[:, None, None]


def _hard_swish(x: Array) -> Array:
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0
