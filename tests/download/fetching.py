"""What the tests fetch, with short limits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from movinet_convert.download.fetch import FetchedRelease, Limits, fetch_release
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import Release
from tests.helpers import fetch_server as servers

VARIANT = get_variant("a0-base")  # without a published digest
ARCHIVE = VARIANT.archive_name
SHORT_LIMITS = Limits(
    connect_seconds=10, read_seconds=10, attempts=3, first_pause_seconds=0.01, lock_seconds=30
)
SHORT_TIMEOUT = replace(SHORT_LIMITS, read_seconds=0.3)
# A digest that the caller pins makes any bytes the release.
BODY = servers.noise_tar()
DIGEST = hashlib.sha256(BODY).hexdigest()
PINNED = Release(len(BODY), DIGEST)


def fetch(root: object, **options: Any) -> FetchedRelease:
    settings = {"variant": VARIANT, "limits": SHORT_LIMITS, "known": PINNED, **options}
    return fetch_release(source_root=str(root), **settings)


def fetch_unpinned(root: object, **options: Any) -> FetchedRelease:
    return fetch(root, known=None, **options)


def assert_nothing_unfinished(cache: Path) -> None:
    left = {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}
    assert left <= {ARCHIVE, "recorded_digests.json"}
