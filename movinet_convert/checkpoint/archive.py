"""Read archives in place: no member is ever extracted to a path that the archive chooses.

Members are located with ``tarfile`` and read as byte ranges of the archive. A gzip stream is first
decompressed into an unnamed temporary file, up to a limit. Both formats are detected from the
content: the official ``.tar.gz`` releases are in fact uncompressed tars.
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
_MAX_PAX_RECORDS = 64  # per member; tarfile copies global records into every member
# Weights hardly compress; optimizer slots and moments that are still zero compress to nothing, and
# may be four fifths of a training checkpoint.
_MAX_RATIO = 16
_SMALL_BYTES = 16 << 20  # allowed at any ratio


@dataclass(frozen=True)
class Archive:
    """The regular files of a tar, by their names relative to its single top folder, if any."""

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
    content = ByteRange.of_path(path)
    if content.starts_with(_GZIP_MAGIC):
        content = _unpack(path, max_bytes)
        if not _is_tar(content):
            raise CheckpointError(
                f"{path} is gzip data, but its content is not a tar archive; expected a "
                "tar.gz of a checkpoint folder."
            )
    return Archive(path, _members(path, content, max_bytes)) if _is_tar(content) else None


def _is_tar(content: ByteRange) -> bool:
    """Whether the first block is a tar header with a valid checksum and numbers."""
    if content.size < _BLOCK:
        return False
    try:
        tarfile.TarInfo.frombuf(content.read(0, _BLOCK).tobytes(), "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _unpack(path: Path, max_bytes: int) -> ByteRange:
    """A gzip file decompressed into a temporary file, deleted when the checkpoint is closed."""
    max_bytes = min(max_bytes, max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size))
    target = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  closed with its ByteRange
    total = 0
    try:
        with open_regular(path, CheckpointError) as file, gzip.open(file) as stream:
            while chunk := _read_chunk(stream, path):
                total += len(chunk)
                if total > max_bytes:
                    raise CheckpointError(
                        f"{path} decompresses to more than {max_bytes:,} bytes, which no "
                        "MoViNet checkpoint needs; it is refused."
                    )
                target.write(chunk)
    except OSError as error:
        target.close()
        raise CheckpointError(
            f"{path} cannot be decompressed into {tempfile.gettempdir()} "
            f"({error.strerror or error}); free some space there, or set TMPDIR to another folder."
        ) from error
    except BaseException:
        target.close()
        raise
    return ByteRange(RandomAccessFile(target), str(path), 0, total)


def _read_chunk(stream: gzip.GzipFile, path: Path) -> bytes:
    """The next decompressed bytes of a gzip file; b"" at the end."""
    try:
        return stream.read(_COPY_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(
            f"{path} cannot be decompressed ({error}); it is truncated or damaged: get it again."
        ) from error


class _HeaderStream:
    """The file methods that ``tarfile`` needs to list an archive.

    It reads only headers, since no member is extracted. Some headers may be of any length and are
    read into memory, so the total is limited.
    """

    def __init__(self, content: ByteRange) -> None:
        self._content = content
        self._position = 0
        self._budget = _MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        available = max(0, self._content.size - self._position)
        count = available if size < 0 else min(size, available)
        self._budget -= count
        if self._budget < 0:
            raise tarfile.ReadError("its headers are longer than any checkpoint's")
        data = self._content.read(self._position, count).tobytes()
        self._position += count
        return data

    def seek(self, offset: int) -> int:
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


def _members(path: Path, content: ByteRange, max_bytes: int) -> dict[str, ByteRange]:
    found: dict[str, ByteRange] = {}
    total = 0
    # tarfile lets a few built-in exceptions through for headers with invalid numbers.
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _HeaderStream(content)), mode="r:") as archive:
            for count, member in enumerate(archive, start=1):
                _check_member(path, member, content.size)
                if len(member.pax_headers) > _MAX_PAX_RECORDS:
                    raise tarfile.ReadError("its headers are longer than any checkpoint's")
                total += member.size
                if count > MAX_MEMBERS or total > max_bytes:
                    raise CheckpointError(
                        f"{path} has more than {MAX_MEMBERS:,} members or {max_bytes:,} bytes, "
                        "which no MoViNet checkpoint needs; it is refused."
                    )
                if member.isreg():
                    name = str(PurePosixPath(member.name))
                    if name in found:
                        raise CheckpointError(
                            f"{path} contains {name!r} twice; expected each file once."
                        )
                    found[name] = ByteRange(
                        content.file, f"{path}:{name}", member.offset_data, member.size
                    )
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a readable tar archive ({error}); it is damaged: get it again."
        ) from error
    return _below_top_folder(found)


def _check_member(path: Path, member: tarfile.TarInfo, archive_bytes: int) -> None:
    """Refuse members that no checkpoint archive needs and an attack would use."""
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
        problem = f"it claims {member.size:,} bytes, more than remain in the archive"
    else:
        return
    raise CheckpointError(
        f"{path} is refused because of its member {member.name!r}: {problem}; expected only "
        "the regular files of a checkpoint."
    )


def _below_top_folder(found: dict[str, ByteRange]) -> dict[str, ByteRange]:
    """Names relative to the folders that all files share, without the ``._`` files of macOS."""
    files = {
        name: content
        for name, content in found.items()
        if not PurePosixPath(name).name.startswith("._")
    }
    while files and len({_top(name) for name in files}) == 1 and all("/" in n for n in files):
        files = {name.partition("/")[2]: content for name, content in files.items()}
    return files


def _top(name: str) -> str:
    return name.partition("/")[0]
