"""Layouts that name variables as Keras does: by the name scopes of their layers.

``block0_layer0/bneck/expansion/conv2d/conv2d_3/kernel`` in today's code, ``b0/l0/bneck/…`` in what
was published on TF-Hub and Kaggle. The names of the inner layers carry counters and have changed
over the years; the part, whether it is temporal, and the last word say all that is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from movinet_convert.checkpoint.canonical import CLASSIFIER, HEAD, STEM

_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_CONV = ("kernel", "depthwise_kernel", "bias")
_BLOCK = re.compile(r"block\d{1,2}_layer\d{1,2}")
_HUB_BLOCK = re.compile(r"(?:.*/)?(b(\d{1,2})/l(\d{1,2}))/.*")
_CLASSIFIER_PARTS = {"head": "_head", "classifier": "_classifier"}
_BLOCK_PARTS = {
    "expansion": "_expansion",
    "feature": "_feature",
    "projection": "_projection",
    "se_reduce": "_attention/_se_reduce",
    "se_expand": "_attention/_se_expand",
    "skip_project": "_skip/_projection",
}


@dataclass(frozen=True)
class KerasName:
    """A name understood: ``part`` is the layer's path below ``container``."""

    container: str
    part: str
    leaf: str
    temporal: bool = False

    def canonical(self, *, nested: bool) -> str:
        """``nested`` where convolutions wrap a 2D layer, as in ``2plus1d``."""
        layer = f"{self.container}/{self.part}"
        if self.leaf == "scale":
            return f"{layer}/scale"
        suffix = "_temporal" if self.temporal else ""
        if self.leaf in _NORM:
            return f"{layer}/_batch_norm{suffix}/{self.leaf}"
        return f"{layer}/_conv{suffix}/{'_conv/' if nested else ''}{self.leaf}"


def is_hub_name(name: str) -> bool:
    """Whether the name is of the dialect of TF-Hub, ``b0/l0/…``."""
    return _HUB_BLOCK.fullmatch(name) is not None


def is_bare_scale(name: str) -> bool:
    """The ReZero of a positional encoding: its name does not say which block it is in."""
    return name == "scale"


def parse(name: str) -> KerasName | None:
    """What the variable called ``name`` is; None if it is not a MoViNet's."""
    hub = _HUB_BLOCK.fullmatch(name)
    if hub:
        name = name.replace(hub[1], f"block{int(hub[2])}_layer{int(hub[3])}", 1)
    words = name.removesuffix(":0").split("/")
    leaf = words[-1]
    start = next((i for i, word in enumerate(words) if _is_container(word)), None)
    if start is None or leaf not in (*_NORM, *_CONV, "scale"):
        return None
    container, inner = words[start], words[start + 1 : -1]
    if leaf == "scale":
        block = _BLOCK.fullmatch(container)
        return KerasName(container, "_mobile_bottleneck/_rezero", leaf) if block else None
    part = _part(container, inner)
    temporal = any("temporal" in word for word in inner)
    return KerasName(container, part, leaf, temporal) if part else None


def _is_container(word: str) -> bool:
    return word in (STEM, HEAD, CLASSIFIER) or _BLOCK.fullmatch(word) is not None


def _part(container: str, inner: list[str]) -> str | None:
    if container == STEM:
        return "_stem"
    if container == HEAD:
        return "_project"
    parts = _CLASSIFIER_PARTS if container == CLASSIFIER else _BLOCK_PARTS
    return next((parts[word] for word in inner if word in parts), None)
