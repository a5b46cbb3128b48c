"""Sorted string tables, the writing half of ``sstable``: the same bytes as TensorFlow writes.

LevelDB's table format (google/leveldb ``doc/table_format.md``) with TensorFlow's options: no
compression, blocks of 256 KiB, a restart every 16 entries.
"""

from __future__ import annotations

from collections.abc import Iterable

from movinet_convert.checkpoint.checksum import masked_crc32c
from movinet_convert.checkpoint.sstable import FOOTER_BYTES, MAGIC, Entry
from movinet_convert.checkpoint.wire_writer import varint

_BLOCK_BYTES = 256 << 10
_RESTART_INTERVAL = 16
_NO_COMPRESSION = b"\0"


def encode_table(entries: Iterable[Entry]) -> bytes:
    """The file that holds ``entries``, which must come in strictly increasing order of key."""
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
    """Entries (shared, unshared, value size: varints), key rest, value; then the restarts."""

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
    """Put a block with its trailer at the end of ``out``; returns its handle (offset, size)."""
    content = block.encode()
    handle = varint(len(out)) + varint(len(content))
    stored = content + _NO_COMPRESSION
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
    """A short key that is not below ``key``: all that the index needs of the last block."""
    for position, byte in enumerate(key):
        if byte != 0xFF:
            return key[:position] + bytes([byte + 1])
    return key
