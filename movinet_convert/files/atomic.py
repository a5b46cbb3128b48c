"""Files on disk: opened only if they are files, replaced only once they are complete, hashed."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from movinet_convert.errors import MovinetError

HASH_CHUNK = 1 << 20

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str], error: type[MovinetError]) -> BinaryIO:
    """Open a file to read its bytes, without waiting for whoever might fill a pipe.

    Raises ``error`` for anything but a regular file (links are followed), OSError where the file
    cannot be opened.
    """
    # Opening a pipe blocks until somebody writes into it, unless it is opened so.
    descriptor = os.open(path, os.O_RDONLY | _flag("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise error(f"{os.fspath(path)} is {kind}, not a file; name a file on disk.")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path``, with its suffix; what is written there takes its place.

    The file is on the disk for good, with the permissions that the user's umask gives new files,
    before it is moved; where the block raises, nothing at ``path`` has changed and the temporary
    file is gone. A link at ``path`` is replaced, not followed. Raises OSError.
    """
    target = Path(path)
    name = f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}"
    temporary = target.with_name(name)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """The SHA-256 digest of a file's bytes, in hexadecimal.

    Raises OSError, and MovinetError for anything but a regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path, MovinetError) as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def move_together(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files that belong together to their places, over an earlier set of the same names.

    The first is the one that is opened: without it the others are nothing. No two sets are ever
    mixed, whenever the process ends. An earlier set of several files is first set aside, as a set
    named ``NAME.previous-xxxxxxxx``; it comes back where anything fails, goes where all is done,
    and stays under that name where the process is killed in between. Raises OSError.
    """
    for written, _ in moves:
        with written.open("rb+") as file:
            os.fsync(file.fileno())
    if len(moves) == 1:
        ((written, target),) = moves
        written.replace(target)
        return
    token = secrets.token_hex(4)
    with ExitStack() as undo:
        earlier = []
        for _, target in reversed(moves):  # the one that is opened goes last and comes first
            if target.exists() or target.is_symlink():
                aside = target.with_name(f"{target.stem}.previous-{token}{target.suffix}")
                target.rename(aside)
                undo.callback(aside.rename, target)
                earlier.append(aside)
        for written, target in moves:
            written.rename(target)
            undo.callback(target.rename, written)
        undo.pop_all()
    for aside in earlier:
        aside.unlink()


def _flag(*names: str) -> int:
    """The sum of the flags that this system has."""
    return sum(getattr(os, name, 0) for name in names)
