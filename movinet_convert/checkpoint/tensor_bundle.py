"""Tensor bundles, read and written: ``PREFIX.index`` and ``PREFIX.data-NNNNN-of-MMMMM``.

The index is a table from tensor name to a ``BundleEntryProto`` (dtype, shape, shard, offset, size,
checksum); the empty name maps to a ``BundleHeaderProto``. Field numbers are those of
``tensorflow/core/protobuf/tensor_bundle.proto`` and ``framework/{types,tensor_shape}.proto``.
Every entry is checked against the shards on disk before memory is allocated for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.checkpoint import protobuf as wire
from movinet_convert.checkpoint.random_access import ByteRange, Bytes
from movinet_convert.checkpoint.sstable import crc32c, encode_table, mask, masked_crc32c, read_table
from movinet_convert.checkpoint.tensor_source import MAX_RANK, Array, plausible
from movinet_convert.errors import CheckpointError

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_BUNDLE_VERSION = 1
# The object graph of TF-Hub's A2 SavedModel has 0.5 MB, that of an A5 three times as much.
_MAX_STRING_BYTES = 16 << 20

# tensorflow/core/framework/types.proto; bfloat16 is read as uint16 and widened.
_STRING, _BFLOAT16 = 7, 14
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("?"),
    _BFLOAT16: np.dtype("<u2"),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}
_DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items() if number != _BFLOAT16}


def index_name(prefix: str) -> str:
    return f"{prefix}.index"


def data_name(prefix: str, shard: int = 0, shards: int = 1) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the index describes it."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int

    @property
    def is_string(self) -> bool:
        return self.dtype == _STRING


class BundleReader:
    """Reads the tensors of one bundle by name, each checked against its crc32c.

    ``open_file`` opens a file of the checkpoint by name (``ckpt-1.index``); ``prefix`` is
    ``ckpt-1``. Opening reads the index and checks that every tensor is within its shard.
    """

    def __init__(self, open_file: Callable[[str], ByteRange], prefix: str) -> None:
        index = open_file(index_name(prefix))
        self.where = index.name
        shards, self.entries = read_index(index)
        self._shards = {
            shard: open_file(data_name(prefix, shard, shards))
            for shard in sorted({entry.shard for entry in self.entries.values()})
        }
        self._check_places()

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored tensor but the object graph."""
        return tuple(name for name in self.entries if name != OBJECT_GRAPH_KEY)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def read(self, name: str) -> Array:
        """The tensor called ``name``, in its stored dtype (bfloat16 widened to float32)."""
        entry = self.entries[name]
        if entry.is_string:
            raise _bad(self.where, name, "is a string; expected an array")
        data = self._bytes(entry)
        if masked_crc32c(data) != entry.crc:
            raise self._corrupt(name, entry)
        array = data.view(_DTYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            wide = np.empty(entry.shape, np.uint32)
            np.left_shift(array, 16, out=wide, dtype=np.uint32)
            return wide.view(np.float32)
        return array

    def read_string(self, name: str) -> bytes:
        """The string stored as ``name``, such as the serialized object graph.

        A string tensor is its lengths as varints, a masked crc32c of the lengths as fixed-width
        integers, then the bytes (``WriteStringTensor`` in ``tensor_bundle.cc``).
        """
        entry = self.entries[name]
        if not entry.is_string or math.prod(entry.shape) != 1:
            raise _bad(self.where, name, "is not a single string, as expected")
        if entry.size > _MAX_STRING_BYTES:
            raise _bad(self.where, name, f"has {entry.size:,} bytes, more than any MoViNet needs")
        data = self._bytes(entry)
        try:
            length, position = wire.read_varint(data[:10].tobytes(), 0)
        except wire.WireError:
            raise self._corrupt(name, entry) from None
        stored = data[position : position + 4].tobytes()
        text = data[position + 4 :].tobytes()
        if len(text) != length or _string_checksums(text) != (stored, entry.crc):
            raise self._corrupt(name, entry)
        return text

    def _bytes(self, entry: Entry) -> Bytes:
        return self._shards[entry.shard].read(entry.offset, entry.size)

    def _corrupt(self, name: str, entry: Entry) -> CheckpointError:
        return CheckpointError(
            f"{self._shards[entry.shard].name}: the checksum of variable {name!r} does not match; "
            "the file is damaged: get it again."
        )

    def _check_places(self) -> None:
        """Check that every tensor is within its shard, and that no two overlap."""
        for name, entry in self.entries.items():
            shard = self._shards[entry.shard]
            if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > shard.size:
                raise CheckpointError(
                    f"{shard.name}: variable {name!r} should be {entry.size:,} bytes at offset "
                    f"{entry.offset:,}, but the file has {shard.size:,} bytes; it is truncated or "
                    "damaged: get it again."
                )
        ordered = sorted(self.entries.items(), key=lambda i: (i[1].shard, i[1].offset, i[1].size))
        for (before, first), (after, second) in itertools.pairwise(ordered):
            if first.shard == second.shard and first.offset + first.size > second.offset:
                raise _bad(self.where, after, f"overlaps variable {before!r}")


def read_index(index: ByteRange) -> tuple[int, dict[str, Entry]]:
    """The number of shards and the entry of every tensor; CheckpointError if they are invalid."""
    table = read_table(index)
    if not table or table[0][0] != b"":
        raise CheckpointError(
            f"{index.name} has no bundle header; it is a table, but not the index of a "
            "TensorFlow checkpoint."
        )
    shards = _shard_count(table[0][1], index.name)
    entries = dict(_entry(key, value, shards, index.name) for key, value in table[1:])
    if len(entries) != len(table) - 1:
        raise CheckpointError(
            f"{index.name} is damaged: two names differ only in bytes that are not UTF-8."
        )
    return shards, entries


def _shard_count(header: bytes, where: str) -> int:
    """BundleHeaderProto: num_shards = 1, endianness = 2, version = 3 {min_consumer = 2}."""
    try:
        fields = dict(wire.fields(header))
        shards, big_endian = (wire.as_int(fields.get(number, 0)) for number in (1, 2))
        version = dict(wire.fields(wire.as_bytes(fields.get(3, b""))))
        min_consumer = wire.as_int(version.get(2, 0))
    except wire.WireError as error:
        raise CheckpointError(f"{where}: its header is damaged: {error}.") from None
    if big_endian:
        raise CheckpointError(
            f"{where} was written on a big-endian machine, which is not supported; save it again "
            "on a little-endian one."
        )
    if min_consumer > _BUNDLE_VERSION:
        raise CheckpointError(
            f"{where} needs bundle version {min_consumer}; this reader knows version "
            f"{_BUNDLE_VERSION}."
        )
    if not 1 <= shards <= 99_999:
        raise CheckpointError(f"{where} claims {shards} data files; expected at least one.")
    return shards


def _entry(key: bytes, value: bytes, shards: int, where: str) -> tuple[str, Entry]:
    """BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc32c 6, slices 7."""
    name = key.decode(errors="backslashreplace")
    try:
        fields = dict(wire.fields(value))
        dtype, shard, offset, size, crc = (
            wire.signed64(wire.as_int(fields.get(number, 0))) for number in (1, 3, 4, 5, 6)
        )
        entry = Entry(dtype, _shape(wire.as_bytes(fields.get(2, b""))), shard, offset, size, crc)
    except wire.WireError as error:
        raise _bad(where, name, f"has a damaged entry ({error})") from None
    if 7 in fields:
        problem = "is stored in slices (a partitioned variable), which MoViNets do not have"
    elif dtype != _STRING and dtype not in _DTYPES:
        problem = f"has the unknown data type {dtype}"
    elif not plausible(entry.shape):
        problem = f"has the impossible shape {entry.shape}"
    elif not 0 <= shard < shards:
        problem = f"refers to shard {shard} of {shards}"
    elif dtype != _STRING and size != (wanted := math.prod(entry.shape) * _DTYPES[dtype].itemsize):
        problem = f"has shape {entry.shape}, which is {wanted:,} bytes, but claims {size:,} bytes"
    else:
        return name, entry
    raise _bad(where, name, problem)


def _shape(data: wire.Buffer) -> tuple[int, ...]:
    """TensorShapeProto: dim = 2 {size = 1}, unknown_rank = 3."""
    dims: list[int] = []
    for number, value in wire.fields(data):
        if number == 2:
            if len(dims) == MAX_RANK:
                raise wire.WireError(f"a shape has more than {MAX_RANK} axes")
            size = dict(wire.fields(wire.as_bytes(value))).get(1, 0)
            dims.append(wire.signed64(wire.as_int(size)))
        elif number == 3 and wire.as_int(value):
            dims.append(-1)
    return tuple(dims)


def _bad(where: str, name: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: variable {name!r} {problem}.")


def _string_checksums(text: bytes) -> tuple[bytes, int]:
    """The stored checksum of a string's length, and that of the whole entry."""
    crc = crc32c(len(text).to_bytes(4 if len(text) < 1 << 32 else 8, "little"))
    stored = mask(crc).to_bytes(4, "little")
    return stored, mask(crc32c(text, crc32c(stored, crc)))


# --- writing --------------------------------------------------------------------------------------


def write_bundle(folder: Path, prefix: str, tensors: Mapping[str, Array | bytes]) -> None:
    """Write ``tensors`` by name into ``folder``; bytes are stored as a scalar string.

    The files are those of ``tf.train.Checkpoint`` (``tensor_bundle.cc``). The same
    tensors give the same bytes: data are sorted by name.
    """
    header = wire.number(1, 1) + wire.message(3, wire.number(1, _BUNDLE_VERSION))
    entries = [(b"", header)]
    offset = 0
    with (folder / data_name(prefix)).open("wb") as data:
        for name in sorted(tensors, key=str.encode):
            content, entry = _encode(tensors[name], offset)
            data.write(content)
            entries.append((name.encode(), entry))
            offset += len(content)
    (folder / index_name(prefix)).write_bytes(encode_table(entries))


def _encode(tensor: Array | bytes, offset: int) -> tuple[bytes, bytes]:
    """The bytes of a tensor and the BundleEntryProto that describes them."""
    shape: tuple[int, ...] = ()
    if isinstance(tensor, bytes):
        stored, crc = _string_checksums(tensor)
        content, dtype = wire.varint(len(tensor)) + stored + tensor, _STRING
    else:
        little = tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False)
        content, dtype, shape = little.tobytes(), _DTYPE_NUMBERS[little.dtype], tensor.shape
        crc = masked_crc32c(content)
    dims = b"".join(wire.message(2, wire.number(1, n)) for n in shape)
    return content, (
        wire.number(1, dtype)
        + wire.message(2, dims)
        + wire.number(4, offset)
        + wire.number(5, len(content))
        + wire.fixed32(6, crc)
    )
