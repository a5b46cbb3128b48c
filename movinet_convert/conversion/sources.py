"""Where a checkpoint comes from: a path, Google's release, or made here by the official model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from movinet_convert.download.fetch import FetchedRelease
from movinet_convert.files.reading import file_sha256
from movinet_convert.variants import RELEASES, Variant
from movinet_convert.weights.file import SourceKind


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk, what to call it, and how it came here.

    ``kind``: ``given`` by the user, downloaded or copied as a ``release``, or ``synthetic``.
    """

    path: Path
    name: str
    kind: Literal["given", "release", "synthetic"]
    archive_sha256: str | None = None

    @property
    def provenance(self) -> SourceKind:
        """What the weights are, as far as it is known.

        A ``release`` is recognised by its digest, whoever named it. Weights from a release's
        address whose digest this package does not know are ``unpinned``: they are whatever the
        server sent. What a catalogue pins beyond that makes no difference here, so that a
        checkpoint converts to the same bytes with and without it.
        """
        if self.archive_sha256 in {release.sha256 for release in RELEASES.values()}:
            return "release"
        kinds: dict[str, SourceKind] = {
            "given": "checkpoint",
            "release": "unpinned",
            "synthetic": "synthetic",
        }
        return kinds[self.kind]


def given(path: str | os.PathLike[str]) -> Source:
    """A checkpoint that the user names: folder, prefix or file."""
    checkpoint = Path(path)
    digest = file_sha256(checkpoint) if checkpoint.is_file() else None
    # A file name may hold bytes that are no text, which neither YAML nor JSON can.
    name = os.fsencode(checkpoint.name).decode("utf-8", "replace")
    return Source(checkpoint, name, "given", digest)


@contextmanager
def synthetic(variant: Variant, seed: int = 0) -> Iterator[Source]:
    """A seeded checkpoint in the released layout, written by the official model, for a while."""
    from movinet_convert.parity.synthetic import write_synthetic_archive

    with tempfile.TemporaryDirectory(prefix="movinet-synthetic-") as folder:
        archive = write_synthetic_archive(variant, Path(folder), seed=seed)
        # TensorFlow writes the time into its files, so a digest of them would tell nothing.
        yield Source(archive, f"synthetic, seed {seed}", "synthetic")


def release(fetched: FetchedRelease) -> Source:
    """Google's release, once ``fetch.fetch_release`` has got it."""
    return Source(fetched.path, fetched.path.name, "release", fetched.sha256)
