"""Architectures cut to a few blocks, of every kind there is: TensorFlow traces each for seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from movinet_convert.checkpoint.canonical import containers
from movinet_convert.variants import ARCHS

STAGES, LAYERS = 3, 2


@contextmanager
def short_archs(*archs: str) -> Iterator[None]:
    """Cut ``archs`` to the first blocks of the first stages, here and in the official code."""
    with pytest.MonkeyPatch.context() as patch:
        for arch in archs:
            stages = [
                replace(stage, layers=stage.layers[:LAYERS])
                for stage in ARCHS[arch].stages[:STAGES]
            ]
            patch.setitem(ARCHS, arch, replace(ARCHS[arch], stages=tuple(stages)))
        with in_the_official_code(*archs):
            yield


@contextmanager
def in_the_official_code(*archs: str) -> Iterator[None]:
    """Give the official code the blocks that ``archs`` have here."""
    from official.projects.movinet.modeling import movinet

    containers.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for arch in archs:
            stem, *blocks, head = movinet.BLOCK_SPECS[arch]
            cut = [
                replace(
                    block,
                    expand_filters=tuple(expanded for expanded, _ in stage.layers),
                    kernel_sizes=tuple(kernel for _, kernel in stage.layers),
                    strides=block.strides[: len(stage.layers)],
                )
                for block, stage in zip(blocks, ARCHS[arch].stages, strict=False)
            ]
            patch.setitem(movinet.BLOCK_SPECS, arch, (stem, *cut, head))
        yield
    containers.cache_clear()
