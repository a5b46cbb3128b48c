"""What a file says of itself: a checkpoint in any layout, or a converted file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.identify import identify
from movinet_convert.variants import Variant
from movinet_convert.weightfile import read_header

if TYPE_CHECKING:
    import os

CONVERTED = "movinet-convert"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class StoredVariable:
    """A weight: its name here, the name it is stored under, its shape as stored by TensorFlow."""

    name: str
    stored: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """``variants`` are those that the weights fit; more than one where only their owner knows.

    ``gating`` is None where nothing in the file tells it. ``ignored`` are stored variables that
    are not weights, and why.
    """

    path: Path
    layout: str
    variants: tuple[str, ...]
    num_classes: int | None
    gating: str | None
    labels: tuple[str, ...] | None
    variables: tuple[StoredVariable, ...]
    ignored: dict[str, str]

    @property
    def values(self) -> int:
        """Numbers in all weights together."""
        return sum(_count(variable.shape) for variable in self.variables)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a checkpoint or a converted file without reading its arrays.

    Raises CheckpointError or WeightsError where it is damaged, or no MoViNet.
    """
    return _converted(Path(path)) if Path(path).suffix == SUFFIX else _checkpoint(Path(path))


def _converted(path: Path) -> Inspection:
    header = read_header(path)
    with safetensors.safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return Inspection(
        path=path,
        layout=CONVERTED,
        variants=(header.variant,),
        num_classes=header.num_classes,
        gating=header.settings.gating,
        labels=header.labels,
        variables=tuple(StoredVariable(name, name, shape) for name, shape in shapes.items()),
        ignored={},
    )


def _checkpoint(path: Path) -> Inspection:
    checkpoint = open_checkpoint(path)
    identity = identify(checkpoint)
    stream = Variant(identity.arch, "stream").name
    base = Variant(identity.arch, "base").name
    variants: tuple[str, ...] = (base,) if identity.may_be_base else (stream,)
    if identity.may_be_base and identity.may_be_legacy:
        variants = (base, f"{stream} (legacy, 3D)")
    variables = checkpoint.variables
    return Inspection(
        path=path,
        layout=checkpoint.layout,
        variants=variants,
        num_classes=identity.classes,
        gating="sigmoid" if identity.conv_type == "3d" else None,
        labels=None,
        variables=tuple(
            StoredVariable(name, variables.stored_name(name), variables.shape(name))
            for name in variables
        ),
        ignored=dict(checkpoint.ignored),
    )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
