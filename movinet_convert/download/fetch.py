"""Download released checkpoints from an official source or a mirror into the cache.

A server may compress a release, as a content encoding or as a gzip file; both are decompressed
before the digest is computed, so the digest does not depend on the compression.
"""

from __future__ import annotations

import errno
import os
import time
import zlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from movinet_convert.download.addresses import Address, addresses, chosen_source
from movinet_convert.download.cache import CacheEntry, FetchedRelease
from movinet_convert.download.failures import CHECK_NETWORK, NO_NETWORK
from movinet_convert.download.http import (
    Download,
    Notice,
    PartialFile,
    Progress,
    create_file,
    write_chunks,
)
from movinet_convert.download.records import CACHE_DIR_VARIABLE, cache_folder
from movinet_convert.download.request import CHUNK_BYTES, Limits
from movinet_convert.errors import CacheError, DownloadError
from movinet_convert.files.reading import open_regular
from movinet_convert.variants import RELEASES, OfficialSource, Release, Variant

__all__ = ["FetchedRelease", "Limits", "fetch_release"]

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WBITS = 31  # zlib's code for gzip
GZIP_READ_BYTES = 1 << 14  # decompress to at most a thousand times as many bytes
MAX_GZIP_MEMBERS = 10_000  # block gzip (64 KB a member) needs 2,000 for the largest release
SLOW_SECONDS = 5.0  # a source that took longer to fail is skipped for the rest of a run


def fetch_release(
    variant: Variant,
    *,
    source: str | os.PathLike[str] | None = None,
    source_root: str | os.PathLike[str] | None = None,
    legacy: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    known: Mapping[OfficialSource, Release] | None = None,
    progress: Progress | None = None,
    notice: Notice | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    failing: MutableMapping[str, str] | None = None,
) -> FetchedRelease:
    """The released checkpoint of a variant, from the cache or downloaded into it.

    ``source`` (or ``$MOVINET_SOURCE``) is ``model-garden`` or ``kaggle``, Google's two official
    sources; ``auto``, the default, which tries them in this order; or a URL or a folder with the
    Model Garden's archives under their published names. ``source_root`` is its earlier name.
    ``legacy`` is the older release of a stream model, with 3D convolutions. ``cache_dir`` (or
    ``$MOVINET_CACHE_DIR``) replaces the per-user cache folder. ``offline`` disables network access.
    ``known`` pins size and digest of an archive without published ones; otherwise it is accepted if
    it contains the expected network, and its digest is recorded. ``progress`` is called with the
    bytes so far and in total, ``notice`` with a sentence before each retry and before a download
    from an official source. Concurrent runs share one download. ``failing`` is a dict that the
    calls of one run share, so that a source that was slow to fail, or could not be reached, is
    tried last and only once.

    Raises UsageError if there is no such release or the source is invalid, DownloadError if it is
    unavailable or not the published file; the cache is then unchanged.
    """
    folder = cache_folder(cache_dir)
    pins = {} if legacy else _pinned(variant, known or {})
    attempts = []
    for address in addresses(variant, chosen_source(source, source_root), legacy=legacy):
        pinned = pins.get("kaggle" if address.source == "kaggle" else "model-garden")
        path = folder / address.file_name
        entry = CacheEntry(path, variant, address, pinned, limits.lock_seconds)
        attempts.append(_Attempt(entry, limits, progress, notice))
    with _usable(folder):
        for attempt in attempts:
            if cached := attempt.entry.cached():
                return cached
        if offline and not isinstance(attempts[0].address.location, Path):
            raise _not_cached(attempts)
        return _first_that_works(attempts, {} if failing is None else failing)


def _pinned(
    variant: Variant, known: Mapping[OfficialSource, Release]
) -> dict[OfficialSource, Release]:
    published = RELEASES.get(variant.name)
    return {**({"model-garden": published} if published else {}), **known}


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Report a cache folder that cannot be written as CacheError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise CacheError(
            f"The cache folder {folder} cannot be used ({error.strerror or error}); "
            f"{'free some space' if full else 'make it writable'}, or set ${CACHE_DIR_VARIABLE} to "
            "another folder."
        ) from error


def _not_cached(attempts: Sequence[_Attempt]) -> DownloadError:
    paths = [attempt.entry.path for attempt in attempts]
    damaged = [path for path in paths if path.is_file()]
    state = f"{damaged[0]} is damaged" if damaged else f"{' and '.join(map(str, paths))} "
    if not damaged:
        state += "do not exist" if len(paths) > 1 else "does not exist"
    return DownloadError(
        f"{state} and downloads are off; run once without --offline, or pass a folder that "
        "contains the release with --source."
    )


def _first_that_works(
    attempts: Sequence[_Attempt], failing: MutableMapping[str, str]
) -> FetchedRelease:
    """The release from the first address that works; sources in ``failing`` are tried last."""
    ordered = sorted(attempts, key=lambda attempt: attempt.address.source in failing)
    reasons = dict(failing)
    failed: list[_Attempt] = []
    no_network = True
    for attempt in ordered:
        source, start, limits = attempt.address.source, time.monotonic(), attempt.limits
        if attempt is not ordered[-1]:
            limits = limits.with_fallback()
        if source in failing:
            limits = replace(limits, attempts=1)
        others = [a.address for a in attempts if a is not attempt and a.address.source in reasons]
        try:
            fetched = attempt.run(
                limits,
                "; ".join(f"{other.title} failed: {reasons[other.source]}" for other in others),
            )
        except CacheError:
            raise
        except DownloadError as error:
            if source == "mirror" or (len(attempts) == 1 and not error.no_network):
                raise
            failed.append(attempt)
            reasons[source] = error.reason
            no_network = no_network and error.no_network
            if error.no_network or time.monotonic() - start > SLOW_SECONDS:
                failing[source] = error.reason
        else:
            for other in failed:
                other.partial.discard()
            return fetched
    raise _all_failed(attempts, reasons, no_network)


def _all_failed(
    attempts: Sequence[_Attempt], reasons: Mapping[str, str], no_network: bool
) -> DownloadError:
    label = attempts[0].entry.label
    listed = "; ".join(f"{a.address.title}: {reasons[a.address.source]}" for a in attempts)
    if no_network:
        return DownloadError(
            f"{label} could not be downloaded, as there seems to be no network ({listed}); "
            f"{NO_NETWORK}.",
            no_network=True,
        )
    return DownloadError(
        f"{label} could not be downloaded from any official source ({listed}); {CHECK_NETWORK}, "
        "pass a mirror with --source, or download the file yourself and pass it with --checkpoint."
    )


@dataclass(frozen=True)
class _Attempt:
    """A release at one of its addresses, and its file in the cache."""

    entry: CacheEntry
    limits: Limits
    progress: Progress | None
    notice: Notice | None

    @property
    def address(self) -> Address:
        return self.entry.address

    @property
    def partial(self) -> PartialFile:
        path = self.entry.path
        return PartialFile(path.with_name(f"{path.name}.partial"), str(self.address.location))

    def run(self, limits: Limits, why: str) -> FetchedRelease:
        """Download or copy the release, unless another process did so meanwhile.

        ``why`` other sources failed is said before the download from an official one.
        """
        partial, location = self.partial, self.address.location
        with self.entry.locked():
            if found := self.entry.find():
                return found
            try:
                if isinstance(location, Path):
                    _copy(location, partial, self.entry.max_bytes, self.progress)
                    return self._accept()
                self._announce(why)
                size, auth = self.entry.max_bytes, self.address.auth
                return self._download(
                    Download(partial, size, limits, self.progress, self.notice, auth)
                )
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    partial.discard()
                raise
            finally:
                if not partial.state().bytes:
                    partial.discard()

    def _announce(self, why: str) -> None:
        if self.notice is None or self.address.source == "mirror":
            return
        address = self.address
        since = f" ({why})" if why else ""
        host = urlsplit(address.published_at).hostname
        self.notice(f"{self.entry.label}: downloading from {address.title} at {host}{since}.")

    def _download(self, download: Download) -> FetchedRelease:
        resumed = download.partial.state().bytes > 0
        download.run()
        try:
            return self._accept()
        except DownloadError:
            if not resumed:
                raise
        download.run()  # from the start: the bytes of the earlier run may have been wrong
        return self._accept()

    def _accept(self) -> FetchedRelease:
        """Decompress a gzip file, check it and move it into the cache; remove partial files."""
        entry, partial, shown = self.entry, self.partial, self.address.shown
        decompressed = partial.path.with_suffix(".unpacked")
        try:
            with partial.path.open("rb") as file:
                if file.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
                    return entry.accept(partial.path, shown)
                file.seek(0)
                with create_file(decompressed) as target:
                    write_chunks(_decompressed(file), target, shown, entry.max_bytes)
            return entry.accept(decompressed, shown)
        except (EOFError, zlib.error) as error:
            problem = f"a gzip file that is truncated or damaged ({error})"
            raise DownloadError(
                f"{shown} is {problem}; try again, or use another --source.",
                reason=f"it sent {problem}",
            ) from error
        finally:
            decompressed.unlink(missing_ok=True)
            partial.discard()


def _copy(source: Path, partial: PartialFile, max_bytes: int, progress: Progress | None) -> None:
    try:
        file = open_regular(source, DownloadError)
    except OSError as error:
        raise DownloadError(
            f"{source} cannot be read ({error.strerror}); the folder of --source must contain the "
            "released archives under their published names."
        ) from None
    with file:
        chunks, size = iter(lambda: file.read(CHUNK_BYTES), b""), os.fstat(file.fileno()).st_size
        with partial.create(None, size) as target:
            write_chunks(chunks, target, str(source), max_bytes, size, progress)


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
