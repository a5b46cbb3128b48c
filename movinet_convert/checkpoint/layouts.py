"""The layouts in which a MoViNet is stored, by kind of file, in the order in which they are tried.

A layout is a function that looks at the content of a file and returns its ``Names`` (layout,
architecture, canonical name -> weight, what is ignored and why), or None if the file is not of
its kind. A new layout is a new function in one of these tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from movinet_convert.checkpoint.canonical import to_2plus1d
from movinet_convert.checkpoint.keras_hdf5 import (
    Hdf5Source,
    has_hdf5_magic,
    names_by_owner,
    names_by_scope,
)
from movinet_convert.checkpoint.model_garden import names_by_object_path
from movinet_convert.checkpoint.prefix import locate_bundle
from movinet_convert.checkpoint.pytorch_port import names_of_torch_port
from movinet_convert.checkpoint.random_access import ByteRange, is_there
from movinet_convert.checkpoint.saved_model import names_of_saved_model
from movinet_convert.checkpoint.tensor_bundle import BundleReader
from movinet_convert.checkpoint.tensor_source import Names, TensorSource
from movinet_convert.checkpoint.torch_state_dict import TorchSource, has_torch_magic
from movinet_convert.errors import CheckpointError

BUNDLE: tuple[Callable[[BundleReader], Names | None], ...] = (
    names_by_object_path,
    names_of_saved_model,
)
HDF5: tuple[Callable[[Hdf5Source], Names | None], ...] = (names_by_owner, names_by_scope)
TORCH: tuple[Callable[[TorchSource], Names | None], ...] = (names_of_torch_port,)


def names_in_bundle(source: BundleReader) -> Names:
    return _first((layout(source) for layout in BUNDLE), source, "TensorFlow checkpoint")


def names_in_hdf5(source: Hdf5Source) -> Names:
    return _first((layout(source) for layout in HDF5), source, "HDF5 file")


def names_in_torch(source: TorchSource) -> Names:
    names = _first((layout(source) for layout in TORCH), source, "PyTorch state dict")
    return replace(names, ignored={**names.ignored, **source.ignored})


def _first(answers: Iterable[Names | None], source: TensorSource, kind: str) -> Names:
    """What the first fitting layout makes of ``source``; CheckpointError if none fits."""
    for names in answers:
        if names is not None:
            return to_2plus1d(names, source)
    examples = ", ".join(repr(name[:60]) for name in source.names[:3])
    raise CheckpointError(
        f"{source.where} is a {kind}, but not one of a MoViNet in any known layout: none of its "
        f"{len(source.names)} variables (such as {examples}) is the stem of one."
    )


def open_tensors(path: Path) -> tuple[TensorSource, Names]:
    """The stored tensors at ``path`` and what they are; CheckpointError if they are no MoViNet."""
    if is_there(path):
        blob = ByteRange.of_path(path)
        if has_hdf5_magic(blob):
            keras = Hdf5Source(path)
            return keras, names_in_hdf5(keras)
        if has_torch_magic(blob):
            state = TorchSource(path)
            return state, names_in_torch(state)
    files, prefix = locate_bundle(path)
    bundle = BundleReader(files.open, prefix)
    return bundle, names_in_bundle(bundle)
