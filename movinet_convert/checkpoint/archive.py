"""Archives read in place: nothing of a tar is ever written under a name that it chooses.

Members are located through ``tarfile`` and read as ranges of the archive. A gzip stream is first
unpacked into an unnamed temporary file, up to a limit. Both are recognised by content: the
official ``.tar.gz`` releases are in truth uncompressed tars.
"""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from movinet_convert.checkpoint.random_access import ByteRange, RandomAccessFile, missing
from movinet_convert.errors import CheckpointError
from movinet_convert.files.reading import open_regular

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = tarfile.BLOCKSIZE
_COPY_BYTES = 1 << 20

# The largest training checkpoint of the family (weights, two slots, an average) is 0.5 GB.
MAX_MEMBERS = 1_000
MAX_BYTES = 4 << 30
_MAX_HEADER_BYTES = 2 << 20
_MAX_PAX_RECORDS = 64  # of one member; tarfile copies those that are for all into each
# Weights hardly shrink; slots and moments that are still zero vanish. Four of five variables of a
# training checkpoint may be such.
_MAX_RATIO = 16
_SMALL_BYTES = 16 << 20  # which may be of any ratio


@dataclass(frozen=True)
class Archive:
    """The regular files of a tar, by the name below its one top-level folder (if it has one)."""

    path: Path
    members: dict[str, ByteRange]

    @property
    def where(self) -> str:
        return str(self.path)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.members))

    def open(self, name: str) -> ByteRange:
        if name not in self.members:
            raise missing(f"{self.path}:{name}", self.where)
        return self.members[name]


def open_archive(path: Path, max_bytes: int = MAX_BYTES) -> Archive | None:
    """The archive at ``path``, or None if its content is neither a tar nor a gzip of one."""
    blob = ByteRange.of_path(path)
    if blob.starts_with(_GZIP_MAGIC):
        blob = _unpack(path, max_bytes)
        if not _is_tar(blob):
            raise CheckpointError(
                f"{path} is gzip data, but what it holds is not a tar archive; expected a "
                "tar.gz of a checkpoint folder."
            )
    return Archive(path, _members(path, blob, max_bytes)) if _is_tar(blob) else None


def _is_tar(blob: ByteRange) -> bool:
    """Whether the first block is a tar header: its checksum and numbers are right."""
    if blob.size < _BLOCK:
        return False
    try:
        tarfile.TarInfo.frombuf(blob.read(0, _BLOCK).tobytes(), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _unpack(path: Path, max_bytes: int) -> ByteRange:
    """The content of a gzip file in a temporary file that goes when the checkpoint does."""
    max_bytes = min(max_bytes, max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size))
    target = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  closed with its ByteRange
    total = 0
    try:
        with open_regular(path, CheckpointError) as file, gzip.open(file) as stream:
            while chunk := _unpacked(stream, path):
                total += len(chunk)
                if total > max_bytes:
                    raise CheckpointError(
                        f"{path} unpacks to more than {max_bytes:,} bytes, which no MoViNet "
                        "checkpoint needs; it is refused."
                    )
                target.write(chunk)
    except OSError as error:
        target.close()
        raise CheckpointError(
            f"{path} cannot be unpacked into {tempfile.gettempdir()} ({error.strerror or error}); "
            "free space there, or name another folder in TMPDIR."
        ) from error
    except BaseException:
        target.close()
        raise
    return ByteRange(RandomAccessFile(target), str(path), 0, total)


def _unpacked(stream: gzip.GzipFile, path: Path) -> bytes:
    """The next bytes of a gzip file."""
    try:
        return stream.read(_COPY_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(
            f"{path} cannot be unpacked ({error}); it is cut short or damaged: get it again."
        ) from error


class _BlobStream:
    """The few methods of a file that ``tarfile`` reads an archive with.

    It reads headers alone, since no member is extracted. Some kinds of headers may be of any
    length, and would be held in memory; so there is an end to what is handed out.
    """

    def __init__(self, blob: ByteRange) -> None:
        self._blob = blob
        self._position = 0
        self._left = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._blob.size - self._position)
        count = left if size < 0 else min(size, left)
        self._left -= count
        if self._left < 0:
            raise tarfile.ReadError("its headers are longer than any checkpoint's")
        data = self._blob.read(self._position, count).tobytes()
        self._position += count
        return data

    def seek(self, offset: int) -> int:
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


def _members(path: Path, blob: ByteRange, max_bytes: int) -> dict[str, ByteRange]:
    found: dict[str, ByteRange] = {}
    total = 0
    # tarfile lets a few built-in errors through when headers lie about their numbers.
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _BlobStream(blob)), mode="r:") as archive:
            for count, member in enumerate(archive, start=1):
                _check_member(path, member, blob.size)
                if len(member.pax_headers) > _MAX_PAX_RECORDS:
                    raise tarfile.ReadError("its headers are longer than any checkpoint's")
                total += member.size
                if count > MAX_MEMBERS or total > max_bytes:
                    raise CheckpointError(
                        f"{path} holds more than {MAX_MEMBERS:,} members or {max_bytes:,} bytes, "
                        "which no MoViNet checkpoint needs; it is refused."
                    )
                if member.isreg():
                    name = str(PurePosixPath(member.name))
                    if name in found:
                        raise CheckpointError(
                            f"{path} holds {name!r} twice; expected each file of a checkpoint once."
                        )
                    found[name] = ByteRange(
                        blob.file, f"{path}:{name}", member.offset_data, member.size
                    )
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a readable tar archive ({error}); it is damaged: get it again."
        ) from error
    return _below_top_folder(found)


def _check_member(path: Path, member: tarfile.TarInfo, archive_bytes: int) -> None:
    """Refuse what a checkpoint archive never needs and an attack would."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        problem = "its path leaves the archive's folder"
    elif member.issym() or member.islnk():
        problem = "it is a link"
    elif member.issparse():
        problem = "it is a sparse file"
    elif not (member.isreg() or member.isdir()):
        problem = "it is a device or another special file"
    elif member.isreg() and member.offset_data + member.size > archive_bytes:
        problem = f"it claims {member.size:,} bytes, more than the archive has left"
    else:
        return
    raise CheckpointError(
        f"{path} is refused because of its member {member.name!r}: {problem}; expected plain "
        "files of a checkpoint."
    )


def _below_top_folder(found: dict[str, ByteRange]) -> dict[str, ByteRange]:
    """Names below the folder that all files are in; the ``._`` files of macOS left out."""
    files = {
        name: blob for name, blob in found.items() if not PurePosixPath(name).name.startswith("._")
    }
    while files and len({_top(name) for name in files}) == 1 and all("/" in n for n in files):
        files = {name.partition("/")[2]: blob for name, blob in files.items()}
    return files


def _top(name: str) -> str:
    return name.partition("/")[0]
