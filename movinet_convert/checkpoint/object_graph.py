"""The object graph of a checkpoint: by which way TensorFlow's objects find their variables.

Restoring walks the graph beside the objects of the program and takes the values of those that both
have (``tensorflow/core/protobuf/trackable_object_graph.proto``). Only the ways that lead to a
variable need to be in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from movinet_convert.checkpoint import wire_writer as wire

ATTRIBUTE = "VARIABLE_VALUE"


def checkpoint_key(path: str) -> str:
    """The name under which a bundle holds the variable at an object path."""
    return f"{path}/.ATTRIBUTES/{ATTRIBUTE}"


@dataclass
class _Node:
    number: int
    children: dict[str, _Node] = field(default_factory=dict)
    variable: str | None = None  # the path it is stored under


def encode_object_graph(paths: Iterable[str], aliases: Mapping[str, str]) -> bytes:
    """A serialized TrackableObjectGraph that leads to the variable at each of ``paths``.

    ``aliases`` are further ways to an object on those paths: ``{"model/_backbone":
    "model/layer_with_weights-0"}`` lets whoever looks for the first find the second.
    """
    nodes = [_Node(0)]
    for path in paths:
        _walk(nodes, path).variable = path
    for alias, path in aliases.items():
        parent, _, name = alias.rpartition("/")
        _walk(nodes, parent).children[name] = _walk(nodes, path)
    return b"".join(wire.message(1, _encode_node(node)) for node in nodes)


def _walk(nodes: list[_Node], path: str) -> _Node:
    """The node at ``path``, creating those that are missing on the way."""
    node = nodes[0]
    for name in path.split("/"):
        if name not in node.children:
            node.children[name] = _Node(len(nodes))
            nodes.append(node.children[name])
        node = node.children[name]
    return node


def _encode_node(node: _Node) -> bytes:
    """TrackableObject: children 1 {node_id 1, local_name 2}, attributes 2, has values 5.

    The full name (2 of an attribute) is what TensorFlow 1 would call the variable, and is for
    people alone when the graph is followed.
    """
    body = b"".join(
        wire.message(1, wire.number(1, child.number) + wire.text(2, name))
        for name, child in node.children.items()
    )
    if node.variable is not None:
        body += wire.message(
            2,
            wire.text(1, ATTRIBUTE)
            + wire.text(2, node.variable)
            + wire.text(3, checkpoint_key(node.variable)),
        )
    return body + wire.message(5, wire.number(1, 1))
