"""The folder of fetched releases that runs share, and the digests it trusts.

It holds each release as an *uncompressed* tar under its published name (``….tar.gz``, which is
what the publisher called an uncompressed tar), and every digest is of that tar. Digests of four
releases are known (``variants.RELEASES``). The others are trusted when first used, if they hold the
network that was published (``release_check``), and recorded beside the files; a different one
afterwards is an error.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import pydantic

from movinet_convert.download.check import check_release, check_tar
from movinet_convert.download.partial import Partial
from movinet_convert.download.request import shortened
from movinet_convert.errors import DownloadError
from movinet_convert.files.atomic import file_sha256, open_regular, replacing
from movinet_convert.variants import Release, Variant

CACHE_DIR_VARIABLE = "MOVINET_CACHE_DIR"
RECORD_NAME = "recorded_digests.json"
# The largest release, a5-stream, is 127 MB.
MAX_RELEASE_BYTES = 1 << 28
MAX_RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class FetchedRelease:
    """A release in the cache. ``path`` is an uncompressed tar; ``sha256`` and ``bytes`` are its.

    ``first_use``: nobody had recorded a digest before, this run did. ``downloaded``: it was not in
    the cache. ``source``: the URL or file it came from, without any password. ``pinned``: its
    digest is a published one (``variants.RELEASES``), or the one that the caller asked for; if not,
    all that is known is that it holds the network that was published under this name.
    """

    variant: str
    path: Path
    sha256: str
    bytes: int
    source: str
    first_use: bool
    downloaded: bool
    pinned: bool


class Recorded(pydantic.BaseModel):
    """What the first use of a release saw."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    bytes: int = pydantic.Field(gt=0)
    source: str
    date: datetime.date


_Records = pydantic.TypeAdapter(dict[str, Recorded])


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder asked for, or $MOVINET_CACHE_DIR, or the per-user cache folder."""
    chosen = cache_dir or os.environ.get(CACHE_DIR_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("movinet-convert")


@dataclass(frozen=True)
class ReleaseCache:
    """One release's place in the cache folder."""

    folder: Path
    variant: Variant
    source: str
    lock_seconds: float
    known: Release | None  # size and digest that were published, if any were

    @property
    def path(self) -> Path:
        return self.folder / self.variant.archive_name

    @property
    def partial(self) -> Partial:
        return Partial(self.folder / f"{self.variant.archive_name}.partial")

    @property
    def record_path(self) -> Path:
        return self.folder / RECORD_NAME

    @property
    def max_bytes(self) -> int:
        return self.known.bytes if self.known else MAX_RELEASE_BYTES

    def records(self) -> dict[str, Recorded]:
        try:
            with open_regular(self.record_path, DownloadError) as file:
                text = file.read(MAX_RECORD_BYTES)
                if file.read(1):
                    raise ValueError("it is larger than any record of twelve releases")
            return _Records.validate_json(text)
        except FileNotFoundError:
            return {}
        except ValueError:
            raise DownloadError(
                f"{self.record_path} is damaged; delete it, and the digests of the releases are "
                "recorded again at their next use."
            ) from None

    def expected(self) -> str | None:
        if self.known is not None:
            return self.known.sha256
        recorded = self.records().get(self.variant.archive_name)
        return recorded.sha256 if recorded else None

    def intact(self) -> FetchedRelease | None:
        """The cached file if its digest is the expected one."""
        expected = self.expected()
        if expected is None or not self.path.is_file() or file_sha256(self.path) != expected:
            return None
        if self.known is None:  # the record may be older than this check, or of another's making
            check_release(self.path, self.variant, str(self.path))
        return self._fetched(expected, first_use=False, downloaded=False)

    def adopted(self) -> FetchedRelease | None:
        """A cached file that nobody has recorded yet, checked and recorded."""
        if self.expected() is not None or not self.path.is_file():
            return None
        check_tar(self.path, str(self.path))
        check_release(self.path, self.variant, str(self.path))
        digest = file_sha256(self.path)
        self._record(digest)
        return self._fetched(digest, first_use=True, downloaded=False)

    def accept(self, received: Path) -> FetchedRelease:
        """Check a complete tar and move it into place."""
        check_tar(received, self.source)
        digest = file_sha256(received)
        expected = self.expected()
        if expected is not None and digest != expected:
            raise self._mismatch(digest, expected)
        if self.known is None:
            check_release(received, self.variant, self.source)
        with received.open("rb+") as file:
            os.fsync(file.fileno())
        received.replace(self.path)
        if expected is None:
            self._record(digest)
        return self._fetched(digest, first_use=expected is None, downloaded=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this release; another process that fetches it is waited for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(f"{self.variant.archive_name}.lock"):
            yield

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = filelock.FileLock(self.folder / name, timeout=self.lock_seconds)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise DownloadError(
                f"Another process has held {self.folder / name} for "
                f"{self.lock_seconds:.0f} s; wait for it or stop it, then try again."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _record(self, digest: str) -> None:
        entry = Recorded(
            sha256=digest,
            bytes=self.path.stat().st_size,
            source=self.source,
            date=datetime.datetime.now(datetime.timezone.utc).date(),
        )
        with self._lock(f"{RECORD_NAME}.lock"):
            records = {**self.records(), self.variant.archive_name: entry}
            with replacing(self.record_path) as unfinished:
                unfinished.write_bytes(_Records.dump_json(records, indent=2))

    def _fetched(self, digest: str, *, first_use: bool, downloaded: bool) -> FetchedRelease:
        size = self.path.stat().st_size
        source = self.source if downloaded else str(self.path)
        pinned = self.known is not None
        return FetchedRelease(
            self.variant.name, self.path, digest, size, source, first_use, downloaded, pinned
        )

    def _mismatch(self, digest: str, expected: str) -> DownloadError:
        if self.known is not None:
            return DownloadError(
                f"{self.source} has sha256 {digest} where the release of {self.variant.name} has "
                f"{expected}; it is damaged or another file: try again, or name another source "
                "root."
            )
        first = self.records()[self.variant.archive_name]
        return DownloadError(
            f"{self.source} has sha256 {digest} where {expected} was recorded at its first use on "
            f"{first.date} (from {shortened(first.source)}); try again or name another source "
            f"root, and only if you trust the new file take {self.variant.archive_name} out of "
            f"{self.record_path}."
        )
