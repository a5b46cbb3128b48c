"""The layout of the first PyTorch port (Atze00/MoViNet-pytorch), weights version 3.

``blocks.b0_l0.expand.conv_1.conv3d.weight`` in base models, ``…conv2d.weight`` in stream models,
where ``deep.conv_2`` is the temporal convolution.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from movinet_convert.checkpoint.canonical import (
    CanonicalNames,
    arch_of_containers,
    unknown_variable,
    variable_path,
)
from movinet_convert.checkpoint.tensor_source import (
    Array,
    Change,
    TensorSource,
    Weight,
    unchanged,
)

_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LAYERS = {
    "conv1": "stem/_stem",
    "conv7": "head/_project",
    "classifier.0": "classifier_head/_head",
    "classifier.3": "classifier_head/_classifier",
}
_BLOCK_LAYERS = {
    "expand": "_expansion",
    "deep": "_feature",
    "project": "_projection",
    "se.fc1": "_attention/_se_reduce",
    "se.fc2": "_attention/_se_expand",
    "res.0": "_skip/_projection",  # without stride, no pooling comes first
    "res.1": "_skip/_projection",
}
_BLOCK = re.compile(r"blocks\.b(?P<i>\d{1,2})_l(?P<j>\d{1,2})\.(?P<rest>.+)")
_CONV = re.compile(
    r"(?P<layer>.+)\.conv_(?P<n>[12])\.(?P<kind>conv2d|conv3d|norm)"
    r"\.(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"
)


def names_of_pytorch_port(source: TensorSource) -> CanonicalNames | None:
    """The names of the port's state dict; None if it lacks the port's stem."""
    if not any(name.startswith("conv1.conv_1.") for name in source.names):
        return None
    counters = {name for name in source.names if name.endswith(".num_batches_tracked")}
    pairs: list[tuple[str, Weight]] = []
    for name in source.names:
        if name not in counters:
            found = _canonical(name)
            if found is None:
                raise unknown_variable(name, source.where)
            pairs.append((found[0], Weight(name, found[1])))
    arch = arch_of_containers({name.partition("/")[0] for name, _ in pairs}, source.where)
    ignored = dict.fromkeys(sorted(counters), "number of batches seen in training")
    return CanonicalNames.collect("pytorch-port", arch, pairs, ignored, source)


def _canonical(name: str) -> tuple[str, Change] | None:
    block = _BLOCK.fullmatch(name)
    container = f"block{block['i']}_layer{block['j']}/" if block else ""
    if block and block["rest"] == "alpha":
        return f"{container}_mobile_bottleneck/_rezero/scale", unchanged
    match = _CONV.fullmatch(block["rest"] if block else name)
    layer = (_BLOCK_LAYERS if block else _LAYERS).get(match["layer"]) if match else None
    if match is None or layer is None:
        return None
    nested, leaf = match["kind"] == "conv2d", match["leaf"]
    change: Change = unchanged
    if match["kind"] == "norm":
        leaf = _NORM[leaf]
    elif leaf == "weight":
        depthwise = nested and layer == "_feature"
        leaf = "depthwise_kernel" if depthwise else "kernel"
        change = _KERNEL[nested, depthwise]
    elif leaf != "bias":
        return None
    temporal = match["n"] == "2"
    return variable_path(container + layer, leaf, temporal=temporal, nested=nested), change


def _permute(array: Array, axes: tuple[int, ...]) -> Array:
    """``np.transpose``, except that arrays of another rank are left for the mapping to refuse."""
    return np.transpose(array, axes) if array.ndim == len(axes) else array


# (2D, depthwise) -> permutation from (out, in, …) to TensorFlow's axis order
_KERNEL: dict[tuple[bool, bool], Change] = {
    (False, False): partial(_permute, axes=(2, 3, 4, 1, 0)),
    (True, False): partial(_permute, axes=(2, 3, 1, 0)),
    (True, True): partial(_permute, axes=(2, 3, 0, 1)),
}
