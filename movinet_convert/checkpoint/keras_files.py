"""Keras HDF5: ``save_weights("x.h5")``, ``save("x.h5")`` and ``save_weights("x.weights.h5")``.

The first two name variables by their scopes, the third numbers them below the attributes of the
layers that own them, in order of creation.
"""

from __future__ import annotations

import re

from movinet_convert.checkpoint import ignored, keras_names
from movinet_convert.checkpoint.names import Names, TensorSource, Weight, collect
from movinet_convert.checkpoint.naming import (
    STEM,
    arch_of_block_count,
    arch_of_containers,
    containers,
)
from movinet_convert.checkpoint.object_paths import unknown_variable

_LAYER = re.compile(r"stem|head|classifier_head|movinet_block(?:_(?P<n>\d{1,4}))?")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_ALIASES = {
    "_expansion_layer": "_expansion",
    "_feature_layer": "_feature",
    "_projection_layer": "_projection",
    "_attention_layer": "_attention",
    "_skip_layer": "_skip",
}


def names_by_scope(source: TensorSource) -> Names | None:
    """``x.h5``: paths are layer names followed by the variable's own name."""
    weights, rest = ignored.split({name: name for name in source.names})
    parsed = {name: keras_names.parse(name) for name in weights}
    kernels = [n for n, p in parsed.items() if p and p.container == STEM and p.leaf == "kernel"]
    if not kernels:
        return None
    nested = len(source.shape(kernels[0])) == 4
    pairs: list[tuple[str, Weight]] = []
    for name, found in parsed.items():
        if found is None:
            raise unknown_variable(name, source.where)
        pairs.append((found.canonical(nested=nested), Weight(name)))
    arch = arch_of_containers({p.container for p in parsed.values() if p}, source.where)
    return Names("keras-h5", arch, *collect(pairs, rest, source))


def names_by_owner(source: TensorSource) -> Names | None:
    """``x.weights.h5``: paths are attributes, ``vars/0``, ``vars/1``, … the variables of each."""
    weights, rest = ignored.split({name: name for name in source.names})
    owned = {name: _owned(name, len(source.shape(name))) for name in weights}
    blocks = {found[0] for found in owned.values() if found and isinstance(found[0], int)}
    if not blocks:
        return None
    arch = arch_of_block_count(len(blocks), source.where)
    order = containers(arch)[1:-1]
    pairs: list[tuple[str, Weight]] = []
    for name, found in owned.items():
        if found is None or (isinstance(found[0], int) and found[0] >= len(order)):
            raise unknown_variable(name, source.where)
        layer, path = found
        container = order[layer] if isinstance(layer, int) else layer
        pairs.append((f"{container}/{path}", Weight(name)))
    return Names("keras-weights-h5", arch, *collect(pairs, rest, source))


def _owned(name: str, rank: int) -> tuple[int | str, str] | None:
    """``…/layers/movinet_block_3/_skip/…/vars/0`` -> block 3 (or the layer) and object path."""
    words = name.split("/")
    layers = [at for at, word in enumerate(words[:-1]) if word == "layers"]
    match = _LAYER.fullmatch(words[layers[-1] + 1]) if layers else None
    if match is None or words[-2] != "vars" or not words[-1].isdecimal() or len(words[-1]) > 2:
        return None
    path = _leaf(words[layers[-1] + 2 : -2], int(words[-1]), rank)
    layer = int(match["n"] or 0) if match[0].startswith("movinet_block") else match[0]
    return (layer, path) if path else None


def _leaf(path: list[str], var: int, rank: int) -> str | None:
    """The object path of variable number ``var`` of the layer at ``path``."""
    words = [_ALIASES.get(word, word) for word in path]
    if words[:1] == ["_mobile_bottleneck"] and words[1:] != ["_rezero"]:
        words = words[1:]
    if not words:
        return None
    if words[-1] == "_batch_norm_op" and len(words) > 1:
        temporal = words[-2] == "_conv_temporal"
        words[-2:] = ["_batch_norm_temporal" if temporal else "_batch_norm"]
    owner = words[-1]
    if owner.startswith("_batch_norm"):
        leaves: tuple[str, ...] = _NORM
    elif owner == "_rezero":
        leaves = ("scale",)
    else:
        depthwise = words[0] == "_feature" and rank == 4
        leaves = ("depthwise_kernel" if depthwise else "kernel", "bias")
    return "/".join([*words, leaves[var]]) if var < len(leaves) else None
