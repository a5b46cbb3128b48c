"""A small writer of tensor bundles, with which tests control every byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from movinet_convert.checkpoint.sstable import masked_crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


NUMPY_TO_TF = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9, "<f2": 19}


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(tag: int, value: int) -> bytes:
    return varint(tag << 3) + varint(value)


def message(tag: int, body: bytes) -> bytes:
    return varint(tag << 3 | 2) + varint(len(body)) + body


@dataclass(frozen=True)
class RawEntry:
    """A BundleEntryProto with arbitrary values."""

    shape: tuple[int, ...] = ()
    dtype: int = 1
    shard: int = 0
    offset: int = 0
    size: int = 4
    crc: int = 0
    extra: bytes = b""

    def encode(self) -> bytes:
        dims = b"".join(message(2, number(1, n)) for n in self.shape)
        crc = varint(6 << 3 | 5) + self.crc.to_bytes(4, "little")
        return (
            number(1, self.dtype)
            + message(2, dims)
            + number(3, self.shard)
            + number(4, self.offset)
            + number(5, self.size)
            + crc
            + self.extra
        )


def header(shards: int = 1, endianness: int = 0, min_consumer: int = 0) -> bytes:
    version = message(3, number(1, 1) + number(2, min_consumer))
    return number(1, shards) + number(2, endianness) + version


@dataclass(frozen=True)
class Table:
    """A table with one block per entry, so that it always has several blocks."""

    entries: list[tuple[bytes, bytes]]
    compression: int = 0

    def encode(self) -> bytes:
        out = bytearray()
        index = []
        for key, value in self.entries:
            index.append((key, self._append(out, block([(key, value)]))))
        meta_handle = self._append(out, block([]))
        index_handle = self._append(out, block(index))
        footer = (meta_handle + index_handle).ljust(40, b"\0")
        return bytes(out) + footer + (0xDB4775248B80FB57).to_bytes(8, "little")

    def _append(self, out: bytearray, content: bytes) -> bytes:
        handle = varint(len(out)) + varint(len(content))
        stored = content + bytes([self.compression])
        out += stored + masked_crc32c(stored).to_bytes(4, "little")
        return handle


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def write_raw(
    prefix: Path, entries: Mapping[str, RawEntry], data: bytes, head: bytes | None = None
) -> Path:
    """Index and one data file, exactly as given."""
    table = [(b"", header() if head is None else head)]
    table += sorted((name.encode(), entry.encode()) for name, entry in entries.items())
    prefix.with_name(f"{prefix.name}.index").write_bytes(Table(table).encode())
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(data)
    return prefix


def write_bundle(prefix: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """A correct bundle of ``arrays``."""
    entries: dict[str, RawEntry] = {}
    data = bytearray()
    for name, array in arrays.items():
        content = array.tobytes()
        entries[name] = RawEntry(
            shape=array.shape,
            dtype=NUMPY_TO_TF[array.dtype.str],
            offset=len(data),
            size=len(content),
            crc=masked_crc32c(content),
        )
        data += content
    return write_raw(prefix, entries, bytes(data))


def small_movinet(blocks: int = 15) -> dict[str, np.ndarray]:
    """A checkpoint named like a released MoViNet, with one small variable per layer."""
    parts = {0: "_stem/_conv/kernel", blocks + 1: "_project/_conv/kernel"}
    backbone = "model/layer_with_weights-0/layer_with_weights-"
    names = [f"{backbone}{k}/{parts.get(k, '_expansion/_conv/kernel')}" for k in range(blocks + 2)]
    names += ["model/layer_with_weights-1/_classifier/_conv/bias"]
    return {
        f"{name}/.ATTRIBUTES/VARIABLE_VALUE": np.arange(6, dtype=np.float32) + position
        for position, name in enumerate(names)
    }
