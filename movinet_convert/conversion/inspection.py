"""What a file says of itself: a checkpoint in any layout, or a converted file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.structure import read_structure
from movinet_convert.conversion.pipeline import model_of_either_gating
from movinet_convert.conversion.sources import given
from movinet_convert.errors import UsageError
from movinet_convert.model import MoViNet
from movinet_convert.variants import Origins, Settings, Variant
from movinet_convert.weights.file import SUFFIX, read_header, read_tensors
from movinet_convert.weights.load import locate, read_network

CONVERTED = "movinet-convert"


@dataclass(frozen=True)
class StoredVariable:
    """A weight: its name here, the name it is stored under, its shape as stored by TensorFlow."""

    name: str
    stored: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """``variants`` are those that the weights fit; more than one where only their owner knows.

    ``gating`` is None where nothing in the file tells it. A converted file has ``settings``,
    ``origins`` that say where those come from which no checkpoint tells, and the ``source`` that it
    was made from; ``header`` tells whether a digest, its own or a manifest's, vouches for all that.
    ``ignored`` are stored variables that are not weights, and why.
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

    @property
    def values(self) -> int:
        """Numbers in all weights together."""
        return sum(_count(variable.shape) for variable in self.variables)


def inspect(path: str | os.PathLike[str]) -> Inspection:
    """Look into a checkpoint without reading its arrays, or into a converted file.

    A converted file is compared with its digests first. Raises CheckpointError or WeightsError
    where it is damaged, or no MoViNet.
    """
    return _converted(Path(path)) if Path(path).suffix == SUFFIX else _checkpoint(Path(path))


def stream_network(path: str | os.PathLike[str]) -> MoViNet:
    """The network of a stream checkpoint or converted file, for ``gating_evidence``.

    Raises UsageError for a network that gates with a sigmoid, and what ``inspect`` raises.
    """
    path = Path(path)
    if path.suffix == SUFFIX:
        return read_network(locate(path))
    checkpoint = open_checkpoint(path)
    if read_structure(checkpoint).conv_type == "3d":
        raise UsageError(
            f"{path} gates with a sigmoid, as all networks with 3D convolutions do; only the "
            "gating of stream models with (2+1)D convolutions is in question."
        )
    # The activation of the classifier's hidden layer comes after all that is compared.
    return model_of_either_gating(checkpoint, given(path), head_activation="swish")


def _converted(path: Path) -> Inspection:
    file = locate(path)
    file.check()
    header = read_header(path)
    verified = file.entry is not None or header.digest is not None
    shapes = {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    return Inspection(
        path=path,
        layout=CONVERTED,
        variants=(header.variant,),
        num_classes=header.num_classes,
        gating=header.settings.gating,
        labels=header.labels,
        variables=tuple(StoredVariable(name, name, shape) for name, shape in shapes.items()),
        ignored={},
        settings=header.settings,
        origins=header.origins,
        source=header.source,
        header="verified" if verified else "unverified",
    )


def _checkpoint(path: Path) -> Inspection:
    checkpoint = open_checkpoint(path)
    structure = read_structure(checkpoint)
    stream = Variant(structure.arch, "stream").name
    base = Variant(structure.arch, "base").name
    variants: tuple[str, ...] = (base,) if structure.may_be_base else (stream,)
    if structure.may_be_base and structure.may_be_legacy:
        variants = (base, f"{stream} (legacy, 3D)")
    variables = checkpoint.variables
    return Inspection(
        path=path,
        layout=checkpoint.layout,
        variants=variants,
        num_classes=structure.classes,
        gating="sigmoid" if structure.conv_type == "3d" else None,
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
