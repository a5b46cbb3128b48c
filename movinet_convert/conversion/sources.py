"""Sources of checkpoints: the user, Google's releases, or the official model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from movinet_convert.download.fetch import FetchedRelease
from movinet_convert.download.known_tensors import KnownTensors
from movinet_convert.files.reading import file_sha256
from movinet_convert.variants import Variant, is_published
from movinet_convert.weights.header import SourceKind


@dataclass(frozen=True)
class Source:
    """A checkpoint on disk: ``given`` by the user, a downloaded ``release``, or ``synthetic``.

    ``fetched`` says where a release came from, and ``pinned_tensors`` is the digest of its tensors
    in a catalogue. ``known`` is the release that has these tensors, once they were read.
    """

    path: Path
    name: str
    kind: Literal["given", "release", "synthetic"]
    archive_sha256: str | None = None
    fetched: FetchedRelease | None = None
    pinned_tensors: str | None = None
    known: KnownTensors | None = None

    @property
    def provenance(self) -> SourceKind:
        """The kind of weights, as far as known.

        A ``release`` is identified by a published digest, of its archive or its tensors, even if
        the user gave its path. Weights as they came from the URL of another release are
        ``unpinned``, even if a catalogue pins them, so that a checkpoint converts to the same bytes
        with any catalogue.
        """
        if is_published(self.archive_sha256):
            return "release"
        if self.known is not None:
            return "release" if self.known.trust == "pinned" else "unpinned"
        kinds: dict[str, SourceKind] = {
            "given": "checkpoint",
            "release": "unpinned",
            "synthetic": "synthetic",
        }
        return kinds[self.kind]

    @property
    def fetched_from(self) -> dict[str, Any]:
        """Where a release came from, for the manifest; a folder of the user's is not named."""
        if self.fetched is None:
            return {}
        url = self.fetched.address if "://" in self.fetched.address else None
        return {
            "fetched_from": self.fetched.source,
            "version": self.fetched.version,
            "url": url,
        }


def given(path: str | os.PathLike[str]) -> Source:
    """A checkpoint given by the user: a folder, prefix or file."""
    checkpoint = Path(path)
    digest = file_sha256(checkpoint) if checkpoint.is_file() else None
    # A file name may contain bytes that are not UTF-8; YAML and JSON may not.
    name = os.fsencode(checkpoint.name).decode("utf-8", "replace")
    return Source(checkpoint, name, "given", digest)


@contextmanager
def synthetic(variant: Variant, seed: int = 0) -> Iterator[Source]:
    """A temporary checkpoint of random seeded weights, in the layout of the releases."""
    from movinet_convert.parity.synthetic import write_synthetic_archive

    with tempfile.TemporaryDirectory(prefix="movinet-synthetic-") as folder:
        archive = write_synthetic_archive(variant, Path(folder), seed=seed)
        # No digest: TensorFlow writes the time into its files.
        yield Source(archive, f"synthetic, seed {seed}", "synthetic")


def release(fetched: FetchedRelease, pinned_tensors: str | None = None) -> Source:
    """A release of Google's, as returned by ``download.fetch_release``."""
    name = fetched.path.name
    return Source(fetched.path, name, "release", fetched.sha256, fetched, pinned_tensors)
