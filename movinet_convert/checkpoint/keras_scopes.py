"""Parse Keras variable names: the name scopes of the layers.

``block0_layer0/bneck/expansion/conv2d/conv2d_3/kernel`` in current code, ``b0/l0/bneck/…`` in
models published on TF-Hub and Kaggle. Names of inner layers contain counters and have changed over
the years; only the layer, whether it is temporal, and the last component are used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from movinet_convert.checkpoint.canonical import BATCH_NORM, CLASSIFIER, HEAD, STEM, variable_path

_LEAVES = (*BATCH_NORM, "kernel", "depthwise_kernel", "bias", "scale")
_BLOCK = re.compile(r"block\d{1,2}_layer\d{1,2}")
_HUB_BLOCK = re.compile(r"(?:.*/)?(b(\d{1,2})/l(\d{1,2}))/.*")
_CLASSIFIER_LAYERS = {"head": "_head", "classifier": "_classifier"}
_BLOCK_LAYERS = {
    "expansion": "_expansion",
    "feature": "_feature",
    "projection": "_projection",
    "se_reduce": "_attention/_se_reduce",
    "se_expand": "_attention/_se_expand",
    "skip_project": "_skip/_projection",
}


@dataclass(frozen=True)
class KerasName:
    """A parsed name: ``layer`` is the layer's object path below ``container``."""

    container: str
    layer: str
    leaf: str
    temporal: bool = False

    def canonical(self, *, nested: bool) -> str:
        """``nested`` where convolutions wrap a 2D layer, as in ``2plus1d``."""
        layer = f"{self.container}/{self.layer}"
        return variable_path(layer, self.leaf, temporal=self.temporal, nested=nested)


def is_hub_name(name: str) -> bool:
    """Whether the name is in the TF-Hub style, ``b0/l0/…``."""
    return _HUB_BLOCK.fullmatch(name) is not None


def parse(name: str) -> KerasName | None:
    """The parsed name of a variable; None if it is not a MoViNet's."""
    hub = _HUB_BLOCK.fullmatch(name)
    if hub:
        name = name.replace(hub[1], f"block{int(hub[2])}_layer{int(hub[3])}", 1)
    *words, leaf = name.removesuffix(":0").split("/")
    is_container = [w in (STEM, HEAD, CLASSIFIER) or _BLOCK.fullmatch(w) is not None for w in words]
    if True not in is_container or leaf not in _LEAVES:
        return None
    start = is_container.index(True)
    container, inner = words[start], words[start + 1 :]
    if leaf == "scale":
        is_block = _BLOCK.fullmatch(container)
        return KerasName(container, "_mobile_bottleneck/_rezero", leaf) if is_block else None
    if container in (STEM, HEAD):
        layer: str | None = "_stem" if container == STEM else "_project"
    else:
        layers = _CLASSIFIER_LAYERS if container == CLASSIFIER else _BLOCK_LAYERS
        layer = next((layers[word] for word in inner if word in layers), None)
    temporal = any("temporal" in word for word in inner)
    return KerasName(container, layer, leaf, temporal) if layer else None
