"""Download released checkpoints from Google's server or a mirror into the cache.

A server may compress a release, as a content encoding or as a gzip file; both are decompressed
before the digest is computed, so the digest does not depend on the source.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import platformdirs

from movinet_convert.download.cache import CacheEntry, FetchedRelease
from movinet_convert.download.http import (
    Download,
    Notice,
    PartialFile,
    Progress,
    create_file,
    write_chunks,
)
from movinet_convert.download.request import CHUNK_BYTES, Limits, shown
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.files.reading import open_regular
from movinet_convert.variants import RELEASES, Release, Variant

__all__ = ["FetchedRelease", "Limits", "fetch_release"]

CACHE_DIR_VARIABLE = "MOVINET_CACHE_DIR"
SOURCE_ROOT_VARIABLE = "MOVINET_SOURCE_ROOT"
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 31  # zlib's code for gzip
GZIP_READ_BYTES = 1 << 14  # decompress to at most a thousand times as many bytes
MAX_GZIP_MEMBERS = 10_000  # block gzip (64 KB a member) needs 2,000 for the largest release


def fetch_release(
    variant: Variant,
    *,
    source_root: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    known: Release | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> FetchedRelease:
    """The released checkpoint of a variant, from the cache or downloaded into it.

    ``source_root`` (or ``$MOVINET_SOURCE_ROOT``) is a URL or a folder with the archives under their
    published names, instead of Google's server; ``cache_dir`` (or ``$MOVINET_CACHE_DIR``) replaces
    the per-user cache folder. ``offline`` disables network access. ``known`` pins size and digest
    of a release without published ones; otherwise that release is accepted if it contains the
    expected network, and its digest is recorded. ``progress`` is called with the bytes so far and
    in total, ``notice`` with a sentence before each retry. Concurrent runs share one download.

    Raises UsageError if there is no such release or the source root is invalid, DownloadError if
    it is unavailable or not the published file; the cache is then unchanged.
    """
    location = _locate(variant, source_root or os.environ.get(SOURCE_ROOT_VARIABLE))
    pinned = known or RELEASES.get(variant.name)
    default = os.environ.get(CACHE_DIR_VARIABLE) or platformdirs.user_cache_path("movinet-convert")
    path = Path(cache_dir or default) / variant.archive_name
    entry = CacheEntry(path, variant, pinned, limits.lock_seconds)
    partial = PartialFile(path.with_name(f"{path.name}.partial"), str(location))
    try:
        # Complete files are never changed in place, so reading them needs no lock.
        if found := entry.find():
            return found
        with entry.locked(path):
            if found := entry.find() or entry.adopt():
                return found
            try:
                if isinstance(location, Path):
                    _copy(location, partial, entry.max_bytes, progress)
                    return _accept(entry, partial, str(location))
                if offline:
                    state = "is damaged" if path.is_file() else "does not exist"
                    raise DownloadError(
                        f"{path} {state} and downloads are off; run once without --offline, or "
                        "pass a folder that contains it with --source-root."
                    )
                download = Download(partial, entry.max_bytes, limits, progress, notice)
                return _download(download, entry)
            finally:
                if not partial.state().bytes:
                    partial.discard()
    except OSError as error:
        advice = "make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            partial.discard()
            advice = "free some space"
        raise DownloadError(
            f"The cache folder {path.parent} cannot be used ({error.strerror or error}); "
            f"{advice}, or set ${CACHE_DIR_VARIABLE} to another folder."
        ) from error


def _locate(variant: Variant, root: str | os.PathLike[str] | None) -> str | Path:
    """The URL or file path of a variant's archive."""
    if variant.source_url is None:
        raise UsageError(
            f"{variant.name} was never released; pass your own checkpoint with --checkpoint, "
            "or use --synthetic."
        )
    if root is None:
        return variant.source_url
    if "://" not in str(root):
        return Path(root) / variant.archive_name
    with suppress(ValueError):  # urlsplit refuses a malformed URL
        parts = urlsplit(str(root))
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return Path(unquote(parts.path)) / variant.archive_name
        if parts.scheme in ("http", "https") and parts.netloc:
            return parts._replace(path=f"{parts.path.rstrip('/')}/{variant.archive_name}").geturl()
    raise UsageError(
        f"The source root (--source-root or ${SOURCE_ROOT_VARIABLE}) is neither an http(s) URL nor "
        "a folder; pass one that contains the released archives."
    )


def _download(download: Download, entry: CacheEntry) -> FetchedRelease:
    partial, resumed = download.partial, download.partial.state().bytes > 0
    download.run()
    try:
        return _accept(entry, partial, shown(partial.url))
    except DownloadError:
        if not resumed:
            raise
    download.run()  # from the start: the bytes of the earlier run may have been wrong
    return _accept(entry, partial, shown(partial.url))


def _copy(source: Path, partial: PartialFile, max_bytes: int, progress: Progress | None) -> None:
    try:
        file = open_regular(source, DownloadError)
    except OSError as error:
        raise DownloadError(
            f"{source} cannot be read ({error.strerror}); the source root must contain the "
            "released archives under their published names."
        ) from None
    with file:
        chunks, size = iter(lambda: file.read(CHUNK_BYTES), b""), os.fstat(file.fileno()).st_size
        with partial.create(None, size) as target:
            write_chunks(chunks, target, str(source), max_bytes, size, progress)


def _accept(entry: CacheEntry, partial: PartialFile, source: str) -> FetchedRelease:
    """Decompress a gzip file, check it and move it into the cache; remove partial files."""
    decompressed = partial.path.with_suffix(".unpacked")
    try:
        with partial.path.open("rb") as file:
            if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
                return entry.accept(partial.path, source)
            file.seek(0)
            with create_file(decompressed) as target:
                write_chunks(_decompressed(file), target, source, entry.max_bytes)
        return entry.accept(decompressed, source)
    except (EOFError, zlib.error) as error:
        raise DownloadError(
            f"{source} is a gzip file that is truncated or damaged ({error}); try again, or use "
            "another source root."
        ) from error
    finally:
        decompressed.unlink(missing_ok=True)
        partial.discard()


def _decompressed(file: BinaryIO) -> Iterator[bytes]:
    """The content of a gzip file; the number of members is limited, as empty ones cost time."""
    member, members, data = None, 0, b""
    while data := data or file.read(GZIP_READ_BYTES):
        if member is None:
            data = data.lstrip(b"\0")  # gzip itself allows padding after a member
            if not data:
                continue
            members += 1
            member = zlib.decompressobj(wbits=GZIP_WBITS)
        if members > MAX_GZIP_MEMBERS:
            raise zlib.error(f"it has more than {MAX_GZIP_MEMBERS:,} members")
        yield member.decompress(data)
        data, member = member.unused_data, None if member.eof else member
    if member is not None:
        raise EOFError("it ends within a member")
