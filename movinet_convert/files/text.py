"""Text files that people write: lists of names, tables."""

from __future__ import annotations

import codecs
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.files.atomic import open_regular

OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path, max_bytes: int) -> str:
    r"""A UTF-8 text, with or without its mark, its lines ended by ``\n``.

    Raises UsageError, which names the line, for other encodings, and for what is no file, cannot
    be read, holds NUL bytes or is larger than ``max_bytes``.
    """
    try:
        with open_regular(path, UsageError) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    if len(data) > max_bytes:
        raise UsageError(f"{path} is larger than the {max_bytes >> 20} MiB that are allowed.")
    for mark, name in OTHER_MARKS.items():
        if data.startswith(mark):
            raise UsageError(f"{path}, line 1: the file is {name}; save it as UTF-8.")
    if b"\0" in data:
        line = _line(data, data.index(b"\0"))
        raise UsageError(f"{path}, line {line}: there is a NUL byte; save the file as UTF-8 text.")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = _line(error.object, error.start), error.object[error.start]
        raise UsageError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
