"""An unfinished file, what is known of it, and the bytes that are added to it.

The cache may be shared, and the names in it are known to everybody. So a file is begun under a
name that nobody holds (a link or pipe that lies there is removed, not followed), and gone on with
only if it is a plain file of our own that has no second name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import pydantic

from movinet_convert.errors import DownloadError
from movinet_convert.files.atomic import open_regular

MAX_NOTE_BYTES = 1 << 16  # twice what urllib3 takes as one header, with room to spare


class Progress(Protocol):
    """Told how far a transfer is: bytes so far, and in all where the server says so."""

    def __call__(self, done: int, total: int | None, /) -> None: ...


@dataclass(frozen=True)
class Kept:
    """Bytes of an earlier try: how many, of which version of the file, and of how many in all."""

    bytes: int = 0
    validator: str = ""
    total: int | None = None


class _Note(pydantic.BaseModel):
    """What lies beside an unfinished file; ``url`` is a digest, since a URL may hold a password."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str
    validator: str = pydantic.Field(min_length=1)
    total: int | None = pydantic.Field(ge=0)


@dataclass(frozen=True)
class Partial:
    """An unfinished file, and beside it the validator that tells whether it can be gone on with."""

    path: Path

    @property
    def note_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def kept(self, url: str) -> Kept:
        """The bytes that a range request for ``url`` may follow, and the validator it needs."""
        try:
            with open_regular(self.note_path, DownloadError) as file:
                note = _Note.model_validate_json(file.read(MAX_NOTE_BYTES))
            found = self.path.lstat()
        except (OSError, ValueError, DownloadError):
            return Kept()
        usable = note.url == _fingerprint(url) and _is_our_own(found) and found.st_size > 0
        return Kept(found.st_size, note.validator, note.total) if usable else Kept()

    def begin(self, url: str, validator: str | None, total: int | None) -> BinaryIO:
        """A new, empty file to write to; it can be gone on with later if there is a validator."""
        self.discard()
        file = create(self.path)
        if validator is not None:
            note = _Note(url=_fingerprint(url), validator=validator, total=total)
            with create(self.note_path) as target:
                target.write(note.model_dump_json().encode())
        return file

    def go_on(self) -> BinaryIO:
        """The file with the bytes that were kept, to write after them."""
        flags = os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(self.path, flags | getattr(os, "O_NONBLOCK", 0)), "ab")
        if not _is_our_own(os.fstat(file.fileno())):
            file.close()
            raise FileExistsError(0, "another program has put something in place of a download")
        return file

    def discard(self) -> None:
        self.note_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class Sink:
    """Where received bytes go: counted, bounded, reported, appended to a file."""

    def __init__(
        self,
        file: BinaryIO,
        where: str,
        max_bytes: int,
        *,
        total: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``total``: how many bytes the file is said to have in the end, with those it has."""
        self._file = file
        self._where = where
        self._max_bytes = max_bytes
        self._progress = progress
        self.total = total
        self.done = file.seek(0, os.SEEK_END)
        self._report()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        if self.done + len(chunk) > self._max_bytes:
            raise too_large(self._where, self._max_bytes)
        self._file.write(chunk)
        self.done += len(chunk)
        self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self.done, self.total)


def create(path: Path) -> BinaryIO:
    """A new file at ``path`` to write to; what was there is unlinked, never written through."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def too_large(where: str, max_bytes: int) -> DownloadError:
    return DownloadError(
        f"{where} is larger than the {max_bytes:,} bytes it may have at most; "
        "it is not the published file: check the source root."
    )


def _is_our_own(found: os.stat_result) -> bool:
    """Whether it is a plain file under this one name, of this user where the system knows users."""
    user = os.geteuid() if hasattr(os, "geteuid") else found.st_uid
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == user


def _fingerprint(url: str) -> str:
    """Stands for a URL in a file."""
    return hashlib.sha256(url.encode()).hexdigest()
