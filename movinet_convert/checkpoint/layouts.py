"""The layouts in which a MoViNet is stored, by kind of file, in the order in which they are tried.

A layout is a function that looks at the content of a file and returns its ``Names`` (layout,
architecture, canonical name -> weight, what is ignored and why), or None if the file is not of
its kind. A new layout is a new function in one of these tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from movinet_convert.checkpoint.bundle import BundleReader
from movinet_convert.checkpoint.hdf5 import Hdf5Source
from movinet_convert.checkpoint.keras_files import names_by_owner, names_by_scope
from movinet_convert.checkpoint.names import Names, TensorSource
from movinet_convert.checkpoint.object_paths import names_by_object_path
from movinet_convert.checkpoint.saved_models import names_of_saved_model
from movinet_convert.checkpoint.torch_files import TorchSource
from movinet_convert.checkpoint.torch_port import names_of_torch_port
from movinet_convert.checkpoint.two_plus_one import to_2plus1d
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
