"""Read MoViNet checkpoints in every layout in use, without TensorFlow.

``open_checkpoint(path)`` returns the weights under canonical names (``canonical``). ``layouts``
lists the supported layouts; ``structure`` infers the model's settings from names and shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from movinet_convert.checkpoint.canonical import GraphSettings
from movinet_convert.checkpoint.layouts import open_tensors
from movinet_convert.checkpoint.tensor_source import Array, TensorSource, Weight

__all__ = ["Checkpoint", "Variables", "open_checkpoint"]


class Variables(Mapping[str, Array]):
    """Canonical TF path -> array. Every lookup reads and verifies the array; nothing is cached.

    ``stored_name`` and ``shape`` read no data.
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
        """The variable's name in the file."""
        return self._weights[name].stored

    def shape(self, name: str) -> tuple[int, ...]:
        """The TF shape, without reading the data."""
        return self._weights[name].shape(self._source)


@dataclass(frozen=True)
class Checkpoint:
    """An open MoViNet checkpoint.

    ``layout`` is how it is stored: ``model-garden``, ``keras-tf-format``, ``training``,
    ``keras-saved-model``, ``tfhub-saved-model``, ``keras-h5``, ``keras-weights-h5``,
    ``pytorch-port`` or ``tflite``. ``arch`` is determined by its blocks; ``ignored`` maps stored
    variables that are not weights to the reason (an optimizer slot, a counter, ...). ``variables``
    are read on demand, in their stored dtype (bfloat16 and quantized ones as float32), with Model
    Garden's names and shapes.
    ``graph`` are the settings that a graph determines, None if the file has none; ``notes`` say
    what the file does not have any more of the trained network.
    """

    source: Path
    layout: str
    arch: str
    variables: Variables
    ignored: Mapping[str, str]
    graph: GraphSettings | None = None
    notes: tuple[str, ...] = ()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint at ``path``; the layout is detected from the content.

    ``path`` is a folder (of a checkpoint or a SavedModel), a prefix, one of its files, a tar(.gz)
    of one, a Keras HDF5 file, a state dict of the first PyTorch port or a TFLite file. Raises
    CheckpointError, naming file and variable, if it is damaged, incomplete, unsafe or not a
    MoViNet. Checksums are verified as tensors are read.
    """
    source = Path(path)
    tensors, names = open_tensors(source)
    variables = Variables(tensors, MappingProxyType(names.weights))
    ignored = MappingProxyType(names.ignored)
    return Checkpoint(
        source, names.layout, names.arch, variables, ignored, names.graph, names.notes
    )
