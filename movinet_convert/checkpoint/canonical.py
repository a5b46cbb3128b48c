"""Canonical names: Model Garden object paths with a readable container name in front.

``model/layer_with_weights-0/layer_with_weights-3/_feature/_conv/_conv/depthwise_kernel`` is
``block1_layer1/_feature/_conv/_conv/depthwise_kernel`` of an A0. The containers are ``stem``, the
blocks (``BlockSpec.name``), ``head`` and ``classifier_head``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np

from movinet_convert.checkpoint.tensor_source import Array, TensorSource, Weight
from movinet_convert.errors import CheckpointError
from movinet_convert.variants import ARCHS, Activation, Gating

STEM, HEAD, CLASSIFIER = "stem", "head", "classifier_head"
SAVE_COUNTER = "number of checkpoints saved"
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

_STEPS, _OPTIMIZER = "training step counter", "optimizer variable"
_RANDOM = "state of a random number generator"
_COUNTERS = {"save_counter": SAVE_COUNTER, "global_step": _STEPS, "step": _STEPS}
_FOLDERS = {
    "optimizer": _OPTIMIZER,
    "optimizer_weights": _OPTIMIZER,
    "seed_generator": _RANDOM,
    "_seed_generator": _RANDOM,
}
_METRICS = frozenset(
    prefix + word
    for prefix in ("", "train_", "training_", "validation_", "compiled_", "_compile_", "_")
    for word in ("metric", "metrics", "loss")
)
_CONV = re.compile(r"(?P<layer>.*/_conv(?P<temporal>_temporal)?)/(?P<leaf>kernel|bias)")


@dataclass(frozen=True)
class GraphSettings:
    """What the operators of a graph determine, and variables alone do not."""

    causal: bool
    gating: Gating
    head_activation: Activation


@dataclass(frozen=True)
class CanonicalNames:
    """Every stored variable: either a weight, or ignored for a given reason.

    ``graph`` is None for files of variables alone; ``notes`` say what was lost in the file.
    """

    layout: str
    arch: str
    weights: dict[str, Weight]  # by canonical name
    ignored: dict[str, str]  # stored name -> reason
    graph: GraphSettings | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def collect(
        cls,
        layout: str,
        arch: str,
        pairs: Iterable[tuple[str, Weight]],
        ignored: dict[str, str],
        source: TensorSource,
    ) -> CanonicalNames:
        """Collect (canonical name, weight) pairs, and the reasons to ignore other variables.

        If a weight is stored twice, a bitwise-equal second copy is ignored; otherwise
        CheckpointError names both.
        """
        weights: dict[str, Weight] = {}
        copies: dict[str, str] = {}
        for name, weight in pairs:
            first = weights.setdefault(name, weight)
            if first is weight:
                continue
            if not first.equals(weight, source):
                raise CheckpointError(
                    f"{source.where}: {first.stored!r} and {weight.stored!r} are both {name!r} "
                    "but differ; expected each weight of the network once."
                )
            copies[weight.stored] = f"copy of {first.stored}"
        return cls(layout, arch, unfold_3d_kernels(weights, source), {**ignored, **copies})


@cache
def containers(arch: str) -> tuple[str, ...]:
    """The backbone's containers in build order: stem, blocks, head."""
    return (STEM, *(block.name for block in ARCHS[arch].blocks), HEAD)


def arch_of_block_count(count: int, where: str) -> str:
    """The architecture with ``count`` blocks, which differs for each architecture."""
    by_count = {len(spec.blocks): arch for arch, spec in ARCHS.items()}
    if count not in by_count:
        known = ", ".join(f"{arch} {blocks}" for blocks, arch in sorted(by_count.items()))
        raise CheckpointError(
            f"{where} has {count} blocks between stem and head, and no MoViNet has that many "
            f"({known}); it is not a MoViNet, or is incomplete."
        )
    return by_count[count]


def arch_of_containers(found: set[str], where: str) -> str:
    """The architecture whose backbone is exactly ``found`` (which may include the classifier)."""
    blocks = found - {STEM, HEAD, CLASSIFIER}
    arch = arch_of_block_count(len(blocks), where)
    missing = [name for name in containers(arch) if name not in found]
    if missing:
        raise CheckpointError(
            f"{where} has {len(blocks)} blocks, like a MoViNet {arch}, but no {missing[0]}; it is "
            "incomplete, or another model."
        )
    return arch


def variable_path(layer: str, leaf: str, *, temporal: bool, nested: bool) -> str:
    """The canonical name of a layer's variable; ``nested`` where convolutions wrap a 2D layer."""
    suffix = "_temporal" if temporal else ""
    if leaf == "scale":
        return f"{layer}/scale"
    if leaf in BATCH_NORM:
        return f"{layer}/_batch_norm{suffix}/{leaf}"
    return f"{layer}/_conv{suffix}/{'_conv/' if nested else ''}{leaf}"


def unknown_variable(path: str, where: str) -> CheckpointError:
    """The error for a variable that is neither a weight nor known training state."""
    return CheckpointError(
        f"{where} contains the variable {path!r}, which is neither a MoViNet weight nor known "
        "training state; the checkpoint is of another model, or of a modified one."
    )


def split_ignored(paths: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Split ``path -> stored name`` into the weights and ``stored name -> reason`` of the rest."""
    reasons = {path: _reason_to_ignore(path) for path in paths}
    weights = {path: stored for path, stored in paths.items() if reasons[path] is None}
    return weights, {paths[path]: why for path, why in reasons.items() if why is not None}


def _reason_to_ignore(path: str) -> str | None:
    """Why the variable at ``path`` is not a weight of the network, or None if it may be one."""
    words = path.split("/")
    *folders, last = words
    if ".OPTIMIZER_SLOT" in folders:
        if folders[-2:-1] == [".OPTIMIZER_SLOT"] and last == "average":
            return "moving average of a weight, kept by the optimizer"
        return "optimizer slot"
    if last in _COUNTERS:
        return _COUNTERS[last]
    if "optimizer" in folders and last in ("iter", "iterations", "_iterations"):
        return _STEPS
    for word in folders:
        if word in _FOLDERS:
            return _FOLDERS[word]
    return "metric" if any(word in _METRICS for word in words) else None


def unfold_3d_kernels(weights: dict[str, Weight], source: TensorSource) -> dict[str, Weight]:
    """Give ``3d_2plus1d`` weights the names and shapes of ``2plus1d``; others are unchanged.

    Training on TPUs stored (2+1)D networks with 3D kernels; the releases have the same values in
    2D shapes. Unlike a 3D network, such a network has temporal convolutions; unlike in
    ``2plus1d``, these do not wrap a 2D layer.
    """
    if not any(name.endswith("/_conv_temporal/kernel") for name in weights):
        return weights
    return dict(_unfold(name, weight, source) for name, weight in weights.items())


def _unfold(name: str, weight: Weight, source: TensorSource) -> tuple[str, Weight]:
    match = _CONV.fullmatch(name)
    if match is None or match["layer"].endswith("/_conv/_conv"):
        return name, weight
    if match["leaf"] == "bias":
        return f"{match['layer']}/_conv/bias", weight
    shape = weight.shape(source)
    axis = 1 if match["temporal"] else 0
    if len(shape) != 5 or shape[axis] != 1:
        raise CheckpointError(
            f"{source.where}: variable {name!r} has shape {shape}; expected a kernel with 5 "
            f"axes and size 1 in axis {axis}, as in every 3d_2plus1d checkpoint."
        )
    depthwise = "/_feature/" in name

    def change(array: Array) -> Array:
        flat = np.squeeze(weight.change(array), axis)
        return flat.swapaxes(2, 3) if depthwise else flat  # (1, channels) -> (channels, 1)

    leaf = "depthwise_kernel" if depthwise else "kernel"
    return f"{match['layer']}/_conv/{leaf}", Weight(weight.stored, change)
