"""The subset of the Protocol Buffers wire format in tensor bundles (protobuf.dev, "Encoding").

Malformed bytes raise ``WireError``; the caller adds the file and the entry.
"""

from __future__ import annotations

from collections.abc import Iterator

Buffer = bytes | memoryview  # a view avoids copying large messages at every level

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """The bytes are not a serialized message."""


# --- reading --------------------------------------------------------------------------------------


def read_varint(data: Buffer, position: int) -> tuple[int, int]:
    """The unsigned varint at ``position`` and the position after it."""
    if position < len(data) and data[position] < 0x80:  # most are a single byte
        return data[position], position + 1
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position + index >= len(data):
            raise WireError("a varint runs past the end")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 1 << 64:
                raise WireError("a varint has more than 64 bits")
            return value, position + index + 1
    raise WireError("a varint has more than ten bytes")


def fields(data: Buffer) -> Iterator[tuple[int, int | Buffer]]:
    """Yield ``(field number, value)`` of every field of a message, in order.

    Strings and messages are slices of ``data``: views if it is a view.
    """
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError("a field has the number 0")
        if wire_type == VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if wire_type == LENGTH:
            size, position = read_varint(data, position)
        elif wire_type in (FIXED32, FIXED64):
            size = 4 if wire_type == FIXED32 else 8
        else:
            raise WireError(f"wire type {wire_type} is unknown")
        if position + size > len(data):
            raise WireError("a field runs past the end")
        content = data[position : position + size]
        position += size
        yield number, content if wire_type == LENGTH else int.from_bytes(content, "little")


def signed64(value: int) -> int:
    """A varint reinterpreted as int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


def as_int(value: int | Buffer) -> int:
    if not isinstance(value, int):
        raise WireError("expected a number, got a string")
    return value


def as_bytes(value: int | Buffer) -> Buffer:
    if isinstance(value, int):
        raise WireError("expected a string, got a number")
    return value


# --- writing --------------------------------------------------------------------------------------


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
    """A varint field; empty for zero, the default of an absent field."""
    return varint(field << 3 | VARINT) + varint(value) if value else b""


def fixed32(field: int, value: int) -> bytes:
    return varint(field << 3 | FIXED32) + value.to_bytes(4, "little") if value else b""


def message(field: int, body: bytes) -> bytes:
    """A length-delimited field: a message, present even when empty."""
    return varint(field << 3 | LENGTH) + varint(len(body)) + body


def text(field: int, value: str) -> bytes:
    return message(field, value.encode()) if value else b""
