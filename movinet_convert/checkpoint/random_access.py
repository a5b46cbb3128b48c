"""Random access to the bytes of untrusted files: open files, byte ranges in them, and folders."""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from movinet_convert.errors import CheckpointError
from movinet_convert.files.reading import open_regular

Bytes = npt.NDArray[np.uint8]


class RandomAccessFile:
    """An open file that several threads may read; closed when it is garbage collected.

    Reads copy, and never map the file: if another program truncates it, that is an error, whereas
    a memory map would crash the process.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = file.seek(0, 2)
        weakref.finalize(self, file.close)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` on; returns the number of bytes read."""
        done = 0
        with self._lock:
            self._file.seek(offset)
            while done < len(buffer):
                count = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]
                if not count:
                    break
                done += count
        return done


@dataclass(frozen=True)
class ByteRange:
    """``size`` bytes of ``file`` from ``start`` on; ``name`` is used in messages."""

    file: RandomAccessFile
    name: str
    start: int
    size: int

    @classmethod
    def of_path(cls, path: Path) -> ByteRange:
        """The whole file at ``path``; CheckpointError if it cannot be opened."""
        try:
            file = RandomAccessFile(open_regular(path, CheckpointError))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"{path} cannot be opened ({reason}); check the path and its permissions."
            ) from error
        return cls(file, str(path), 0, file.size)

    def starts_with(self, magic: bytes) -> bool:
        return self.read(0, min(len(magic), self.size)).tobytes() == magic

    def read(self, offset: int, size: int) -> Bytes:
        """``size`` bytes at ``offset`` as a new array; CheckpointError if the file is too short."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise CheckpointError(
                f"{self.name} has {self.size:,} bytes, but {size:,} bytes at offset {offset:,} "
                "were expected; the file is truncated or damaged: get it again."
            )
        data = np.empty(size, np.uint8)
        try:
            done = self.file.read_into(self.start + offset, data.data)
        except OSError as error:
            raise CheckpointError(
                f"{self.name} cannot be read at offset {offset:,} ({error.strerror or error})."
            ) from error
        if done != size:
            raise CheckpointError(
                f"{self.name} ended at byte {offset + done:,} while {size:,} bytes at offset "
                f"{offset:,} were read; the file was truncated: get it again."
            )
        return data


class FileTree(Protocol):
    """The files of a checkpoint by relative POSIX name: a folder on disk or an archive."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    def names(self) -> tuple[str, ...]:
        """The files in it, down to one folder below the top."""

    def open(self, name: str) -> ByteRange:
        """The file called ``name``; CheckpointError if it is missing or cannot be read."""


@dataclass(frozen=True)
class Folder:
    """A folder on disk."""

    path: Path

    @property
    def where(self) -> str:
        return str(self.path)

    def names(self) -> tuple[str, ...]:
        try:
            found = [*self.path.glob("*"), *self.path.glob("variables/*")]
            # Pipes and devices are included, because opening one gives a clear error.
            return tuple(sorted(p.relative_to(self.path).as_posix() for p in found if is_there(p)))
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be listed ({error.strerror or error})."
            ) from error

    def open(self, name: str) -> ByteRange:
        path = self.path / name
        if not is_there(path):
            raise missing(str(path), self.where)
        return ByteRange.of_path(path)


def is_there(path: Path) -> bool:
    """Whether anything but a folder is at ``path``; links are followed, and no name raises."""
    return os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112


def missing(name: str, where: str) -> CheckpointError:
    """The error for a file that a checkpoint needs and ``where`` does not have."""
    return CheckpointError(
        f"{name} is missing; the checkpoint in {where} is incomplete: copy or download all of "
        "its files."
    )
