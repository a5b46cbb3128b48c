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
    from official.projects.movinet.modeling import movinet

    fields = ("expand_filters", "kernel_sizes", "strides")
    containers.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for arch in archs:
            stages = [
                replace(stage, layers=stage.layers[:LAYERS])
                for stage in ARCHS[arch].stages[:STAGES]
            ]
            stem, *blocks, head = movinet.BLOCK_SPECS[arch]
            cut = [
                replace(block, **{name: getattr(block, name)[:LAYERS] for name in fields})
                for block in blocks[:STAGES]
            ]
            patch.setitem(ARCHS, arch, replace(ARCHS[arch], stages=tuple(stages)))
            patch.setitem(movinet.BLOCK_SPECS, arch, (stem, *cut, head))
        yield
    containers.cache_clear()
