"""Sorted string tables: the file format of ``PREFIX.index``.

LevelDB's table format (google/leveldb ``doc/table_format.md``), as TensorFlow writes it: blocks of
prefix-compressed entries, each block followed by a type byte and a masked crc32c, and a footer of
48 bytes that says where the index of the blocks is.
"""

from __future__ import annotations

import itertools

from movinet_convert.checkpoint.blob import Blob
from movinet_convert.checkpoint.checksum import masked_crc32c
from movinet_convert.checkpoint.protowire import WireError, read_varint
from movinet_convert.errors import CheckpointError

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # compression type, masked crc32c
_NO_COMPRESSION, _SNAPPY = 0, 1

# A training checkpoint of the largest MoViNet (1,493 variables, each with two slots and a moving
# average) has an index of about 400 kB: 6,000 entries of 40 bytes, under names below 200 bytes.
# The limits keep a crafted file from growing in memory or time beyond what it is on disk.
MAX_FILE_BYTES = 8 << 20
MAX_ENTRIES = 32_768
_MAX_KEY_BYTES = 1024
_MAX_TOTAL_KEY_BYTES = 4 << 20
_MAX_VALUE_BYTES = 1024

Entry = tuple[bytes, bytes]


def has_table_magic(blob: Blob) -> bool:
    """Whether the file ends as a table does."""
    if blob.size < FOOTER_BYTES:
        return False
    return int.from_bytes(blob.read(blob.size - 8, 8).tobytes(), "little") == MAGIC


def read_table(blob: Blob) -> list[Entry]:
    """All entries of the table in key order; CheckpointError names the file and the damage."""
    if not has_table_magic(blob):
        raise CheckpointError(
            f"{blob.name} is not the index of a TensorFlow checkpoint (the magic number at its "
            "end is missing); it is damaged or another kind of file."
        )
    if blob.size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"{blob.name} is {blob.size:,} bytes long; the index of a MoViNet checkpoint is far "
            f"below {MAX_FILE_BYTES:,} bytes."
        )
    return _Table(blob.name, blob.read(0, blob.size).tobytes()).entries()


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
                # Blocks are written one after the other, so that none is reached twice.
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

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._name} is damaged: {what}; get the file again.")

    @staticmethod
    def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
        offset, position = read_varint(data, position)
        size, position = read_varint(data, position)
        return (offset, size), position

    def _block(self, offset: int, size: int) -> list[Entry]:
        """Check and decode the block at ``offset``."""
        end = offset + size
        if end + _TRAILER_BYTES > self._blocks_end:
            raise self._damaged(f"a block of {size:,} bytes at {offset:,} leaves the file")
        stored = int.from_bytes(self._data[end + 1 : end + _TRAILER_BYTES], "little")
        if masked_crc32c(self._data[offset : end + 1]) != stored:
            raise self._damaged(f"the checksum of the block at byte {offset:,} does not match")
        compression = self._data[end]
        if compression == _SNAPPY:
            raise CheckpointError(
                f"{self._name} is compressed with snappy, which TensorFlow's checkpoints are not "
                "and which is not supported; save the checkpoint again with tf.train.Checkpoint."
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
            raise self._damaged("a block's restart count leaves the block")
        entries: list[Entry] = []
        key, position = b"", 0
        while position < limit:
            shared, position = read_varint(block, position)
            unshared, position = read_varint(block, position)
            value_size, position = read_varint(block, position)
            value_start = position + unshared
            value_end = value_start + value_size
            if shared > len(key) or value_end > limit:
                raise self._damaged("an entry leaves its block")
            key = key[:shared] + block[position:value_start]
            self._count(len(key), value_size)
            entries.append((key, block[value_start:value_end]))
            position = value_end
        return entries

    def _count(self, key_bytes: int, value_bytes: int) -> None:
        """Keep account of what is held, the entries of the index of blocks included."""
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
