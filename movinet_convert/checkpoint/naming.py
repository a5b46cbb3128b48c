"""Canonical names: the Model Garden object path under a readable container.

``model/layer_with_weights-0/layer_with_weights-3/_feature/_conv/_conv/depthwise_kernel`` is
``block1_layer1/_feature/_conv/_conv/depthwise_kernel`` of an A0. The containers are ``stem``, the
blocks (``BlockSpec.name``), ``head`` and ``classifier_head``.
"""

from __future__ import annotations

from functools import cache

from movinet_convert.errors import CheckpointError
from movinet_convert.variants import ARCHS

STEM, HEAD, CLASSIFIER = "stem", "head", "classifier_head"


def arch_of_block_count(count: int, where: str) -> str:
    """The architecture with ``count`` blocks: no two have the same number."""
    by_count = {len(spec.blocks): arch for arch, spec in ARCHS.items()}
    if count not in by_count:
        known = ", ".join(f"{arch} {blocks}" for blocks, arch in sorted(by_count.items()))
        raise CheckpointError(
            f"{where} has {count} blocks between stem and head, and no MoViNet has that many "
            f"({known}); it is not a MoViNet or parts of it are missing."
        )
    return by_count[count]


@cache
def containers(arch: str) -> tuple[str, ...]:
    """The backbone's containers in the order in which they are built: stem, blocks, head."""
    return (STEM, *(block.name for block in ARCHS[arch].blocks), HEAD)


def arch_of_containers(found: set[str], where: str) -> str:
    """The architecture whose backbone is exactly the containers ``found`` (bar the classifier)."""
    blocks = found - {STEM, HEAD, CLASSIFIER}
    arch = arch_of_block_count(len(blocks), where)
    missing = [name for name in containers(arch) if name not in found]
    if missing:
        raise CheckpointError(
            f"{where} has {len(blocks)} blocks as a MoViNet {arch}, but no {missing[0]}; parts of "
            "the network are missing or it is another model."
        )
    return arch
