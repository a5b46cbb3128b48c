"""The released checkpoints: from Google's server or a mirror into the cache.

A server or a mirror may send a release compressed, as a content encoding or as a gzip file; both
are unpacked before its digest is taken, so the same release has the same digest wherever it came
from.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from movinet_convert.download.cache import (
    CACHE_DIR_VARIABLE,
    FetchedRelease,
    ReleaseCache,
    cache_folder,
)
from movinet_convert.download.http import Notice, Patience, download
from movinet_convert.download.partial import Progress, Sink, create, too_large
from movinet_convert.download.request import CHUNK_BYTES, shown
from movinet_convert.errors import DownloadError, UsageError
from movinet_convert.files.atomic import open_regular
from movinet_convert.variants import RELEASES, Release, Variant

__all__ = ["FetchedRelease", "Notice", "Patience", "Progress", "cache_folder", "fetch_release"]

SOURCE_ROOT_VARIABLE = "MOVINET_SOURCE_ROOT"
GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 31  # zlib's word for gzip
GZIP_READ_BYTES = 1 << 14  # which unpack to at most a thousand times as many
MAX_GZIP_MEMBERS = 10_000  # block gzip, of 64 KB a member, needs 2,000 for the largest release


def fetch_release(
    variant: Variant,
    *,
    source_root: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    known: Release | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
    patience: Patience = Patience(),  # noqa: B008 - frozen
) -> FetchedRelease:
    """The released checkpoint of a variant, from the cache or downloaded into it.

    ``source_root`` (or ``$MOVINET_SOURCE_ROOT``) is a URL or a folder that holds the archives under
    their published names, instead of Google's server. ``offline`` forbids the network: the release
    is in the cache or in a folder, or it is an error. Runs at the same time share one download.
    ``known`` are size and digest that the caller pins. ``progress`` is told how far the transfer
    is, ``notice`` in a sentence why a try failed and that another follows.

    Where nobody pins the digest, the archive must hold the network that was published under its
    name, every checksum in it must hold, and its digest is recorded and expected from then on.

    Raises UsageError where there is no such release or the source root is none, DownloadError where
    it cannot be had or is not the published file; the cache then holds what it held before.
    """
    source = _source(variant, source_root or os.environ.get(SOURCE_ROOT_VARIABLE))
    expected = known or RELEASES.get(variant.name)
    cache = ReleaseCache(
        cache_folder(cache_dir), variant, str(source), patience.lock_seconds, expected
    )

    def receive() -> FetchedRelease:
        if isinstance(source, Path):
            cache.partial.discard()
            _copy(source, cache, progress)
            return _finish(cache)
        if offline:
            raise _offline(cache)
        return _download(source.text, cache, patience, progress, notice)

    try:
        # A finished file is never changed in place, so a read-only cache serves without a lock.
        found = cache.intact()
        if found is not None:
            return found
        with cache.locked():
            return cache.intact() or cache.adopted() or receive()
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            cache.partial.discard()
        advice = "free some space" if full else "make it writable"
        raise DownloadError(
            f"The cache folder {cache.folder} cannot be used ({error.strerror or error}); "
            f"{advice}, or name another folder with ${CACHE_DIR_VARIABLE}."
        ) from error


@dataclass(frozen=True)
class _Url:
    text: str

    def __str__(self) -> str:
        return shown(self.text)


def _source(variant: Variant, root: str | os.PathLike[str] | None) -> _Url | Path:
    """Where to get the archive of a variant."""
    if variant.source_url is None:
        raise UsageError(
            f"{variant.name} was never released; pass a checkpoint of your own with --checkpoint, "
            "or make one with --synthetic."
        )
    if root is None:
        return _Url(variant.source_url)
    if "://" not in str(root):
        return Path(root) / variant.archive_name
    try:
        parts = urlsplit(str(root))
    except ValueError:
        raise UsageError("The source root is no valid URL; check how it is written.") from None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path)) / variant.archive_name
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(
            f"The source root {shown(str(root))} is neither an http(s) URL nor a folder; "
            "name one that holds the released archives."
        )
    path = f"{parts.path.rstrip('/')}/{variant.archive_name}"
    return _Url(parts._replace(path=path).geturl())


def _offline(cache: ReleaseCache) -> DownloadError:
    state = "is damaged" if cache.path.is_file() else "is not there"
    return DownloadError(
        f"{cache.path} {state} and downloads are off; run once without --offline, or name a "
        "folder that holds it with --source-root."
    )


def _download(
    url: str,
    cache: ReleaseCache,
    patience: Patience,
    progress: Progress | None,
    notice: Notice | None,
) -> FetchedRelease:
    def receive() -> bool:
        return download(
            url,
            cache.partial,
            max_bytes=cache.max_bytes,
            patience=patience,
            progress=progress,
            notice=notice,
        )

    went_on = receive()
    try:
        return _finish(cache)
    except DownloadError:
        if not went_on:
            raise
    # The bytes kept from an earlier run may have been the bad ones.
    receive()
    return _finish(cache)


def _copy(source: Path, cache: ReleaseCache, progress: Progress | None) -> None:
    try:
        opened = open_regular(source, DownloadError)
    except OSError as error:
        raise DownloadError(
            f"{source} cannot be read ({error.strerror}); the source root must hold the released "
            "archives under their published names."
        ) from None
    size = os.fstat(opened.fileno()).st_size
    if size > cache.max_bytes:
        raise too_large(str(source), cache.max_bytes)
    target = create(cache.partial.path)
    with opened, Sink(target, str(source), cache.max_bytes, total=size, progress=progress) as sink:
        while chunk := opened.read(CHUNK_BYTES):
            sink.write(chunk)


def _finish(cache: ReleaseCache) -> FetchedRelease:
    """Unpack a gzip, check, and move into place; nothing unfinished is left behind."""
    partial = cache.partial
    unpacked = partial.path.with_suffix(".unpacked")
    try:
        with partial.path.open("rb") as file:
            compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        if compressed:
            _unpack(partial.path, unpacked, cache)
        return cache.accept(unpacked if compressed else partial.path)
    finally:
        unpacked.unlink(missing_ok=True)
        partial.discard()


def _unpack(compressed: Path, target: Path, cache: ReleaseCache) -> None:
    sink = Sink(create(target), cache.source, cache.max_bytes)
    with sink, compressed.open("rb") as file:
        try:
            for chunk in _unpacked(file):
                sink.write(chunk)
        except (EOFError, zlib.error) as error:
            raise DownloadError(
                f"{cache.source} is a gzip file that ends early or is damaged ({error}); try "
                "again, or name another source root."
            ) from error


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """What the members of a gzip file hold; there is an end to them, since empty ones cost time."""
    rest = b""
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=GZIP_WBITS)
        while not member.eof:
            rest = rest or file.read(GZIP_READ_BYTES)
            if not rest:
                raise EOFError("it ends within its data")
            yield member.decompress(rest)
            rest = b""
        rest = member.unused_data.lstrip(b"\0")  # gzip itself allows padding
        while not rest:
            read = file.read(GZIP_READ_BYTES)
            if not read:
                return
            rest = read.lstrip(b"\0")
    raise zlib.error(f"it has more than {MAX_GZIP_MEMBERS:,} members")
