"""The checkpoint layouts of each file format, in the order in which they are tried.

A layout is a function that inspects an open file and returns its ``CanonicalNames``, or None if the
file has another layout. To support a new layout, add a function to one of these tuples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from movinet_convert.checkpoint.canonical import CanonicalNames
from movinet_convert.checkpoint.keras_hdf5 import (
    HDF5_MAGIC,
    Hdf5Source,
    names_by_owner,
    names_by_scope,
)
from movinet_convert.checkpoint.model_garden import names_by_object_path
from movinet_convert.checkpoint.prefix import find_bundle
from movinet_convert.checkpoint.pytorch_port import names_of_pytorch_port
from movinet_convert.checkpoint.random_access import ByteRange, is_there
from movinet_convert.checkpoint.saved_model import names_of_saved_model
from movinet_convert.checkpoint.tensor_bundle import BundleReader
from movinet_convert.checkpoint.tensor_source import TensorSource
from movinet_convert.checkpoint.tflite import has_tflite_magic, open_tflite
from movinet_convert.checkpoint.torch_state_dict import TorchSource, has_torch_magic
from movinet_convert.errors import CheckpointError

Source = TypeVar("Source", bound=TensorSource)
Layout = Callable[[Source], CanonicalNames | None]

BUNDLE: tuple[Layout[BundleReader], ...] = (names_by_object_path, names_of_saved_model)
HDF5: tuple[Layout[Hdf5Source], ...] = (names_by_owner, names_by_scope)
TORCH: tuple[Layout[TorchSource], ...] = (names_of_pytorch_port,)


def open_tensors(path: Path) -> tuple[TensorSource, CanonicalNames]:
    """The stored tensors at ``path`` and their names; CheckpointError if they are not a MoViNet."""
    if is_there(path):
        start = ByteRange.of_path(path)
        if start.starts_with(HDF5_MAGIC):
            keras = Hdf5Source(path)
            return keras, _first(HDF5, keras, "HDF5 file")
        if has_tflite_magic(start):
            return open_tflite(start)
        if has_torch_magic(start):
            state = TorchSource(path)
            names = _first(TORCH, state, "PyTorch state dict")
            return state, replace(names, ignored={**names.ignored, **state.ignored})
    files, prefix = find_bundle(path)
    bundle = BundleReader(files.open, prefix)
    return bundle, _first(BUNDLE, bundle, "TensorFlow checkpoint")


def _first(layouts: tuple[Layout[Source], ...], source: Source, kind: str) -> CanonicalNames:
    """The names by the first layout that fits ``source``; CheckpointError if none does."""
    for layout in layouts:
        names = layout(source)
        if names is not None:
            return names
    examples = ", ".join(repr(name[:60]) for name in source.names[:3])
    raise CheckpointError(
        f"{source.where} is a {kind}, but not one of a MoViNet in any known layout: none of its "
        f"{len(source.names)} variables (such as {examples}) is the stem."
    )
