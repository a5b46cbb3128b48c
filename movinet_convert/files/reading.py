"""Read untrusted files: bytes, text and digests."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from movinet_convert.errors import MovinetError, UsageError

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def open_regular(path: str | os.PathLike[str], error: type[MovinetError]) -> BinaryIO:
    """Open a regular file for reading, without blocking on a pipe.

    Raises ``error`` for anything but a regular file (links are followed), OSError if the file
    cannot be opened.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # not every platform has all of them
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise error(f"{os.fspath(path)} is {kind}, not a file; name a file on disk.")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def file_sha256(path: Path) -> str:
    """The SHA-256 digest of a file in hexadecimal; OSError, or MovinetError if not regular."""
    digest = hashlib.sha256()
    with open_regular(path, MovinetError) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_text(path: Path, max_bytes: int) -> str:
    r"""Read UTF-8 text, with or without a byte order mark; line ends become ``\n``.

    Raises UsageError, with the line number, for other encodings and NUL bytes, and if ``path`` is
    not a file, cannot be read or is larger than ``max_bytes``.
    """
    try:
        with open_regular(path, UsageError) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    if len(data) > max_bytes:
        raise UsageError(f"{path} is larger than the {max_bytes >> 20} MiB allowed.")
    for mark, name in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise UsageError(f"{path}, line 1: the file is {name}; save it as UTF-8.")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise UsageError(f"{path}, line {line}: there is a NUL byte; save the file as UTF-8 text.")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise UsageError(
            f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
