"""The object graph that TensorFlow stores with every checkpoint, as far as names are concerned.

Field numbers are those of ``tensorflow/core/protobuf/trackable_object_graph.proto``.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from movinet_convert.checkpoint import protowire as wire
from movinet_convert.errors import CheckpointError

# The graph of an A2 on TF-Hub, 0.5 MB, has some 30,000 fields outside of its children.
_MAX_FIELDS = 1_000_000
_MAX_NAME_BYTES = 1024


def full_names(graph: bytes, keys: Collection[str], where: str) -> dict[str, str]:
    """Checkpoint key -> the variable's own name in a TrackableObjectGraph, of those in ``keys``.

    A graph may name anything; only what the checkpoint has is kept. Raises CheckpointError where
    the graph is damaged or has two names for one variable.
    """
    names: dict[str, str] = {}
    try:
        for key, name in _attributes(graph):
            if key in keys and names.setdefault(key, name) != name:
                raise CheckpointError(
                    f"{where}: its object graph calls the variable {key!r} both {names[key]!r} "
                    f"and {name!r}; the checkpoint is damaged: get it again."
                )
    except wire.WireError as error:
        raise CheckpointError(f"{where}: its object graph is damaged: {error}.") from None
    return names


def _attributes(graph: bytes) -> Iterator[tuple[str, str]]:
    """(checkpoint key, full name) of every attribute.

    TrackableObjectGraph.nodes = 1: TrackableObject.attributes = 2: SerializedTensor {full_name = 2,
    checkpoint_key = 3}.
    """
    seen = itertools.count(1)
    for number, node in _fields(memoryview(graph), seen):
        if number != 1:
            continue
        for field, attribute in _fields(wire.as_bytes(node), seen):
            if field == 2:
                yield _names_in(wire.as_bytes(attribute), seen)


def _fields(data: wire.Buffer, seen: Iterator[int]) -> Iterator[tuple[int, int | wire.Buffer]]:
    """The fields of one message; ``seen`` counts those of all messages of a graph."""
    for number, _, value in wire.fields(data):
        if next(seen) > _MAX_FIELDS:
            raise wire.WireError("it has more objects than any MoViNet")
        yield number, value


def _names_in(attribute: wire.Buffer, seen: Iterator[int]) -> tuple[str, str]:
    names = {2: "", 3: ""}
    for number, value in _fields(attribute, seen):
        if number in names:
            if len(wire.as_bytes(value)) > _MAX_NAME_BYTES:
                raise wire.WireError("a name is longer than any variable's")
            names[number] = wire.as_text(value)
    return names[3], names[2]
