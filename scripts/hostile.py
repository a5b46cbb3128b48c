"""Hostile checkpoints that are small on disk but exhaust memory or time in a naive reader.

``INDEXES`` are tables for ``ckpt-1.index``, ``GRAPHS`` object graphs for its data file, each a
function of the size in bytes.

    python scripts/hostile.py --mib 8    # measure the memory and time of each

Exits with 1 if one is accepted, takes more than its size plus ``BAR`` bytes of memory, or more than
a second per MiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.protobuf import fixed32, message, number, text, varint
from movinet_convert.checkpoint.sstable import FOOTER_BYTES, MAGIC, masked_crc32c
from movinet_convert.checkpoint.tensor_bundle import OBJECT_GRAPH_KEY, data_name, write_bundle
from movinet_convert.errors import CheckpointError

BAR = 64 << 20
Handle = tuple[int, int]  # offset and size of a block
HEADER = number(1, 1) + message(3, number(1, 1))
EMPTY_TENSOR = number(1, 1) + message(2, message(2, b"")) + fixed32(6, 1)  # of shape (0,)


class TableBuilder:
    """Builds a table block by block, with valid checksums for any content."""

    def __init__(self) -> None:
        self.data = bytearray()

    def add(self, body: bytes) -> Handle:
        """Append the entries in ``body`` as a block with a single restart."""
        content = body + bytes(4) + (1).to_bytes(4, "little")
        handle = len(self.data), len(content)
        stored = content + b"\0"
        self.data += stored + masked_crc32c(stored).to_bytes(4, "little")
        return handle

    def finish(self, handles: Iterable[Handle]) -> bytes:
        """The file whose block index is exactly ``handles``, duplicates included."""
        body = b"".join(
            entry(at.to_bytes(4, "big"), varint(offset) + varint(size))
            for at, (offset, size) in enumerate(handles)
        )
        offset, size = self.add(body)
        handle = varint(offset) + varint(size)
        footer = (handle + handle).ljust(FOOTER_BYTES - 8, b"\0")
        return bytes(self.data) + footer + MAGIC.to_bytes(8, "little")


def entry(key: bytes, value: bytes, shared: int = 0) -> bytes:
    """An entry of a block: ``key`` follows ``shared`` bytes of the previous key."""
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def one_block(body: bytes) -> bytes:
    table = TableBuilder()
    return table.finish([table.add(entry(b"", HEADER) + body)])


def repeated_handles(size: int) -> bytes:
    """One block of entries that the block index references thousands of times."""
    table = TableBuilder()
    block = table.add(_numbered(size // 4, EMPTY_TENSOR))
    return table.finish([block] * (size * 3 // 4 // 15))


def overlapping_blocks(size: int) -> bytes:
    """The same bytes in many overlapping blocks."""
    table = TableBuilder()
    inner = table.add(_numbered(size // 4, EMPTY_TENSOR))
    outer = table.add(bytes(table.data))
    return table.finish([(0, inner[1]), *[outer] * (size // 2 // 15)])


def empty_blocks(size: int) -> bytes:
    table = TableBuilder()
    return table.finish([table.add(b"") for _ in range(size // 27)])


def growing_keys(size: int) -> bytes:
    """Prefix compression: seven bytes on disk expand to a key of 1,000."""
    first = entry(b"\1" * 1000, EMPTY_TENSOR)
    step = b"".join(
        entry(at.to_bytes(3, "big"), b"", shared=997)
        for at in range(1 << 17, (1 << 17) + size // 8)
    )
    return one_block(first + step)


def wide_names(size: int) -> bytes:
    """ASCII names with one four-byte character, so that Python stores four bytes per character."""
    body = (
        entry(f"{at:08}".encode() + b"a" * 990 + "🎬".encode(), EMPTY_TENSOR)
        for at in range(size // 1020)
    )
    return one_block(b"".join(body))


def allowed_names(size: int) -> bytes:
    """As many entries with as long names as allowed, at four bytes per character in Python.

    Nothing is refused before the layout is detected, so this is the peak memory of the reader.
    """
    count = min(size // 132, 30_000)
    body = (
        entry(f"{at:08}".encode() + b"a" * 100 + "🎬".encode(), EMPTY_TENSOR) for at in range(count)
    )
    return one_block(b"".join(body))


def many_entries(size: int) -> bytes:
    """As many empty tensors as fit."""
    return one_block(_numbered(size, EMPTY_TENSOR))


def giant_value(size: int) -> bytes:
    return one_block(entry(b"a", bytes(size)))


def giant_key(size: int) -> bytes:
    return one_block(entry(b"a" * size, EMPTY_TENSOR))


def many_axes(size: int) -> bytes:
    """Shapes with as many axes as fit, two bytes each."""
    value = number(1, 1) + message(2, message(2, b"") * 400)
    return one_block(_numbered(size, value))


def long_varints(size: int) -> bytes:
    """Zeros encoded in ten bytes."""
    value = (b"\x20" + b"\x80" * 9 + b"\0") * 90
    return one_block(_numbered(size, EMPTY_TENSOR + value))


def _numbered(size: int, value: bytes) -> bytes:
    each = len(entry(b"\1\0\0\0", value))
    return b"".join(
        entry(at.to_bytes(4, "big"), value) for at in range(1 << 24, (1 << 24) + size // each)
    )


INDEXES: Mapping[str, Callable[[int], bytes]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            repeated_handles,
            overlapping_blocks,
            empty_blocks,
            growing_keys,
            wide_names,
            allowed_names,
            many_entries,
            giant_value,
            giant_key,
            many_axes,
            long_varints,
        )
    }
)


def empty_nodes(size: int) -> bytes:
    return message(1, b"") * (size // 2)


def empty_attributes(size: int) -> bytes:
    return message(1, message(2, b"") * (size // 2))


def odd_fields(size: int) -> bytes:
    """One attribute in which every field has a different number."""
    fields = b"".join(varint(at << 3) + b"\0" for at in range(16, 16 + size // 4))
    return message(1, message(2, fields))


def unknown_keys(size: int) -> bytes:
    """Names for millions of variables that the checkpoint does not have."""
    return b"".join(
        message(1, message(2, text(2, f"n{at}") + text(3, f"k{at}"))) for at in range(size // 26)
    )


def giant_name(size: int) -> bytes:
    return message(1, message(2, text(2, "n" * size) + text(3, "variables/0")))


def cycles(size: int) -> bytes:
    """Objects that are their own children."""
    node = message(1, message(1, number(1, 1) + text(2, "again")) * 100)
    return node * (size // len(node))


def nested_messages(size: int) -> bytes:
    """Messages in messages, each a few bytes shorter than the one around it."""
    heads: list[bytes] = []
    length = size
    while length > 16:
        head = varint(1 << 3 | 2) + varint(length - 6)
        heads.append(head)
        length -= 6
        if len(heads) > 100_000:
            break
    return b"".join(heads).ljust(size, b"\0")


GRAPHS: Mapping[str, Callable[[int], bytes]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            empty_nodes,
            empty_attributes,
            odd_fields,
            unknown_keys,
            giant_name,
            cycles,
            nested_messages,
        )
    }
)


def write_index(folder: Path, table: bytes) -> Path:
    """A checkpoint whose index is ``table``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ckpt-1.index").write_bytes(table)
    (folder / data_name("ckpt-1")).write_bytes(bytes(8))
    return folder


def write_graph(folder: Path, graph: bytes) -> Path:
    """A checkpoint of one listed variable and the object graph ``graph``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    key = "variables/0/.ATTRIBUTES/VARIABLE_VALUE"
    write_bundle(folder, "ckpt-1", {key: np.zeros(1, np.float32), OBJECT_GRAPH_KEY: graph})
    return folder


@dataclass(frozen=True)
class Cost:
    """The cost of reading a checkpoint; ``error`` is None if it was accepted."""

    file_bytes: int
    memory_bytes: int
    seconds: float
    error: str | None

    @property
    def is_bounded(self) -> bool:
        slow = self.seconds > 1 + self.file_bytes / (1 << 20)
        return self.error is not None and self.memory_bytes <= self.file_bytes + BAR and not slow


def measure(write: Callable[[Path, bytes], Path], make: Callable[[int], bytes], size: int) -> Cost:
    """Write a checkpoint and open it, each in a forked process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        _in_a_fork(lambda: str(write(path, make(size))))
        return Cost(**json.loads(_in_a_fork(lambda: json.dumps(_open(path)))))


def _open(path: Path) -> dict[str, object]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    message = None
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        message = str(error)
    return {
        "file_bytes": sum(file.stat().st_size for file in path.iterdir()),
        "memory_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "seconds": time.process_time() - start,
        "error": message,
    }


def _in_a_fork(work: Callable[[], str]) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work().encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer:
        raise RuntimeError("the process that read a hostile checkpoint died")
    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mib", type=float, default=8, help="size of the files")
    size = int(parser.parse_args().mib * (1 << 20))
    bounded = True
    for kinds, write in ((INDEXES, write_index), (GRAPHS, write_graph)):
        for name, make in kinds.items():
            cost = measure(write, make, size)
            bounded &= cost.is_bounded
            print(
                f"{name:20} {cost.file_bytes / (1 << 20):6.1f} MiB: {cost.memory_bytes >> 20} MiB "
                f"of memory, {cost.seconds:.2f} s, {(cost.error or 'accepted')[-80:]}",
                flush=True,
            )
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())
