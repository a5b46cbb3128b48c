"""The object graph that TensorFlow stores with every checkpoint, as far as names are concerned.

Field numbers are those of ``tensorflow/core/protobuf/trackable_object_graph.proto``.
"""

from __future__ import annotations

from movinet_convert.checkpoint import protowire as wire
from movinet_convert.errors import CheckpointError


def full_names(graph: bytes, where: str) -> dict[str, str]:
    """Checkpoint key -> the variable's own name, of every variable in a TrackableObjectGraph."""
    names: dict[str, str] = {}
    try:
        for number, _, node in wire.fields(graph):
            if number == 1:
                names.update(_attributes(wire.as_bytes(node)))
    except wire.WireError as error:
        raise CheckpointError(f"{where}: its object graph is damaged: {error}.") from None
    return names


def _attributes(node: bytes) -> dict[str, str]:
    """TrackableObject.attributes = 2: SerializedTensor {full_name = 2, checkpoint_key = 3}."""
    names: dict[str, str] = {}
    for number, _, attribute in wire.fields(node):
        if number != 2:
            continue
        found = {n: v for n, _, v in wire.fields(wire.as_bytes(attribute))}
        names[wire.as_text(found.get(3, b""))] = wire.as_text(found.get(2, b""))
    return names
