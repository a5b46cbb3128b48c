"""Digests of the tensors of the releases, by which one is recognised whatever its file is called.

The two sources store the same weights in archives that differ, so a release has one digest more:
that of its tensors. Those in ``variants.TENSOR_DIGESTS`` are pinned; any other is trusted on first
use and recorded in the cache. From then on other tensors of the same release, from either source,
are an error.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic

from movinet_convert.download.cache import FetchedRelease
from movinet_convert.download.records import Records, cache_folder
from movinet_convert.download.request import Limits
from movinet_convert.variants import TENSOR_DIGESTS, is_published

RECORD_NAME = "recorded_tensors.json"

Trust = Literal["pinned", "first use"]


class RecordedTensors(pydantic.BaseModel):
    """The digest of a release's tensors at first use, and where they came from.

    ``archive`` is its file in the cache. ``published``: the digest of that archive is published, so
    that its tensors are as certain as pinned ones.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    address: str
    archive: str
    date: datetime.date
    published: bool


@dataclass(frozen=True)
class KnownTensors:
    """The tensors of the release ``name``, such as ``a0-stream`` or ``a0-stream legacy``.

    ``recorded`` is None if they are pinned.
    """

    name: str
    sha256: str
    recorded: RecordedTensors | None = None

    @property
    def trust(self) -> Trust:
        pinned = self.recorded is None or self.recorded.published
        return "pinned" if pinned else "first use"

    def __str__(self) -> str:
        if self.recorded is None or self.recorded.published:
            return f"the released Kinetics-600 weights of {self.name}"
        return (
            f"the Kinetics-600 weights of {self.name} as fetched from {self.recorded.address} on "
            f"{self.recorded.date} (trust on first use)"
        )


def known_by_digest() -> dict[str, KnownTensors]:
    """Every release whose tensors are pinned, or were recorded in the cache, by their digest."""
    recorded = _records(cache_folder()).read()
    return {
        **{
            entry.sha256: KnownTensors(name, entry.sha256, entry)
            for name, entry in recorded.items()
        },
        **{sha256: KnownTensors(name, sha256) for name, sha256 in TENSOR_DIGESTS.items()},
    }


def expected(release: FetchedRelease, sha256: str, pinned: str | None = None) -> KnownTensors:
    """The tensors that a fetched release must have; at first use those with ``sha256``.

    ``pinned`` is a digest from a catalogue. Raises CacheError.
    """
    name = f"{release.variant} legacy" if release.legacy else release.variant
    pinned = pinned or TENSOR_DIGESTS.get(name)
    if pinned is not None:
        return KnownTensors(name, pinned)
    records = _records(release.path.parent)
    published = is_published(release.sha256)
    recorded = records.read().get(name)
    if recorded is None or (recorded.sha256 == sha256 and published and not recorded.published):
        recorded = RecordedTensors(
            sha256=sha256,
            address=release.address,
            archive=release.path.name,
            date=datetime.datetime.now(datetime.timezone.utc).date(),
            published=published,
        )
        records.write(name, recorded, Limits().lock_seconds)
    return KnownTensors(name, recorded.sha256, recorded)


def _records(folder: Path) -> Records[RecordedTensors]:
    return Records(folder / RECORD_NAME, RecordedTensors)
