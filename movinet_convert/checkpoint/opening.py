"""From a path to its tensors and their names: which kind of file it is, judged by content."""

from __future__ import annotations

from pathlib import Path

from movinet_convert.checkpoint.blob import Blob
from movinet_convert.checkpoint.bundle import BundleReader
from movinet_convert.checkpoint.files import is_there
from movinet_convert.checkpoint.hdf5 import Hdf5Source, has_hdf5_magic
from movinet_convert.checkpoint.layouts import names_in_bundle, names_in_hdf5, names_in_torch
from movinet_convert.checkpoint.locate import locate_bundle
from movinet_convert.checkpoint.names import Names, TensorSource
from movinet_convert.checkpoint.torch_files import TorchSource, has_torch_magic


def open_tensors(path: Path) -> tuple[TensorSource, Names]:
    """The stored tensors at ``path`` and what they are; CheckpointError if they are no MoViNet."""
    if is_there(path):
        blob = Blob.of_path(path)
        if has_hdf5_magic(blob):
            keras = Hdf5Source(path)
            return keras, names_in_hdf5(keras)
        if has_torch_magic(blob):
            state = TorchSource(path)
            return state, names_in_torch(state)
    files, prefix = locate_bundle(path)
    bundle = BundleReader(files.open, prefix)
    return bundle, names_in_bundle(bundle)
