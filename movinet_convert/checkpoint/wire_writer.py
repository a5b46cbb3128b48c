"""Protocol-buffer wire format, the writing half of ``protowire`` (protobuf.dev, "Encoding")."""

from __future__ import annotations

from movinet_convert.checkpoint.protowire import FIXED32, LENGTH, VARINT


def varint(value: int) -> bytes:
    """An unsigned integer, seven bits a byte, low bits first."""
    if value < 0:
        raise ValueError(f"a varint is not negative, got {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A varint field; nothing at all for zero, which is what an absent field means."""
    return varint(field << 3 | VARINT) + varint(value) if value else b""


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def message(field: int, body: bytes) -> bytes:
    """A length-delimited field: a message, present even when empty."""
    return varint(field << 3 | LENGTH) + varint(len(body)) + body


def text(field: int, value: str) -> bytes:
    return message(field, value.encode()) if value else b""
