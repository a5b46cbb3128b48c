"""Inspect the content of a file: a checkpoint in any layout, or a converted file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.structure import read_structure
from movinet_convert.conversion.recognition import check_name, recognised
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.errors import UsageError
from movinet_convert.model import MoViNet
from movinet_convert.variants import VARIANTS, Origins, Settings, meant_variants
from movinet_convert.weights.file import read_header, read_tensors
from movinet_convert.weights.hub_files import is_hub_address
from movinet_convert.weights.load import WeightsFile, locate, read_network
from movinet_convert.weights.naming import SUFFIX, split_version, store_folder
from movinet_convert.weights.store import Store


@dataclass(frozen=True)
class StoredVariable:
    """A weight: its canonical name, its name in the file, and its shape."""

    name: str
    stored: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """The content of a file.

    ``variants`` are those that the weights fit, several if ambiguous. ``gating`` and
    ``head_activation`` are None if the file does not determine them. A converted file has
    ``settings`` with their ``origins``, and the ``source`` that it was converted from; ``header``
    tells whether a digest, its own or a manifest's, verified these. ``ignored`` maps stored
    variables that are not weights to the reason; ``notes`` say what the file does not have any more
    of the trained network. ``release`` is the release whose tensors it has, if known.
    """

    path: Path
    layout: str
    variants: tuple[str, ...]
    num_classes: int | None
    gating: str | None
    labels: tuple[str, ...] | None
    variables: tuple[StoredVariable, ...]
    ignored: dict[str, str]
    settings: Settings | None = None
    origins: Origins | None = None
    source: str | None = None
    header: Literal["verified", "unverified"] | None = None
    head_activation: str | None = None
    notes: tuple[str, ...] = ()
    release: str | None = None

    @property
    def values(self) -> int:
        """The total number of values in all weights."""
        return sum(math.prod(variable.shape) for variable in self.variables)


def inspect(
    path: str | os.PathLike[str], *, weights_dir: str | os.PathLike[str] | None = None
) -> Inspection:
    """Inspect a checkpoint, or a converted file, which may be on the Hub (``hf://…``).

    The name of a variant is that of its file in the store, unless there is such a checkpoint.

    The arrays of a checkpoint are read only to recognise a release, if any is known by its tensors.
    A converted file is verified against its digests first. Raises CheckpointError or WeightsError
    if the file is damaged or not a MoViNet.
    """
    file = _converted(path, weights_dir)
    return _inspect_checkpoint(Path(path)) if file is None else _inspect_converted(file)


def _converted(
    path: str | os.PathLike[str], weights_dir: str | os.PathLike[str] | None
) -> WeightsFile | None:
    """The converted file that is meant, None for a checkpoint."""
    if is_hub_address(path) or Path(path).suffix == SUFFIX:
        return locate(path)
    path = Path(path)
    if path.exists() or path.with_name(f"{path.name}.index").exists():
        return None
    named = split_version(str(path))
    if named is not None:
        known = [*VARIANTS, *Store(store_folder(weights_dir)).manifest().named]
        if named[0] in known or meant_variants(named[0]):
            return locate(path, weights_dir=weights_dir)
    return None


def stream_network(
    path: str | os.PathLike[str], *, weights_dir: str | os.PathLike[str] | None = None
) -> MoViNet:
    """The network of a stream checkpoint or converted file, for ``gating_evidence``.

    Its gating is arbitrary, and its classifier has one class if the checkpoint has none. Raises as
    ``inspect``, and UsageError for a network with sigmoid gating.
    """
    file = _converted(path, weights_dir)
    if file is not None:
        return read_network(file)
    path = Path(path)
    structure = read_structure(open_checkpoint(path))
    if structure.gating is not None:
        raise UsageError(
            f"The operators of {path} compute the gating {structure.gating!r}; nothing is left to "
            "detect."
        )
    if structure.conv_type == "3d":
        raise UsageError(
            f"{path} has sigmoid gating, like all networks with 3D convolutions; the gating is "
            "ambiguous only in stream models with (2+1)D convolutions."
        )
    # The compared statistics come before the classifier, whose activation does not matter.
    return convert_checkpoint(
        given(path),
        gating="keras",
        head_activation="swish",
        num_classes=structure.classes or 1,
    ).to_model()


def _inspect_converted(file: WeightsFile) -> Inspection:
    path = file.path
    file.check()
    header = read_header(path)
    verified = file.entry is not None or header.digest is not None
    tensors = read_tensors(path)
    return Inspection(
        path=path,
        layout="movinet-convert",
        variants=(header.variant,),
        num_classes=header.num_classes,
        gating=header.settings.gating,
        head_activation=header.settings.head_activation,
        labels=header.labels,
        variables=tuple(StoredVariable(n, n, tuple(t.shape)) for n, t in tensors.items()),
        ignored={},
        settings=header.settings,
        origins=header.origins,
        source=header.source,
        header="verified" if verified else "unverified",
    )


def _inspect_checkpoint(path: Path) -> Inspection:
    checkpoint = open_checkpoint(path)
    structure, variables = read_structure(checkpoint), checkpoint.variables
    known = recognised(checkpoint, structure)
    check_name(path, structure.classes, known)
    fitting = [f"{structure.arch}-base"] if structure.may_be_base else []
    if not structure.may_be_base:
        fitting.append(f"{structure.arch}-stream")
    elif structure.may_be_legacy:
        fitting.append(f"{structure.arch}-stream (legacy, 3D)")
    return Inspection(
        path=path,
        layout=checkpoint.layout,
        variants=tuple(fitting),
        num_classes=structure.classes,
        gating=structure.gating or ("sigmoid" if structure.conv_type == "3d" else None),
        head_activation=structure.head_activation,
        labels=None,
        variables=tuple(
            StoredVariable(name, variables.stored_name(name), variables.shape(name))
            for name in variables
        ),
        ignored=dict(checkpoint.ignored),
        notes=(*checkpoint.notes, *([f"these are {known}"] if known else [])),
        release=known.name if known else None,
    )
