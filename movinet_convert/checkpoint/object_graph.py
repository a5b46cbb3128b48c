"""The object graph in a checkpoint: the paths from TensorFlow's objects to their variables.

Field numbers are those of ``tensorflow/core/protobuf/trackable_object_graph.proto``.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from movinet_convert.checkpoint import protobuf as wire
from movinet_convert.errors import CheckpointError

ATTRIBUTE = "VARIABLE_VALUE"
KEY_SUFFIX = f"/.ATTRIBUTES/{ATTRIBUTE}"

# The graph of an A2 on TF-Hub (0.5 MB) has some 30,000 fields, not counting those of children.
_MAX_FIELDS = 1_000_000
_MAX_NAME_BYTES = 1024


def checkpoint_key(path: str) -> str:
    """The name under which a bundle stores the variable at an object path."""
    return path + KEY_SUFFIX


def full_names(graph: bytes, keys: Collection[str], where: str) -> dict[str, str]:
    """Checkpoint key -> full name of the variable in a TrackableObjectGraph, for ``keys``.

    Names of variables that the checkpoint does not have are dropped. Raises CheckpointError if the
    graph is damaged or has two names for one variable.
    """
    names: dict[str, str] = {}
    try:
        for key, name in _attributes(memoryview(graph)):
            if key in keys and names.setdefault(key, name) != name:
                raise CheckpointError(
                    f"{where}: its object graph names the variable {key!r} both {names[key]!r} "
                    f"and {name!r}; the checkpoint is damaged: get it again."
                )
    except wire.WireError as error:
        raise CheckpointError(f"{where}: its object graph is damaged: {error}.") from None
    return names


def _attributes(graph: wire.Buffer) -> Iterator[tuple[str, str]]:
    """(checkpoint key, full name) of every attribute.

    TrackableObjectGraph.nodes = 1: TrackableObject.attributes = 2: SerializedTensor {full_name = 2,
    checkpoint_key = 3}.
    """
    seen = itertools.count(1)

    def fields(message: wire.Buffer) -> Iterator[tuple[int, int | wire.Buffer]]:
        for number, value in wire.fields(message):
            if next(seen) > _MAX_FIELDS:
                raise wire.WireError("it has more objects than any MoViNet")
            yield number, value

    for number, node in fields(graph):
        if number != 1:
            continue
        for tag, attribute in fields(wire.as_bytes(node)):
            if tag == 2:
                names = {2: "", 3: ""}
                for kind, value in fields(wire.as_bytes(attribute)):
                    if kind in names:
                        names[kind] = _name(wire.as_bytes(value))
                yield names[3], names[2]


def _name(value: wire.Buffer) -> str:
    if len(value) > _MAX_NAME_BYTES:
        raise wire.WireError("a name is longer than any variable's")
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError:
        raise wire.WireError("a name is not UTF-8") from None


@dataclass
class _Node:
    number: int
    children: dict[str, _Node] = field(default_factory=dict)
    variable: str | None = None  # the path under which it is stored


def encode_object_graph(paths: Iterable[str], aliases: Mapping[str, str]) -> bytes:
    """A serialized TrackableObjectGraph with a variable at each of ``paths``.

    ``aliases`` maps additional paths to existing objects, such as ``{"model/_backbone":
    "model/layer_with_weights-0"}``.
    """
    nodes = [_Node(0)]
    for path in paths:
        _walk(nodes, path).variable = path
    for alias, path in aliases.items():
        parent, _, name = alias.rpartition("/")
        _walk(nodes, parent).children[name] = _walk(nodes, path)
    return b"".join(wire.message(1, _encode_node(node)) for node in nodes)


def _walk(nodes: list[_Node], path: str) -> _Node:
    """The node at ``path``; missing nodes along the path are created."""
    node = nodes[0]
    for name in path.split("/"):
        if name not in node.children:
            node.children[name] = _Node(len(nodes))
            nodes.append(node.children[name])
        node = node.children[name]
    return node


def _encode_node(node: _Node) -> bytes:
    """TrackableObject: children 1 {node_id 1, local_name 2}, attributes 2, has values 5.

    An attribute's full name (2) is the variable's name in TensorFlow 1; object-based restore does
    not use it.
    """
    body = b"".join(
        wire.message(1, wire.number(1, child.number) + wire.text(2, name))
        for name, child in node.children.items()
    )
    if node.variable is not None:
        key = checkpoint_key(node.variable)
        names = wire.text(1, ATTRIBUTE) + wire.text(2, node.variable) + wire.text(3, key)
        body += wire.message(2, names)
    return body + wire.message(5, wire.number(1, 1))
