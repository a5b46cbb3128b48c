"""Sorted string tables, the file format of ``PREFIX.index``, read and written.

LevelDB's table format (google/leveldb ``doc/table_format.md``): blocks of prefix-compressed
entries, each followed by a type byte and a masked crc32c, and a 48-byte footer that locates the
index of the blocks. Files are byte-identical to TensorFlow's, with its options: no compression,
blocks of 256 KiB, a restart every 16 entries.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import google_crc32c

from movinet_convert.checkpoint.protobuf import WireError, read_varint, varint
from movinet_convert.checkpoint.random_access import ByteRange, Bytes
from movinet_convert.errors import CheckpointError

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # compression type, masked crc32c
_NO_COMPRESSION, _SNAPPY = 0, 1

# A training checkpoint of the largest MoViNet (1,493 variables, each with two slots and a moving
# average) has an index of about 400 kB: 6,000 entries of 40 bytes, with names below 200 bytes.
# The limits keep the memory and time that a crafted file takes in proportion to its size on disk.
MAX_FILE_BYTES = 8 << 20
MAX_ENTRIES = 32_768
_MAX_KEY_BYTES = 1024
_MAX_TOTAL_KEY_BYTES = 4 << 20
_MAX_VALUE_BYTES = 1024

Entry = tuple[bytes, bytes]


def crc32c(data: bytes | Bytes, crc: int = 0) -> int:
    """The crc32c (Castagnoli) of ``data``, continuing from ``crc``."""
    if not isinstance(data, bytes):
        data = data.view()
        data.flags.writeable = False  # the C implementation only takes read-only buffers
    return int(google_crc32c.extend(crc, data))


def mask(crc: int) -> int:
    """Rotate right by 15 bits and add a constant, as LevelDB does to stored checksums."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def masked_crc32c(data: bytes | Bytes) -> int:
    """The checksum as it is stored in a file."""
    return mask(crc32c(data))


# --- reading --------------------------------------------------------------------------------------


def has_table_magic(content: ByteRange) -> bool:
    """Whether the file ends with the magic number of a table."""
    if content.size < FOOTER_BYTES:
        return False
    return int.from_bytes(content.read(content.size - 8, 8).tobytes(), "little") == MAGIC


def read_table(content: ByteRange) -> list[Entry]:
    """All entries of the table in key order; CheckpointError names the file and the damage."""
    if not has_table_magic(content):
        raise CheckpointError(
            f"{content.name} is not the index of a TensorFlow checkpoint (the magic number at its "
            "end is missing); it is damaged or another kind of file."
        )
    if content.size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"{content.name} has {content.size:,} bytes; the index of a MoViNet checkpoint has far "
            f"fewer than {MAX_FILE_BYTES:,}."
        )
    return _Table(content.name, content.read(0, content.size).tobytes()).entries()


class _Table:
    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self._blocks_end = len(data) - FOOTER_BYTES
        self._key_bytes = 0
        self._entry_count = 0

    def entries(self) -> list[Entry]:
        footer = self._data[self._blocks_end :]
        try:
            _, position = self._handle(footer, 0)  # of the metaindex, which is not used
            (index_offset, index_size), _ = self._handle(footer, position)
            entries: list[Entry] = []
            end = 0
            for _, handle in self._block(index_offset, index_size):
                (offset, size), _ = self._handle(handle, 0)
                # Blocks are written in order, so none may be referenced twice.
                if offset < end or offset + size > index_offset:
                    raise self._damaged("its blocks overlap or are not in order")
                end = offset + size + _TRAILER_BYTES
                found = self._block(offset, size)
                if not found:
                    raise self._damaged(f"the block at byte {offset:,} is empty")
                entries.extend(found)
        except WireError as error:
            raise self._damaged(str(error)) from None
        for (before, _), (after, _) in itertools.pairwise(entries):
            if before >= after:
                raise self._damaged("its keys are not in order")
        return entries

    def _damaged(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self._name} is damaged: {problem}; get the file again.")

    @staticmethod
    def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
        offset, position = read_varint(data, position)
        size, position = read_varint(data, position)
        return (offset, size), position

    def _block(self, offset: int, size: int) -> list[Entry]:
        """Check and decode the block at ``offset``."""
        end = offset + size
        if end + _TRAILER_BYTES > self._blocks_end:
            raise self._damaged(f"a block of {size:,} bytes at {offset:,} exceeds the file")
        stored = int.from_bytes(self._data[end + 1 : end + _TRAILER_BYTES], "little")
        if masked_crc32c(self._data[offset : end + 1]) != stored:
            raise self._damaged(f"the checksum of the block at byte {offset:,} does not match")
        compression = self._data[end]
        if compression == _SNAPPY:
            raise CheckpointError(
                f"{self._name} is compressed with snappy, which TensorFlow does not use for "
                "checkpoints; save it again with tf.train.Checkpoint."
            )
        if compression != _NO_COMPRESSION:
            raise self._damaged(f"the block at byte {offset:,} has an unknown compression")
        return self._block_entries(self._data[offset:end])

    def _block_entries(self, block: bytes) -> list[Entry]:
        """Entries are (shared, unshared, value size: varints), the unshared key, the value."""
        if len(block) < 4:
            raise self._damaged("a block has no restart count")
        restarts = int.from_bytes(block[-4:], "little")
        limit = len(block) - 4 - 4 * restarts
        if limit < 0:
            raise self._damaged("a block's restart count exceeds the block")
        entries: list[Entry] = []
        key, position = b"", 0
        while position < limit:
            shared, position = read_varint(block, position)
            unshared, position = read_varint(block, position)
            value_size, position = read_varint(block, position)
            value_start = position + unshared
            value_end = value_start + value_size
            if shared > len(key) or value_end > limit:
                raise self._damaged("an entry exceeds its block")
            key = key[:shared] + block[position:value_start]
            self._count(len(key), value_size)
            entries.append((key, block[value_start:value_end]))
            position = value_end
        return entries

    def _count(self, key_bytes: int, value_bytes: int) -> None:
        """Track the size of all entries, including those of the block index."""
        self._entry_count += 1
        self._key_bytes += key_bytes
        if key_bytes > _MAX_KEY_BYTES or self._key_bytes > _MAX_TOTAL_KEY_BYTES:
            raise self._damaged("its keys are longer than any checkpoint's")
        if value_bytes > _MAX_VALUE_BYTES:
            raise self._damaged(
                f"an entry of {value_bytes:,} bytes is longer than any checkpoint's"
            )
        if self._entry_count > MAX_ENTRIES:
            raise self._damaged(f"it has more than {MAX_ENTRIES:,} entries, as no checkpoint has")


_BLOCK_BYTES = 256 << 10
_RESTART_INTERVAL = 16


# --- writing --------------------------------------------------------------------------------------


def encode_table(entries: Iterable[Entry]) -> bytes:
    """The table file of ``entries``, whose keys must be strictly increasing."""
    out = bytearray()
    index = _Block(restart_interval=1)
    block = _Block()
    last = None
    for key, value in entries:
        if last is not None and key <= last:
            raise ValueError(f"table keys must increase, got {key!r} after {last!r}")
        block.add(key, value)
        last = key
        if block.size >= _BLOCK_BYTES:
            index.add(key, _append(out, block))
            block = _Block()
    if last is not None and block.size:
        index.add(_short_successor(last), _append(out, block))
    metaindex_handle = _append(out, _Block())
    index_handle = _append(out, index)
    footer = (metaindex_handle + index_handle).ljust(FOOTER_BYTES - 8, b"\0")
    return bytes(out) + footer + MAGIC.to_bytes(8, "little")


class _Block:
    """Entries (shared, unshared and value size as varints, rest of the key, value), restarts."""

    def __init__(self, restart_interval: int = _RESTART_INTERVAL) -> None:
        self._body = bytearray()
        self._restarts = [0]
        self._interval = restart_interval
        self._count = 0
        self._key = b""

    @property
    def size(self) -> int:
        return len(self._body)

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count and self._count % self._interval == 0:
            self._restarts.append(len(self._body))
        elif self._count:
            shared = _common_prefix(self._key, key)
        rest = key[shared:]
        self._body += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        self._key = key
        self._count += 1

    def encode(self) -> bytes:
        numbers = [*self._restarts, len(self._restarts)]
        return bytes(self._body) + b"".join(n.to_bytes(4, "little") for n in numbers)


def _append(out: bytearray, block: _Block) -> bytes:
    """Append a block and its trailer to ``out``; returns its handle (offset, size)."""
    content = block.encode()
    handle = varint(len(out)) + varint(len(content))
    stored = content + b"\0"
    out += stored + masked_crc32c(stored).to_bytes(4, "little")
    return handle


def _common_prefix(a: bytes, b: bytes) -> int:
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _short_successor(key: bytes) -> bytes:
    """A short key that is not below ``key``, which suffices to index the last block."""
    for position, byte in enumerate(key):
        if byte != 0xFF:
            return key[:position] + bytes([byte + 1])
    return key
