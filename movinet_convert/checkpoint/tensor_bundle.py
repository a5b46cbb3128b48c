"""Tensor bundles, read and written: ``PREFIX.index`` and ``PREFIX.data-NNNNN-of-MMMMM``.

The index is a table from tensor name to a ``BundleEntryProto`` (dtype, shape, shard, offset, size,
checksum); the empty name holds a ``BundleHeaderProto``. Field numbers are those of
``tensorflow/core/protobuf/tensor_bundle.proto`` and ``framework/{types,tensor_shape}.proto``.
Everything an entry claims is checked against the shards on disk before a byte is allocated for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from movinet_convert.checkpoint import protobuf as wire
from movinet_convert.checkpoint.random_access import ByteRange, Bytes
from movinet_convert.checkpoint.sstable import crc32c, encode_table, mask, masked_crc32c, read_table
from movinet_convert.checkpoint.tensor_source import MAX_RANK, Array, plausible
from movinet_convert.errors import CheckpointError

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_STRING, _BFLOAT16 = 7, 14
_BUNDLE_VERSION = 1
# The object graph of the SavedModel of an A2 on TF-Hub has 0.5 MB, that of an A5 three times that.
_MAX_STRING_BYTES = 16 << 20

# tensorflow/core/framework/types.proto; bfloat16 is read as uint16 and widened.
_NUMPY_TYPES: Mapping[int, str] = MappingProxyType(
    {
        1: "<f4",
        2: "<f8",
        3: "<i4",
        4: "u1",
        5: "<i2",
        6: "i1",
        9: "<i8",
        10: "?",
        _BFLOAT16: "<u2",
        17: "<u2",
        19: "<f2",
        22: "<u4",
        23: "<u8",
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor is and what it is, as the index says."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    sliced: bool

    @property
    def is_string(self) -> bool:
        return self.dtype == _STRING


class BundleReader:
    """Reads the tensors of one bundle by name, each checked against its crc32c.

    ``open_file`` opens a file of the checkpoint by name (``ckpt-1.index``); ``prefix`` is
    ``ckpt-1``. Opening reads the index and checks that every tensor lies within its shard.
    """

    def __init__(self, open_file: Callable[[str], ByteRange], prefix: str) -> None:
        index = open_file(f"{prefix}.index")
        self.index_name = index.name
        table = read_table(index)
        if not table or table[0][0] != b"":
            raise CheckpointError(
                f"{self.index_name} has no bundle header; it is a table, but not the index of a "
                "TensorFlow checkpoint."
            )
        shard_count = self._shard_count(table[0][1])
        self.entries: dict[str, Entry] = dict(self._entry(key, value) for key, value in table[1:])
        if len(self.entries) != len(table) - 1:
            raise CheckpointError(
                f"{self.index_name} is damaged: two names differ in odd bytes alone."
            )
        used = {self._shard_of(name, e, shard_count) for name, e in self.entries.items()}
        self._shards = {
            shard: open_file(f"{prefix}.data-{shard:05d}-of-{shard_count:05d}")
            for shard in sorted(used)
        }
        for name, entry in self.entries.items():
            self._check_place(name, entry)
        self._check_overlaps()

    @property
    def where(self) -> str:
        return self.index_name

    @property
    def names(self) -> tuple[str, ...]:
        """Every stored tensor but the object graph."""
        return tuple(name for name in self.entries if name != OBJECT_GRAPH_KEY)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def read(self, name: str) -> Array:
        """The tensor called ``name``, in its stored type (bfloat16 widened to float32)."""
        entry = self.entries[name]
        if entry.is_string:
            raise self._bad(name, "holds text where an array was expected")
        data = self._bytes(entry)
        if mask(crc32c(data)) != entry.crc:
            raise self._corrupt(name, entry)
        array = data.view(_NUMPY_TYPES[entry.dtype]).reshape(entry.shape)
        if entry.dtype == _BFLOAT16:
            wide = np.empty(entry.shape, np.uint32)
            np.left_shift(array, 16, out=wide, dtype=np.uint32)
            return wide.view(np.float32)
        return array

    def read_string(self, name: str) -> bytes:
        """The single string stored as ``name``, such as the serialized object graph.

        A string tensor is its lengths as varints, a masked crc32c of the lengths as fixed-width
        integers, then the bytes (``WriteStringTensor`` in ``tensor_bundle.cc``).
        """
        entry = self.entries[name]
        count = math.prod(entry.shape)
        if not entry.is_string or count != 1:
            raise self._bad(name, "was expected to hold one string")
        if entry.size > _MAX_STRING_BYTES:
            raise self._bad(name, f"is {entry.size:,} bytes long, more than any MoViNet needs")
        data = self._bytes(entry)
        try:
            length, position = wire.read_varint(data[:10].tobytes(), 0)
        except wire.WireError:
            raise self._corrupt(name, entry) from None
        fixed = length.to_bytes(4 if length < 1 << 32 else 8, "little")
        stored = data[position : position + 4].tobytes()
        text = data[position + 4 :].tobytes()
        crc = crc32c(fixed)
        if mask(crc) != int.from_bytes(stored, "little") or len(text) != length:
            raise self._corrupt(name, entry)
        if mask(crc32c(text, crc32c(stored, crc))) != entry.crc:
            raise self._corrupt(name, entry)
        return text

    def _bytes(self, entry: Entry) -> Bytes:
        return self._shards[entry.shard].read(entry.offset, entry.size)

    def _bad(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.index_name}: variable {name!r} {what}.")

    def _corrupt(self, name: str, entry: Entry) -> CheckpointError:
        return CheckpointError(
            f"{self._shards[entry.shard].name}: the checksum of variable {name!r} does not match; "
            "the file is damaged: get it again."
        )

    def _shard_count(self, header: bytes) -> int:
        """BundleHeaderProto: num_shards = 1, endianness = 2, version = 3."""
        shards, big_endian, min_consumer = 0, False, 0
        try:
            for number, _, value in wire.fields(header):
                if number == 1:
                    shards = wire.as_int(value)
                elif number == 2:
                    big_endian = wire.as_int(value) != 0
                elif number == 3:
                    for field, _, content in wire.fields(wire.as_bytes(value)):
                        if field == 2:
                            min_consumer = wire.as_int(content)
        except wire.WireError as error:
            raise CheckpointError(f"{self.index_name}: its header is damaged: {error}.") from None
        if big_endian:
            raise CheckpointError(
                f"{self.index_name} was written on a big-endian machine, which is not supported; "
                "save it again on a little-endian one."
            )
        if min_consumer > _BUNDLE_VERSION:
            raise CheckpointError(
                f"{self.index_name} needs bundle version {min_consumer}; this reader knows "
                f"version {_BUNDLE_VERSION}."
            )
        if not 1 <= shards <= 99_999:
            raise CheckpointError(
                f"{self.index_name} claims {shards} data files; at least one was expected."
            )
        return shards

    def _entry(self, key: bytes, value: bytes) -> tuple[str, Entry]:
        """BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc32c 6, slices 7."""
        name = key.decode(errors="backslashreplace")
        numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
        shape: tuple[int, ...] = ()
        sliced = False
        try:
            for number, _, content in wire.fields(value):
                if number == 2:
                    shape = _shape(wire.as_bytes(content))
                elif number == 7:
                    sliced = True
                elif number in numbers:
                    numbers[number] = wire.signed64(wire.as_int(content))
        except wire.WireError as error:
            raise self._bad(name, f"has a damaged entry ({error})") from None
        entry = Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], sliced)
        self._check_claims(name, entry)
        return name, entry

    def _shard_of(self, name: str, entry: Entry, shard_count: int) -> int:
        if not 0 <= entry.shard < shard_count:
            raise self._bad(name, f"is said to be in shard {entry.shard} of {shard_count}")
        return entry.shard

    def _check_claims(self, name: str, entry: Entry) -> None:
        """What an entry says must make sense in itself, before the next one is held."""
        if entry.sliced:
            raise self._bad(
                name, "is stored in slices (a partitioned variable), which MoViNets do not have"
            )
        if not entry.is_string and entry.dtype not in _NUMPY_TYPES:
            raise self._bad(name, f"has the unknown data type {entry.dtype}")
        if not plausible(entry.shape):
            raise self._bad(name, f"has the impossible shape {entry.shape}")
        if not entry.is_string:
            wanted = math.prod(entry.shape) * np.dtype(_NUMPY_TYPES[entry.dtype]).itemsize
            if wanted != entry.size:
                raise self._bad(
                    name,
                    f"has shape {entry.shape}, which is {wanted:,} bytes, but claims "
                    f"{entry.size:,} bytes",
                )

    def _check_place(self, name: str, entry: Entry) -> None:
        shard = self._shards[entry.shard]
        if entry.offset < 0 or entry.size < 0 or entry.offset + entry.size > shard.size:
            raise CheckpointError(
                f"{shard.name}: variable {name!r} should be {entry.size:,} bytes at offset "
                f"{entry.offset:,}, but the file has {shard.size:,} bytes; it is cut short or "
                "damaged: get it again."
            )

    def _check_overlaps(self) -> None:
        """Each byte belongs to one tensor, so that all together are no larger than their files."""
        ordered = sorted(self.entries.items(), key=lambda item: _place(item[1]))
        for (before, first), (after, second) in itertools.pairwise(ordered):
            if first.shard == second.shard and first.offset + first.size > second.offset:
                raise self._bad(after, f"lies over variable {before!r}; the index is damaged")


def _shape(data: wire.Buffer) -> tuple[int, ...]:
    """TensorShapeProto: dim = 2 {size = 1}, unknown_rank = 3."""
    dims: list[int] = []
    for number, _, value in wire.fields(data):
        if number == 2:
            if len(dims) == MAX_RANK:
                raise wire.WireError(f"a shape has more than {MAX_RANK} axes")
            size = 0
            for field, _, content in wire.fields(wire.as_bytes(value)):
                if field == 1:
                    size = wire.signed64(wire.as_int(content))
            dims.append(size)
        elif number == 3 and wire.as_int(value):
            dims.append(-1)
    return tuple(dims)


def _place(entry: Entry) -> tuple[int, int, int]:
    return entry.shard, entry.offset, entry.size


_TYPES = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9}
_PRODUCER = 1  # the bundle format's version


def index_name(prefix: str) -> str:
    return f"{prefix}.index"


def data_name(prefix: str) -> str:
    return f"{prefix}.data-00000-of-00001"


def write_bundle(folder: Path, prefix: str, tensors: Mapping[str, Array | bytes]) -> None:
    """Write ``tensors`` by name into ``folder``; bytes are stored as a scalar string.

    Equal tensors give equal files: the data lie in the order of their names.
    """
    header = wire.number(1, 1) + wire.message(3, wire.number(1, _PRODUCER))
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
    if isinstance(tensor, bytes):
        content, crc = _encode_string(tensor)
        return content, _entry(_STRING, (), offset, len(content), crc)
    little = tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False)
    content = little.tobytes()
    dtype = _TYPES[np.dtype(little.dtype).str]
    return content, _entry(dtype, tensor.shape, offset, len(content), masked_crc32c(content))


def _encode_string(text: bytes) -> tuple[bytes, int]:
    """A string tensor is its lengths, their own checksum, then the strings.

    The checksums cover the lengths as fixed-width integers, and the second one the first.
    """
    length = len(text).to_bytes(4 if len(text) < 1 << 32 else 8, "little")
    crc = crc32c(length)
    stored = mask(crc).to_bytes(4, "little")
    return wire.varint(len(text)) + stored + text, mask(crc32c(text, crc32c(stored, crc)))


def _entry(dtype: int, shape: tuple[int, ...], offset: int, size: int, crc: int) -> bytes:
    """BundleEntryProto: dtype 1, shape 2, shard 3, offset 4, size 5, crc32c 6."""
    dims = b"".join(wire.message(2, wire.number(1, n)) for n in shape)
    return (
        wire.number(1, dtype)
        + wire.message(2, dims)
        + wire.number(4, offset)
        + wire.number(5, size)
        + wire.fixed32(6, crc)
    )
