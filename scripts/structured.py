"""Structured mutations: rebuild a file from changed parts, with valid checksums.

Random bytes rarely pass a checksum, and never repeat a block a thousand times. These mutations
parse a file, change its parts as an attacker would, and recompute the checksums.
"""

from __future__ import annotations

import io
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from movinet_convert.checkpoint.object_graph import checkpoint_key
from movinet_convert.checkpoint.protobuf import message, number, text, varint
from movinet_convert.checkpoint.tensor_bundle import OBJECT_GRAPH_KEY, write_bundle
from scripts.hostile import EMPTY_TENSOR, TableBuilder, entry

if TYPE_CHECKING:
    import numpy as np

Bytes = Callable[[random.Random, bytes], bytes]
_MAX_NODE_BYTES = 128 << 10  # test the reader, not the mutation
Entries = list[tuple[bytes, bytes]]


def mutate_blocks(rng: random.Random, entries: Entries, mutate_bytes: Bytes) -> bytes:
    """A table of ``entries`` whose blocks repeat, overlap, grow or are reordered."""
    table = TableBuilder()
    handles = []
    while entries:
        count = rng.randint(1, len(entries))
        body = b"".join(entry(key, value) for key, value in entries[:count])
        if rng.randrange(4) == 0:
            body = _bodies(rng, body, mutate_bytes)
        handles.append(table.add(body))
        entries = entries[count:]
    for _ in range(rng.choice((0, 1, 1, 2))):
        at = rng.randrange(len(handles))
        offset, size = handles[at]
        kind = rng.randrange(5)
        if kind == 0:
            handles[at:at] = [handles[at]] * rng.choice((1, 2, 1000))
        elif kind == 1:
            rng.shuffle(handles)
        elif kind == 2:
            handles[at] = max(0, offset + rng.choice((-1, 1, 5, 1 << 40))), size
        elif kind == 3:
            handles[at] = offset, max(0, size + rng.choice((-4, -1, 1, 5, 1 << 40)))
        else:
            handles[at] = 0, sum(handles[-1])
    return table.finish(handles)


def _bodies(rng: random.Random, body: bytes, mutate_bytes: Bytes) -> bytes:
    """The entries of a block, damaged or with more entries appended."""
    count = rng.choice((1, 100, 10_000))
    more = (
        lambda: entry(b"\xfe" * 900, b"") + entry(b"\xff", b"", shared=899) * count,
        lambda: b"".join(entry(b"~%08d" % at, EMPTY_TENSOR) for at in range(count)),
        lambda: entry(b"~", bytes(count)),
        lambda: entry(b"~" * count, EMPTY_TENSOR),
        lambda: entry(b"~", message(2, message(2, b"") * count)),
        lambda: varint(rng.choice((1, 1 << 31, (1 << 64) - 1))) * 3,
    )
    return body + rng.choice(more)() if rng.randrange(2) else mutate_bytes(rng, body)


def keras_names(weights: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Canonical name -> the variable's Keras name in an object graph."""
    words = {"_stem": "stem", "_project": "project", "_expansion": "bneck/expansion"}
    words |= {"_classifier": "classifier"}
    names = {}
    for name in weights:
        container, part, *_, leaf = name.split("/")
        path = [container] if leaf == "scale" else [container, words[part], "conv3d"]
        names[name] = "/".join([*path, leaf])
    return names


def saved_model(weights: Mapping[str, np.ndarray], graph: list[bytes] | None = None) -> bytes:
    """A tar of a bundle with keys ``variables/N``, named by an object graph of ``graph`` nodes."""
    keys = [checkpoint_key(f"variables/{at}") for at in range(len(weights))]
    nodes = graph_nodes(weights) if graph is None else graph
    tensors: dict[str, np.ndarray | bytes] = dict(zip(keys, weights.values(), strict=True))
    with tempfile.TemporaryDirectory() as folder, io.BytesIO() as target:
        write_bundle(Path(folder), "variables", {**tensors, OBJECT_GRAPH_KEY: b"".join(nodes)})
        with tarfile.open(fileobj=target, mode="w") as tar:
            tar.add(folder, "variables")
        return target.getvalue()


def graph_nodes(weights: Mapping[str, np.ndarray]) -> list[bytes]:
    """One serialized object for each variable."""
    names = keras_names(weights).values()
    return [
        message(1, message(2, text(2, name) + text(3, checkpoint_key(f"variables/{at}"))))
        for at, name in enumerate(names)
    ]


def mutate_graph(
    rng: random.Random, weights: Mapping[str, np.ndarray], mutate_bytes: Bytes
) -> bytes:
    """A SavedModel whose object graph repeats, renames, nests or swaps its nodes."""
    nodes = graph_nodes(weights)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, other = rng.randrange(len(nodes)), rng.randrange(len(nodes))
        count = min(rng.choice((1, 100, 10_000)), _MAX_NODE_BYTES // (len(nodes[at]) or 1))
        kind = rng.randrange(7)
        if kind == 0:
            nodes[at] = mutate_bytes(rng, nodes[at])
        elif kind == 1:
            nodes[at], nodes[other] = nodes[other], nodes[at]
        elif kind == 2:
            nodes[at] = nodes[at] * count
        elif kind == 3:
            nodes[at] = nodes[other]
        elif kind == 4:
            nodes[at] = nodes[at] + message(1, message(2, number(9, 1) * count))
        elif kind == 5:
            nodes[at] = nodes[at] + message(1, message(1, number(1, at) + text(2, "x")) * count)
        else:
            nodes[at] = message(1, nodes[at] * count)
    return saved_model(weights, nodes)


_OPCODES = (
    b"}", b"]", b")", b"(", b"R", b"b", b"0", b"t", b"u", b"h\1", b"h\2", b"q\1", b"N", b"K\x40",
    b"\x85R", b"cbuiltins\nbytearray\n", b"cbuiltins\nbytearray\nJ\0\0\0\x10\x85R",
    b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
)  # fmt: skip


def mutate_pickle(rng: random.Random, data: bytes, mutate_bytes: Bytes) -> bytes:
    """A state dict whose pickle has other opcodes, in a valid zip."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as changed:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = _opcodes(rng, content, mutate_bytes)
            changed.writestr(name, content)
    return target.getvalue()


def _opcodes(rng: random.Random, pickle: bytes, mutate_bytes: Bytes) -> bytes:
    if rng.randrange(3) == 0:
        return mutate_bytes(rng, pickle)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(2, len(pickle))
        pickle = pickle[:at] + rng.choice(_OPCODES) * rng.choice((1, 1, 2, 100)) + pickle[at:]
    return pickle
