"""The cache of releases on disk, shared by all runs, and their expected digests.

A release is stored as an *uncompressed* tar, and digests are of that tar: one of the Model Garden
under its published name (``….tar.gz``, although the published files are uncompressed), one of
Kaggle as ``movinet_a0_base_kaggle_v3.tar``. The digests of four are published
(``variants.RELEASES``). Any other is trusted on first use if the archive is intact and contains the
network that it is named after; its digest is recorded in the cache, and from then on a different
digest is an error. This does not detect other weights of the same network.
"""

from __future__ import annotations

import datetime
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pydantic

from movinet_convert.checkpoint import open_checkpoint
from movinet_convert.checkpoint.archive import open_archive
from movinet_convert.checkpoint.prefix import find_bundle
from movinet_convert.checkpoint.structure import read_structure
from movinet_convert.checkpoint.tensor_bundle import BundleReader
from movinet_convert.download.addresses import Address, source_of
from movinet_convert.download.failures import shortened
from movinet_convert.download.records import Records, locked
from movinet_convert.download.released_tensors import released_tensors
from movinet_convert.errors import CheckpointError, DownloadError
from movinet_convert.files.reading import file_sha256
from movinet_convert.files.writing import move_together
from movinet_convert.variants import Release, SourceName, Variant

RECORD_NAME = "recorded_digests.json"
MAX_RELEASE_BYTES = 1 << 28  # the largest release, a5-stream, is 127 MB
MAX_PROBLEM_CHARACTERS = 1000  # messages may quote names of any length from an archive
END_OF_TAR = bytes(1024)  # two zero blocks (POSIX pax, "ustar Interchange Format")


@dataclass(frozen=True)
class FetchedRelease:
    """A release in the cache. ``path`` is an uncompressed tar with this ``sha256`` and size.

    ``source``: where it came from, with the ``version`` on Kaggle. ``address``: the URL or file,
    without any password or signature. ``legacy``: it has the older 3D convolutions.
    ``first_use``: its digest was recorded by this run. ``downloaded``: it was not in the cache.
    ``pinned``: its digest is published (``variants.RELEASES``) or was given by the caller;
    otherwise it is only known to contain the network that was published under this name.
    """

    variant: str
    path: Path
    sha256: str
    bytes: int
    source: SourceName
    version: int | None
    address: str
    legacy: bool
    first_use: bool
    downloaded: bool
    pinned: bool


class RecordedDigest(pydantic.BaseModel):
    """The digest of a release at first use; ``checked``: it contained the expected network."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    bytes: int = pydantic.Field(gt=0)
    source: str
    date: datetime.date
    checked: bool = False


@dataclass(frozen=True)
class CacheEntry:
    """The file of a release in the cache; ``pinned`` is its published size and digest, if known."""

    path: Path
    variant: Variant
    address: Address
    pinned: Release | None
    lock_seconds: float

    @property
    def label(self) -> str:
        return f"{self.variant.name} (legacy)" if self.address.legacy else self.variant.name

    @property
    def record_path(self) -> Path:
        return self.path.with_name(RECORD_NAME)

    @property
    def max_bytes(self) -> int:
        return self.pinned.bytes if self.pinned else MAX_RELEASE_BYTES

    def locked(self) -> AbstractContextManager[None]:
        """Exclude other processes that write to the file."""
        return locked(self.path, self.lock_seconds)

    def cached(self) -> FetchedRelease | None:
        """The release, if the cache has it; a file that the user copied there is checked first."""
        # Complete files are never changed in place, so reading them needs no lock.
        if found := self.find():
            return found
        if self._expected() is not None or not self.path.is_file():
            return None
        with self.locked():
            return self.find() or self.accept(self.path, str(self.path))

    def find(self) -> FetchedRelease | None:
        """The release, if the cached file has the expected digest."""
        expected = self._expected()
        if expected is None or not self.path.is_file():
            return None
        if file_sha256(self.path) != expected.sha256:
            return None
        if isinstance(expected, RecordedDigest) and not expected.checked:
            self._check(self.path, str(self.path))
        known = (
            expected.source if isinstance(expected, RecordedDigest) else self.address.published_at
        )
        return self._fetched(expected.sha256, known)

    def accept(self, received: Path, source: str) -> FetchedRelease:
        """Check a complete tar, move it into the cache and, at first use, record its digest."""
        self._check(received, source)
        digest, expected = file_sha256(received), self._expected()
        if expected is not None and digest != expected.sha256:
            raise self._mismatch(digest, expected, source)
        if received != self.path:
            move_together([(received, self.path)])
        if expected is None:
            self._record(digest, source)
        return self._fetched(
            digest, source, first_use=expected is None, downloaded=received != self.path
        )

    def _expected(self) -> Release | RecordedDigest | None:
        return self.pinned or self._records.read().get(self.path.name)

    def _mismatch(
        self, digest: str, expected: Release | RecordedDigest, source: str
    ) -> DownloadError:
        origin, advice = "pinned", ""
        if isinstance(expected, RecordedDigest):
            origin = f"recorded from {shortened(expected.source)} on {expected.date}"
            advice = f"; if you trust it, remove {self.path.name} from {self.record_path}"
        return DownloadError(
            f"{source} has sha256 {digest}, but {expected.sha256} is {origin} for "
            f"{self.label}; it is damaged or another file: try again, or use another --source"
            f"{advice}.",
            reason=f"it sent another file, whose sha256 is not the one {origin}",
        )

    @property
    def _records(self) -> Records[RecordedDigest]:
        return Records(self.record_path, RecordedDigest)

    def _record(self, digest: str, source: str) -> None:
        entry = RecordedDigest(
            sha256=digest,
            bytes=self.path.stat().st_size,
            source=source,
            date=datetime.datetime.now(datetime.timezone.utc).date(),
            checked=True,
        )
        self._records.write(self.path.name, entry, self.lock_seconds)

    def _fetched(
        self, digest: str, address: str, *, first_use: bool = False, downloaded: bool = False
    ) -> FetchedRelease:
        return FetchedRelease(
            variant=self.variant.name,
            path=self.path,
            sha256=digest,
            bytes=self.path.stat().st_size,
            source="kaggle" if self.address.source == "kaggle" else source_of(address),
            version=self.address.version,
            address=address,
            legacy=self.address.legacy,
            first_use=first_use,
            downloaded=downloaded,
            pinned=self.pinned is not None,
        )

    def _check(self, path: Path, source: str) -> None:
        """Raise DownloadError for an error page, an incomplete file or an unsafe archive.

        Unless its digest is pinned, the archive must contain the variant's network with 600
        classes, and every checksum in it must match.
        """
        try:
            archive = open_archive(path)
            with path.open("rb") as file:
                is_html = file.read(100).lstrip().startswith(b"<")
                file.seek(max(0, path.stat().st_size - len(END_OF_TAR)))
                complete = file.read() == END_OF_TAR
            if archive is None or not archive.members or not complete:
                what = "a web page, and not" if is_html else "not"
                raise CheckpointError(f"it is {what} a complete tar archive.")
            if self.pinned is None:
                _check_network(path, self.variant, legacy=self.address.legacy)
        except CheckpointError as error:
            problem = shortened(str(error), MAX_PROBLEM_CHARACTERS)
            raise DownloadError(
                f"{source} is not a release of {self.label}; check that no proxy replaced it, use "
                f"another --source, or convert it as your own checkpoint with --checkpoint: "
                f"{problem}",
                reason=f"it did not send a release of {self.label}: {problem.rstrip('.')}",
            ) from error


def _check_network(path: Path, variant: Variant, *, legacy: bool) -> None:
    files, prefix = find_bundle(path)
    bundle = BundleReader(files.open, prefix)
    for name, entry in bundle.entries.items():
        bundle.read_string(name) if entry.is_string else bundle.read(name)
    checkpoint = open_checkpoint(path)
    released_tensors(checkpoint, read_structure(checkpoint), variant, legacy=legacy)
