"""Reading MoViNet checkpoints in every layout in which people hold them, without TensorFlow.

``open_checkpoint(path)`` gives the weights under canonical names; see ``naming`` for those,
``layouts`` for what is recognised and ``identify`` for what the weights say about the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from movinet_convert.checkpoint.layouts import open_tensors
from movinet_convert.checkpoint.tensor_source import Array, TensorSource, Weight

__all__ = ["Checkpoint", "Variables", "open_checkpoint"]


class Variables(Mapping[str, Array]):
    """Canonical TF path -> array. Each look-up reads and checks the array anew; nothing is kept.

    ``stored_name`` and ``shape`` answer without reading.
    """

    def __init__(self, source: TensorSource, weights: Mapping[str, Weight]) -> None:
        self._source = source
        self._weights = weights

    def __getitem__(self, name: str) -> Array:
        return self._weights[name].read(self._source)

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def stored_name(self, name: str) -> str:
        """The name under which the file holds it."""
        return self._weights[name].stored

    def shape(self, name: str) -> tuple[int, ...]:
        """The TF shape, without reading the data."""
        return self._weights[name].shape(self._source)


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint of a MoViNet.

    ``layout`` says how it is stored: ``model-garden``, ``keras-tf-format``, ``training``,
    ``keras-saved-model``, ``tfhub-saved-model``, ``keras-h5``, ``keras-weights-h5`` or
    ``pytorch-port``. ``arch`` is what its blocks make, ``ignored`` which stored variables are not
    weights and why (an optimizer slot, a counter, ...). ``variables`` are read when asked for, in
    their stored type (bfloat16 as float32), under the names and in the shapes of Model Garden.
    """

    source: Path
    layout: str
    arch: str
    variables: Variables
    ignored: Mapping[str, str]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint at ``path``.

    That is a folder (of a checkpoint or a SavedModel), a prefix, one of its files, a tar(.gz) of
    one, a Keras HDF5 file or the state dict of the first PyTorch port; recognised by content.
    Raises CheckpointError, naming file and variable, if it is damaged, incomplete, unsafe or not a
    MoViNet; where a tensor has a checksum, it is checked when the tensor is read.
    """
    source = Path(path)
    tensors, names = open_tensors(source)
    return Checkpoint(
        source=source,
        layout=names.layout,
        arch=names.arch,
        variables=Variables(tensors, MappingProxyType(names.weights)),
        ignored=MappingProxyType(names.ignored),
    )
