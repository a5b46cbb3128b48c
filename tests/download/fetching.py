"""What the tests fetch, with short limits, from a mirror or by way of Kaggle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from movinet_convert import variants
from movinet_convert.download.fetch import FetchedRelease, Limits, fetch_release
from movinet_convert.errors import DownloadError
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import Release
from tests.helpers import fetch_server as servers

VARIANT = get_variant("a0-base")  # without a published digest
ARCHIVE = VARIANT.archive_name
KAGGLE_ARCHIVE = "movinet_a0_base_kaggle_v3.tar"
SHORT_LIMITS = Limits(
    connect_seconds=10, read_seconds=10, attempts=3, first_pause_seconds=0.01, lock_seconds=30
)
SHORT_TIMEOUT = replace(SHORT_LIMITS, read_seconds=0.3)
# A digest that the caller pins makes any bytes the release.
BODY = servers.noise_tar()
DIGEST = hashlib.sha256(BODY).hexdigest()
PINNED = Release(len(BODY), DIGEST)
SIGNATURE = "X-Goog-Signature=c0ffee"
NOWHERE = "http://127.0.0.1:1"


def fetch_from(source: object, known: Release | None = PINNED, **options: Any) -> FetchedRelease:
    pins = {"model-garden": known, "kaggle": known} if known else None
    settings = {"variant": VARIANT, "limits": SHORT_LIMITS, **options}
    return fetch_release(source=str(source), known=pins, **settings)


@dataclass
class Mirror:
    """Fetches from the server or the folder that a test gives it, as a mirror."""

    source: str = "mirror"
    version: int | None = None
    file_name: str = ARCHIVE
    path: str = f"/models/{ARCHIVE}"  # of the request to the server

    def __call__(self, root: object, **options: Any) -> FetchedRelease:
        return fetch_from(root, **options)

    def address(self, root: str) -> str:
        """The address that the release is said to come from."""
        return f"{root}/{ARCHIVE}"

    def unpinned(self, root: object, **options: Any) -> FetchedRelease:
        return self(root, known=None, **options)

    def assert_nothing_unfinished(self, cache: Path) -> None:
        left = {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}
        assert left <= {self.file_name, "recorded_digests.json"}


@dataclass
class Kaggle(Mirror):
    """Fetches from Kaggle, which redirects to a signed address of the server that a test gives it.

    Whatever happens, the signature is not shown.
    """

    source: str = "kaggle"
    version: int | None = 3
    file_name: str = KAGGLE_ARCHIVE
    path: str = f"/models/object?{SIGNATURE}"
    targets: list[str] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, root: object, **options: Any) -> FetchedRelease:
        if isinstance(root, Path):
            archive = root / options.get("variant", VARIANT).archive_name
            with servers.serve(archive.read_bytes(), servers.gzip_file) as server:
                return self(server.root, **options)
        self.targets.append(f"{root}/object?{SIGNATURE}")
        said: list[str] = []
        try:
            return fetch_from("kaggle", **{"notice": said.append, **options})
        except DownloadError as error:
            said += [str(error), error.reason]
            raise
        finally:
            assert "c0ffee" not in repr(said)

    def address(self, root: str) -> str:
        return f"{variants.KAGGLE_ROOT}/a0-base-kinetics-600-classification/3/download"

    def redirect(self, handler: servers.Handler, body: bytes) -> None:
        servers.redirect(self.targets[-1])(handler, body)


@contextmanager
def kaggle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """Fetches from a Kaggle at 127.0.0.1.

    Its address is undone with the test's other patches: the test may name another, and whichever
    was undone last would stay.
    """
    fetch = Kaggle()
    with servers.serve(b"", fetch.redirect) as host:
        monkeypatch.setattr(variants, "KAGGLE_ROOT", host.root)
        fetch.requests = host.requests
        yield fetch
