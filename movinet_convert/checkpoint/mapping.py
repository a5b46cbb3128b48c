"""TensorFlow variable <-> PyTorch tensor: one table, used in both directions.

Keys are canonical variable paths of the official model, values names in ``MoViNet.state_dict()``.
The table converts checkpoints to state dicts, and state dicts to checkpoints.

    {block}     each block, from ``block0_layer0`` on
    {conv}      ``_conv`` in 3D models; ``_conv/_conv`` in (2+1)D ones, which wrap a 2D layer
    {depthwise} ``kernel`` or, for a 2D depthwise layer, ``depthwise_kernel``
    {norm}      the four tensors of a batch normalisation
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from movinet_convert.errors import CheckpointError
from movinet_convert.variants import Variant

VECTOR, KERNEL, DEPTHWISE = "vector", "kernel", "depthwise"

TABLE: dict[str, tuple[str, str]] = {
    "stem/_stem/{conv}/kernel": ("stem.conv.weight", KERNEL),
    "stem/_stem/_batch_norm/{norm}": ("stem.norm.{norm}", VECTOR),
    "{block}/_expansion/{conv}/kernel": ("blocks.{block}.expansion.conv.weight", KERNEL),
    "{block}/_expansion/_batch_norm/{norm}": ("blocks.{block}.expansion.norm.{norm}", VECTOR),
    "{block}/_feature/{conv}/{depthwise}": ("blocks.{block}.feature.conv.weight", DEPTHWISE),
    "{block}/_feature/_batch_norm/{norm}": ("blocks.{block}.feature.norm.{norm}", VECTOR),
    "{block}/_feature/_conv_temporal/_conv/{depthwise}": (
        "blocks.{block}.feature.temporal_conv.weight",
        DEPTHWISE,
    ),
    "{block}/_feature/_batch_norm_temporal/{norm}": (
        "blocks.{block}.feature.temporal_norm.{norm}",
        VECTOR,
    ),
    "{block}/_attention/_se_reduce/{conv}/kernel": (
        "blocks.{block}.attention.reduce.weight",
        KERNEL,
    ),
    "{block}/_attention/_se_reduce/{conv}/bias": ("blocks.{block}.attention.reduce.bias", VECTOR),
    "{block}/_attention/_se_expand/{conv}/kernel": (
        "blocks.{block}.attention.expand.weight",
        KERNEL,
    ),
    "{block}/_attention/_se_expand/{conv}/bias": ("blocks.{block}.attention.expand.bias", VECTOR),
    "{block}/_attention/_pos_encoding/_rezero/scale": (
        "blocks.{block}.attention.encoding_scale",
        VECTOR,
    ),
    "{block}/_projection/{conv}/kernel": ("blocks.{block}.projection.conv.weight", KERNEL),
    "{block}/_projection/_batch_norm/{norm}": ("blocks.{block}.projection.norm.{norm}", VECTOR),
    "{block}/_mobile_bottleneck/_rezero/scale": ("blocks.{block}.scale", VECTOR),
    "{block}/_skip/_projection/{conv}/kernel": ("blocks.{block}.skip.conv.weight", KERNEL),
    "{block}/_skip/_projection/_batch_norm/{norm}": ("blocks.{block}.skip.norm.{norm}", VECTOR),
    "head/_project/{conv}/kernel": ("head.conv.weight", KERNEL),
    "head/_project/_batch_norm/{norm}": ("head.norm.{norm}", VECTOR),
    "classifier_head/_head/{conv}/kernel": ("classifier.hidden.weight", KERNEL),
    "classifier_head/_head/{conv}/bias": ("classifier.hidden.bias", VECTOR),
    "classifier_head/_classifier/{conv}/kernel": ("classifier.output.weight", KERNEL),
    "classifier_head/_classifier/{conv}/bias": ("classifier.output.bias", VECTOR),
}

NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

SPELLING = {
    "3d": {"{conv}": "_conv", "{depthwise}": "kernel"},
    "2plus1d": {"{conv}": "_conv/_conv", "{depthwise}": "depthwise_kernel"},
}

# For each TensorFlow axis the PyTorch axis, after adding the unit axes that PyTorch omits: a linear
# layer has no height and width, a 2D kernel no time axis.
AXES: dict[tuple[str, str], tuple[int, ...]] = {
    ("3d", KERNEL): (2, 3, 4, 1, 0),  # (out, in, t, h, w) -> (t, h, w, in, out)
    ("3d", DEPTHWISE): (2, 3, 4, 1, 0),  # (channels, 1, t, h, w) -> (t, h, w, 1, channels)
    ("2plus1d", KERNEL): (2, 3, 1, 0),  # (out, in, h, w) -> (h, w, in, out)
    ("2plus1d", DEPTHWISE): (2, 3, 0, 1),  # (channels, 1, h, w) -> (h, w, channels, 1)
}


@dataclass(frozen=True)
class Link:
    """A TensorFlow variable and the PyTorch tensor with the same values."""

    tf: str
    torch: str
    tf_shape: tuple[int, ...]
    torch_shape: tuple[int, ...]
    axes: (
        tuple[int, ...] | None
    )  # of the padded torch shape, in TensorFlow's order; None: unchanged

    def to_torch(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if self.axes is not None:
            array = array.transpose(np.argsort(self.axes))
        return np.ascontiguousarray(array).reshape(self.torch_shape)

    def to_tf(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        if self.axes is not None:
            array = array.reshape(_padded(self.torch_shape, len(self.axes))).transpose(self.axes)
        return np.ascontiguousarray(array).reshape(self.tf_shape)


def links(
    variant: Variant, conv_type: str, torch_shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Link, ...]:
    """Pair every tensor of a network, ``{state dict name: shape}``, with its variable.

    Rows whose tensor the network lacks (such as a skip without projection) are skipped; a tensor
    with no row or with two is a bug in the table and raises KeyError.
    """
    found = [
        _link(tf, torch, kind, conv_type, torch_shapes[torch])
        for tf, torch, kind in _rows(variant, conv_type)
        if torch in torch_shapes
    ]
    counts = Counter(link.torch for link in found)
    unpaired = [name for name in torch_shapes if counts[name] != 1]
    if unpaired:
        raise KeyError(f"the table has no single row for {', '.join(unpaired)}")
    return tuple(found)


def map_variables(
    variables: Mapping[str, NDArray[np.generic]], pairs: tuple[Link, ...], network: str
) -> dict[str, NDArray[np.float32]]:
    """Convert variables to tensors, after checking that they are exactly those of the network.

    Half precision is widened exactly, float64 rounded to the nearest float32. ``network`` names
    the network in errors. Raises CheckpointError for a variable that is missing, unknown, not
    floating point, of another shape, NaN, infinite or too large for float32.
    """
    _check_names(variables, pairs, network)
    tensors: dict[str, NDArray[np.float32]] = {}
    for link in pairs:
        array = variables[link.tf]
        if array.shape != link.tf_shape:
            raise CheckpointError(
                f"Variable {link.tf} has shape {array.shape}, but {network} has "
                f"{link.tf_shape}; this is a checkpoint of another network."
            )
        tensors[link.torch] = _to_float32(link.to_torch(array), link.tf)
    return tensors


def _to_float32(array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    if array.dtype.kind != "f":
        raise CheckpointError(
            f"Variable {name} is stored as {array.dtype}, but MoViNet weights are floating point; "
            "the checkpoint is quantized or from another program: use the original checkpoint."
        )
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"Variable {name} has values that are not finite (NaN or infinity); "
            "the training run diverged or the file is damaged: use an earlier checkpoint."
        )
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32, copy=False)
    if not np.isfinite(converted).all():
        raise CheckpointError(
            f"Variable {name} has the value {np.abs(array).max():.3g} in {array.dtype}, but the "
            "largest float32 is 3.4e38; the training run diverged or the file is damaged."
        )
    return converted


def _check_names(
    variables: Mapping[str, NDArray[np.generic]], pairs: tuple[Link, ...], network: str
) -> None:
    expected = {link.tf for link in pairs}
    missing = [link.tf for link in pairs if link.tf not in variables]
    unknown = [name for name in variables if name not in expected]
    if missing:
        raise CheckpointError(
            f"The checkpoint lacks {_some(missing)} of {network}; "
            "it is incomplete, or of another network."
        )
    if unknown:
        raise CheckpointError(
            f"The checkpoint has {_some(unknown)} that {network} does not have; no variable is "
            "dropped silently: convert a checkpoint of this network only."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more variables" if len(names) > 1 else ""
    return f"variable {names[0]}{more}"


def _rows(variant: Variant, conv_type: str) -> list[tuple[str, str, str]]:
    """The table with all placeholders filled in: (TF path, torch name, kind)."""
    blocks = [block.name for block in variant.spec.blocks]
    rows = []
    for tf, (torch, kind) in TABLE.items():
        for placeholder, spelling in SPELLING[conv_type].items():
            tf = tf.replace(placeholder, spelling)
        for block in blocks if "{block}" in tf else [""]:
            for tf_norm, torch_norm in NORM.items() if "{norm}" in tf else [("", "")]:
                rows.append(
                    (
                        tf.replace("{block}", block).replace("{norm}", tf_norm),
                        torch.replace("{block}", block).replace("{norm}", torch_norm),
                        kind,
                    )
                )
    return rows


def _link(tf: str, torch: str, kind: str, conv_type: str, shape: tuple[int, ...]) -> Link:
    if kind == VECTOR:
        return Link(tf, torch, shape, shape, None)
    axes = AXES[conv_type, kind]
    padded = _padded(shape, len(axes))
    return Link(tf, torch, tuple(padded[axis] for axis in axes), shape, axes)


def _padded(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Insert the unit axes that a kernel (out, in, ...) lacks, after the first two axes."""
    return (*shape[:2], *(1,) * (rank - len(shape)), *shape[2:])
