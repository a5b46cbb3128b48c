"""Writing tensor bundles: ``PREFIX.index`` and one ``PREFIX.data-00000-of-00001``.

The reverse of ``bundle``; the same files as ``tf.train.Checkpoint`` writes, by
``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from movinet_convert.checkpoint import wire_writer as wire
from movinet_convert.checkpoint.checksum import crc32c, mask, masked_crc32c
from movinet_convert.checkpoint.names import Array
from movinet_convert.checkpoint.table_writer import encode_table

# tensorflow/core/framework/types.proto
_STRING = 7
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
